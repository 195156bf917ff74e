"""A teacher's network: the next frame of an utterance from the semantic ids around it, the speaker, the frames before.

Knows nothing of datasets, codecs or the Trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput


@strict
class FrameTeacherConfig(PreTrainedConfig):
    """`frame_size` numbers a frame from the semantic ids within `context` of it, of `vocab_size`, from its speaker (of
    `speakers`) and the `history` frames before it; `num_layers` blocks of `hidden_size`.

    ratio: semantic ids a frame."""

    model_type = "bark_frame_teacher"

    vocab_size: int = 10_000
    frame_size: int = 128
    speakers: list[str] = field(default_factory=lambda: [""])
    ratio: float = 49.9 / 75
    context: int = 10
    history: int = 3
    embedding_size: int = 24
    hidden_size: int = 512
    num_layers: int = 2
    initializer_range: float = 0.02

    def validate_architecture(self):
        for name in ("vocab_size", "frame_size", "history", "embedding_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 1.")
        for name in ("context", "num_layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 0.")
        if not self.speakers or self.ratio <= 0:
            raise ValueError(f"`speakers` must name one at least, `ratio` ({self.ratio}) must be above 0.")

    def places(self, frames: int) -> Tensor:
        """(frames,): which semantic id is of the moment of a frame."""
        return (torch.arange(frames, dtype=torch.float64) * self.ratio).long()


@dataclass
class FrameTeacherOutput(ModelOutput):
    """logits: (B, frame_size), standardized; loss: mean squared error of those."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class FrameTeacher(PreTrainedModel):
    """Blocks of two linear layers with a shortcut; most of its weights are theirs, four squares of 512 by default."""

    config_class = FrameTeacherConfig

    def __init__(self, config: FrameTeacherConfig):
        super().__init__(config)
        size, hidden = config.embedding_size, config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size + 1, size)  # the last: outside of the utterance
        self.speaker = nn.Embedding(len(config.speakers), size)
        given = (2 * config.context + 2) * size + config.history * config.frame_size
        self.first = nn.Linear(given, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
            for _ in range(config.num_layers)
        )
        self.last = nn.Sequential(nn.GELU(), nn.Linear(hidden, config.frame_size))
        self.register_buffer("mean", torch.zeros(config.frame_size))
        self.register_buffer("deviation", torch.ones(config.frame_size))
        self.register_buffer("begin", torch.zeros(len(config.speakers), config.frame_size))  # before the first frame
        self.register_buffer("usual", torch.zeros(len(config.speakers), config.frame_size))  # mean of what it says
        self.register_buffer("spread", torch.ones(len(config.speakers), config.frame_size))  # of recordings, for its 1
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self:  # files written before these two were there lack them
            init.zeros_(module.usual)
            init.ones_(module.spread)

    def forward(self, semantic_ids: Tensor, speaker: Tensor, previous: Tensor, labels: Tensor | None = None):
        """semantic_ids (B, 2 context + 1), speaker (B,), previous (B, history, D), labels (B, D): frames as the codec
        has them."""
        previous = (previous - self.mean) / self.deviation
        hidden = self.first(
            torch.cat([self.embedding(semantic_ids).flatten(1), self.speaker(speaker), previous.flatten(1)], 1)
        )
        for block in self.blocks:
            hidden = hidden + block(hidden)
        said = self.last(hidden)
        loss = None if labels is None else (said - (labels - self.mean) / self.deviation).square().mean()
        return FrameTeacherOutput(loss=loss, logits=said)

    @torch.no_grad()
    def speak(self, semantic_ids: Sequence[Tensor], speakers: Sequence[str]) -> list[Tensor]:
        """(S_i,) ids of utterances -> their frames (T_i, D), each said from those that it said before.

        A mean varies less than what it is the mean of: `vivid` gives that back."""
        lengths = [int(len(one) / self.config.ratio) for one in semantic_ids]
        ids = torch.stack([self.windows(one, max(lengths)) for one in semantic_ids], 1).to(self.device)
        speaker = torch.tensor([self.config.speakers.index(one) for one in speakers], device=self.device)
        previous, said = self.begin[speaker][:, None].expand(-1, self.config.history, -1), []
        for around in ids:
            said.append(self(around, speaker, previous).logits * self.deviation + self.mean)
            previous = torch.cat([previous[:, 1:], said[-1][:, None]], 1)
        return [one[:length] for one, length in zip(torch.stack(said, 1), lengths, strict=True)]

    def vivid(self, frames: Tensor, speaker: str) -> Tensor:
        """(T, D) as `speak` said them -> further from their mean, at most as far as recordings of the speaker are from
        theirs, which is known once it has been trained (Toda and Tokuda, 2007: global variance)."""
        who = self.config.speakers.index(speaker)
        return self.usual[who] + (frames - self.usual[who]) * self.spread[who]

    def windows(self, semantic_ids: Tensor, frames: int) -> Tensor:
        """(S,) -> (frames, 2 context + 1): the ids around each frame."""
        context = self.config.context
        outside = semantic_ids.new_full((context,), self.config.vocab_size)
        padded = torch.cat([outside, semantic_ids, outside])
        at = self.config.places(frames)[:, None] + torch.arange(2 * context + 1)
        return padded[at.clamp(max=len(padded) - 1)]
