"""A teacher's network: the frames of an utterance from its semantic ids, their time, and who speaks.

Knows nothing of datasets, codecs or the Trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

_SPANS = (0.7, 2.0, 6.0)  # ids: near which distances from a stretch's end are told apart
_FAR = 40.0  # ids: ends further away than this are as far
_CHUNK = 16_384  # frames that are said at once


@strict
class FrameTeacherConfig(PreTrainedConfig):
    """`frame_size` numbers a frame from the stretches of equal units within `context` of the one that it lies in, and
    from its speaker (of `speakers`); `num_layers` blocks of `hidden_size`.

    states: how many semantic ids, of `vocab_size`, are of one unit, in the order of time: 3 where a phone has its
    beginning, its middle and its end. ratio: semantic ids a frame. timed: stretches end between two ids, and the
    network foretells where."""

    model_type = "bark_frame_teacher"

    vocab_size: int = 10_000
    states: int = 1
    frame_size: int = 128
    speakers: list[str] = field(default_factory=lambda: [""])
    ratio: float = 49.9 / 75
    timed: bool = False
    context: int = 8
    embedding_size: int = 24
    hidden_size: int = 512
    num_layers: int = 3
    initializer_range: float = 0.02

    def validate_architecture(self):
        for name in ("vocab_size", "states", "frame_size", "embedding_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 1.")
        for name in ("context", "num_layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must be at least 0.")
        if not self.speakers or self.ratio <= 0:
            raise ValueError(f"`speakers` must name one at least, `ratio` ({self.ratio}) must be above 0.")

    @property
    def units(self) -> int:
        return -(-self.vocab_size // self.states)


class Timeline:
    """Utterances one after the other, as stretches of one unit, and the moments of their frames; times in ids.

    units, speakers, ends, grid (N,) and counts (N, states): of each stretch which it is and who says it, when it ends,
    when its last id does, and how many ids of each state it has; between utterances lie stretches of no length,
    `config.units`. moments (F,): of each frame. Times are float64, as they count on for hours."""

    def __init__(
        self,
        config: FrameTeacherConfig,
        semantic_ids: Sequence[Tensor],
        speakers: Sequence[int],
        frames: Sequence[int],
        ends: Sequence[Tensor | None] | None = None,
    ):
        """semantic_ids (S_i,), speakers and numbers of frames of each utterance; ends (S_i,): when what an id belongs
        to ends, in ids from the utterance's beginning, or None where stretches end with their last id.

        Raises ValueError for an utterance without ids."""
        outside = (config.context + 1,) * 2
        ends = ends or [None] * len(semantic_ids)
        units, counts, who, moments, start = [], [], [], [], 0
        grid: list[Tensor] = []
        exact: list[Tensor] = []
        for ids, speaker, count, own in zip(semantic_ids, speakers, frames, ends, strict=True):
            if not len(ids):
                raise ValueError("An utterance has no semantic ids; each needs one at least.")
            unit, state = ids // config.states, ids % config.states
            goes_on = (unit[1:] == unit[:-1]) & (state[1:] >= state[:-1])
            last = torch.cat([torch.where(~goes_on)[0], torch.tensor([len(ids) - 1])])
            states = torch.zeros(len(last), config.states)
            number = torch.searchsorted(last, torch.arange(len(ids)))
            states.index_put_((number, state), torch.ones(()), accumulate=True)
            after = (last + 1).double()
            end = after if own is None else own.double()[last].clamp(after - 0.5, after + 0.5)
            end[-1] = len(ids)
            units.append(pad(unit[last], outside, value=config.units))
            counts.append(pad(states, (0, 0, *outside)))
            who.append(torch.full((len(units[-1]),), speaker))
            for times, one in ((grid, after), (exact, end)):
                times.append(start + torch.cat([one.new_zeros(outside[0]), one, one[-1].expand(outside[1])]))
            moment = (torch.arange(count, dtype=torch.float64) + 0.5) * config.ratio
            moments.append(start + moment.clamp(max=len(ids) - 1e-3))
            start += len(ids)
        self.context = config.context
        self.units, self.counts, self.speakers = torch.cat(units), torch.cat(counts), torch.cat(who)
        self.grid, self.moments = torch.cat(grid), torch.cat(moments)
        said = self.units != config.units
        self.inner = torch.where(said & said.roll(-1))[0]  # stretches that another one follows
        self.ends = torch.cat(exact)

    def given(self, at: Tensor) -> dict[str, Tensor]:
        """Numbers of frames (B,) -> what `FrameTeacher` is given to say them."""
        moments = self.moments[at]
        places = torch.searchsorted(self.ends, moments, right=True)  # the stretches that they lie in
        edges = places[:, None] + torch.arange(-self.context - 1, self.context + 1)
        ends = (self.ends[edges] - moments[:, None]).float()
        return {"units": self.units[self._near(places)], "ends": ends, "speaker": self.speakers[places]}

    def asked(self, stretches: Tensor) -> dict[str, Tensor]:
        """(B,) -> what `FrameTeacher.late` is given to tell when they end."""
        near = self._near(stretches)
        return {"units": self.units[near], "counts": self.counts[near], "speaker": self.speakers[stretches]}

    def late(self, stretches: Tensor) -> Tensor:
        """(B,) -> (B,): how far behind its last id each ends, -0.5 to 0.5."""
        return (self.ends[stretches] - self.grid[stretches]).float()

    def _near(self, stretches: Tensor) -> Tensor:
        return stretches[:, None] + torch.arange(-self.context, self.context + 1)


@dataclass
class FrameTeacherOutput(ModelOutput):
    """logits: (B, frame_size), standardized; loss: their mean squared error, plus in squared ids that of the ends."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class FrameTeacher(PreTrainedModel):
    """Blocks of two linear layers with a shortcut; most of its weights are theirs, six squares of 512 by default."""

    config_class = FrameTeacherConfig

    def __init__(self, config: FrameTeacherConfig):
        super().__init__(config)
        size, hidden, seen = config.embedding_size, config.hidden_size, 2 * config.context + 1
        self.embedding = nn.Embedding(config.units + 1, size)  # the last: outside of the utterance
        self.speaker = nn.Embedding(len(config.speakers), size)
        self.first = nn.Linear((seen + 1) * size + (seen + 1) * (len(_SPANS) + 1), hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
            for _ in range(config.num_layers)
        )
        self.last = nn.Sequential(nn.GELU(), nn.Linear(hidden, config.frame_size))
        if config.timed:
            self.clock = nn.Sequential(
                nn.Linear((seen + 1) * size + seen * config.states, hidden),
                nn.GELU(),
                nn.Linear(hidden, hidden),
                nn.GELU(),
                nn.Linear(hidden, 1),
            )
        self.register_buffer("mean", torch.zeros(config.frame_size))
        self.register_buffer("deviation", torch.ones(config.frame_size))
        self.post_init()

    def forward(
        self,
        units: Tensor,
        ends: Tensor,
        speaker: Tensor,
        labels: Tensor | None = None,
        asked: dict[str, Tensor] | None = None,
        late: Tensor | None = None,
    ):
        """units (B, 2 context + 1) and ends (B, 2 context + 2), in ids from a frame's moment, of the stretches around
        it; speaker (B,).

        labels (B, D): frames as the codec has them. asked: of stretches, what `late` takes, and late (B,): what it
        should tell."""
        times = [(ends / span).tanh() for span in _SPANS] + [ends.clamp(-_FAR, _FAR) / 15]
        hidden = self.first(torch.cat([self.embedding(units).flatten(1), self.speaker(speaker), *times], 1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        said = self.last(hidden)
        loss = None
        if labels is not None:
            loss = (said - (labels - self.mean) / self.deviation).square().mean()
            if asked is not None and late is not None:
                loss = loss + (self.late(**asked) - late).square().mean()
        return FrameTeacherOutput(loss=loss, logits=said)

    def late(self, units: Tensor, counts: Tensor, speaker: Tensor) -> Tensor:
        """units (B, 2 context + 1) and counts (B, 2 context + 1, states) of stretches and their neighbours, speaker
        (B,) -> (B,): how far behind its last id each probably ends, -0.5 to 0.5."""
        seen = [self.embedding(units).flatten(1), counts.flatten(1), self.speaker(speaker)]
        return self.clock(torch.cat(seen, 1))[:, 0].tanh() / 2

    @torch.no_grad()
    def speak(self, semantic_ids: Sequence[Tensor], speakers: Sequence[str]) -> list[Tensor]:
        """(S_i,) ids of utterances, at least one each, on the CPU -> their frames (T_i, D)."""
        lengths = [int(len(one) / self.config.ratio) for one in semantic_ids]
        line = Timeline(self.config, semantic_ids, [self.config.speakers.index(one) for one in speakers], lengths)
        if self.config.timed:
            for at in line.inner.split(_CHUNK):
                line.ends[at] += self.late(**self._here(line.asked(at))).cpu()
        said = [self(**self._here(line.given(at))).logits for at in torch.arange(sum(lengths)).split(_CHUNK)]
        return list((torch.cat(said) * self.deviation + self.mean).split(lengths))

    def _here(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: one.to(self.device) for name, one in given.items()}
