"""A teacher of the acoustic stages: semantic ids in, the frames of a codec out, and of those the codes to be learned.

A recording's codes hold much that its semantic ids do not tell, and a stage that learns them by cross-entropy spends
itself on that noise. The teacher is a regression, so it says a mean, which has none: going on from its own frames it
speaks every utterance of a tokenized dataset again, and the codes of that are what `utterances` gives the stages to
learn (knowledge distillation of whole sequences: Kim and Rush, 2016). Knows nothing of stages, windows or audio."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, load_from_disk
from datasets.utils import tqdm
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import HfArgumentParser, PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.utils import ModelOutput

from ..codec import BarkCodec
from ..files import whole_folder
from ..modeling_bark import BarkModel
from ..vocabulary import Vocabulary
from .dataset import FEATURES
from .run import last_checkpoint
from .utterances import TAUGHT

MODEL, TAUGHT_DATA = "model", "data"  # folders of the results, in the output folder
FRAMES = "frames"  # a column (T, D): what the teacher learns in place of what `codes` stand for
_ROWS = 256  # utterances that the teacher speaks at once
_HEARD = 100_000  # frames that their mean and deviation are taken from
_LEAST = 1e-3  # standard deviation of a number that says something


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


@dataclass
class FrameTeacherOutput(ModelOutput):
    """logits: (B, frame_size), standardized; loss: mean squared error of those."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class FrameTeacher(PreTrainedModel):
    """The next frame of an utterance, by blocks of two linear layers with a shortcut; 1.4 M weights by default."""

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
        self.register_buffer("begin", torch.zeros(len(config.speakers), config.frame_size))
        self.post_init()

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
        """(S_i,) ids of utterances -> their frames (T_i, D), each said from those that it said before."""
        lengths = [int(len(one) / self.config.ratio) for one in semantic_ids]
        ids = torch.stack([self.windows(one, max(lengths)) for one in semantic_ids], 1).to(self.device)
        speaker = torch.tensor([self.config.speakers.index(one) for one in speakers], device=self.device)
        previous, said = self.begin[speaker][:, None].expand(-1, self.config.history, -1), []
        for around in ids:
            said.append(self(around, speaker, previous).logits * self.deviation + self.mean)
            previous = torch.cat([previous[:, 1:], said[-1][:, None]], 1)
        return [one[:length] for one, length in zip(torch.stack(said, 1), lengths, strict=True)]

    @torch.no_grad()
    def standardize(self, frames: "Frames") -> None:
        """Takes mean and deviation from some frames, and each speaker's beginning from the first of its utterances; a
        speaker without one begins with the mean."""
        some = frames.frames(torch.randperm(len(frames))[:_HEARD])
        self.mean.copy_(some.mean(0))
        self.deviation.copy_(some.std(0).clamp(min=_LEAST))
        firsts = frames.frames(frames.starts)
        for speaker in range(len(self.begin)):
            own = firsts[frames.speakers == speaker]
            self.begin[speaker] = own.mean(0) if len(own) else self.mean

    def windows(self, semantic_ids: Tensor, frames: int) -> Tensor:
        """(S,) -> (frames, 2 context + 1): the ids around each frame."""
        context = self.config.context
        outside = semantic_ids.new_full((context,), self.config.vocab_size)
        padded = torch.cat([outside, semantic_ids, outside])
        at = (torch.arange(frames) * self.config.ratio).long()[:, None] + torch.arange(2 * context + 1)
        return padded[at.clamp(max=len(padded) - 1)]


class Frames(torch.utils.data.Dataset):
    """Every frame of some utterances, with what the teacher is given to foretell it."""

    def __init__(self, table: Any, codec: BarkCodec, config: FrameTeacherConfig):
        """table: rows of `semantic_ids`, `codes`, `speaker` and, where something better than the codec's encoder
        measured them, `frames` (T, D) in the codec's own terms."""
        self.codec, self.config = codec, config
        outside = np.full(config.context, config.vocab_size, np.int32)
        ids, codes, places, starts, counts, speakers, measured = [], [], [], [], [], [], []
        width = frames = 0
        columns = [name for name in ("semantic_ids", "codes", "speaker", FRAMES) if name in table.column_names]
        for row in table.select_columns(columns).with_format("numpy"):
            own, heard = np.asarray(row["semantic_ids"], np.int32), np.stack(row["codes"]).astype(np.int16)
            if FRAMES in columns:
                measured.append(np.stack(row[FRAMES]).astype(np.float32)[: heard.shape[1]])
                heard = heard[:, : len(measured[-1])]
            ids += [outside, own, outside]
            codes.append(heard)
            at = (np.arange(heard.shape[1]) * config.ratio).astype(np.int64)
            places.append(width + at.clip(max=len(own) - 1))
            starts.append(frames)
            counts.append(heard.shape[1])
            speakers.append(config.speakers.index(row["speaker"] or ""))
            width, frames = width + len(own) + 2 * config.context, frames + heard.shape[1]
        self.ids = torch.from_numpy(np.concatenate(ids))
        self.codes = torch.from_numpy(np.concatenate(codes, axis=1))
        self.measured = torch.from_numpy(np.concatenate(measured)) if measured else None
        self.places = torch.from_numpy(np.concatenate(places))  # where a frame's ids begin
        self.starts, self.counts = torch.tensor(starts), torch.tensor(counts)
        self.speakers = torch.tensor(speakers)
        self.rows = torch.arange(len(starts)).repeat_interleave(self.counts)

    def __len__(self) -> int:
        return len(self.places)

    def frames(self, at: Tensor) -> Tensor:
        """(...,) numbers of frames -> (..., D)."""
        if self.measured is not None:
            return self.measured[at]
        codes = self.codes[:, at.flatten()].long()
        return self.codec.quantizer.decode(codes[:, None])[0].T.view(*at.shape, -1)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch at once. Before an utterance's first frame stands that frame."""
        at = torch.tensor(indices)
        rows = self.rows[at]
        before = at[:, None] + torch.arange(-self.config.history, 0)
        with torch.no_grad():
            return {
                "semantic_ids": self.ids[self.places[at][:, None] + torch.arange(2 * self.config.context + 1)].long(),
                "speaker": self.speakers[rows],
                "previous": self.frames(before.maximum(self.starts[rows][:, None])),
                "labels": self.frames(at),
            }


@dataclass
class TeacherTrainingArguments(TrainingArguments):
    """The Trainer's own arguments, with defaults that suit a regression by a million weights."""

    output_dir: str = field(default="teacher", metadata={"help": "Checkpoints and the results go here."})
    max_steps: int = field(default=20_000, metadata={"help": "Steps; the learning rate falls to 0 over all of them."})
    per_device_train_batch_size: int = field(default=1024, metadata={"help": "Frames in a batch."})
    per_device_eval_batch_size: int = field(default=4096, metadata={"help": "Frames in a batch."})
    learning_rate: float = field(default=1.5e-3, metadata={"help": "The highest."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The schedule."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or below 1 a share of all."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's."})
    save_steps: float = field(default=1000, metadata={"help": "Steps between checkpoints."})
    eval_strategy: str = field(default="steps", metadata={"help": "no, steps or epoch."})
    eval_steps: float | None = field(default=None, metadata={"help": "By default --save_steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    eval_share: float = field(default=0.02, metadata={"help": "Share of utterances to evaluate on, at least one."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it: frames are read in batches."})
    resume: bool = field(default=True, metadata={"help": "Go on from the last whole checkpoint of --output_dir."})

    def __post_init__(self):
        if self.eval_steps is None:
            self.eval_steps = self.save_steps
        if not 0 < self.eval_share < 1:
            raise ValueError(f"--eval_share must be above 0 and below 1, got {self.eval_share}.")
        if torch.get_device_module() is torch.cpu:  # no accelerator
            self.use_cpu, self.dataloader_pin_memory = True, False
        super().__post_init__()


def train_teacher(
    table: Dataset,
    codec: BarkCodec,
    vocabulary: Vocabulary,
    arguments: TeacherTrainingArguments,
    **sizes: int,
) -> tuple[FrameTeacher, dict[str, float]]:
    """Trains a teacher on a tokenized dataset and writes `<output_dir>/model`; returns it and the last evaluation.

    sizes: of `FrameTeacherConfig`. `eval_loss` is the share of the frames' variance that it misses. With
    `arguments.resume` a run that was killed goes on from its last whole checkpoint.
    Raises ValueError for too few rows."""
    kept = max(1, round(arguments.eval_share * len(table)))
    if kept >= len(table):
        raise ValueError(f"Of {len(table)} utterances {kept} are to evaluate on, which leaves none: pass more.")
    set_seed(arguments.seed)
    semantic_rate, frame_rate = vocabulary.rates
    config = FrameTeacherConfig(
        vocab_size=vocabulary.semantic_vocab_size,
        frame_size=codec.config.hidden_size,
        speakers=sorted({speaker or "" for speaker in table["speaker"]}),
        ratio=semantic_rate / frame_rate,
        **sizes,
    )
    split = table.train_test_split(test_size=kept, seed=arguments.seed)
    train, held_out = (Frames(split[name], codec, config) for name in ("train", "test"))
    teacher = FrameTeacher(config)
    checkpoint = last_checkpoint(Path(arguments.output_dir)) if arguments.resume else None
    if checkpoint is None:
        teacher.standardize(train)
    arguments.label_names = ["labels"]
    trainer = Trainer(
        model=teacher, args=arguments, data_collator=lambda batch: batch, train_dataset=train, eval_dataset=held_out
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    arguments.prediction_loss_only = True
    metrics = trainer.evaluate()
    if arguments.should_save:
        with whole_folder(Path(arguments.output_dir) / MODEL, replace=True) as work:
            teacher.save_pretrained(work)
    return teacher.eval(), metrics


def teach(table: Dataset, teacher: FrameTeacher, codec: BarkCodec) -> Dataset:
    """The dataset with another column, `taught_codes` (K, T), of all utterances as the teacher speaks them.

    A column of frames, which the stages do not read, goes. Raises ValueError for an unknown speaker."""
    if unknown := {speaker or "" for speaker in table["speaker"]} - {*teacher.config.speakers}:
        raise ValueError(f"The teacher knows {teacher.config.speakers}, not {sorted(unknown)}: train it on this data.")
    rows = table.select_columns(["semantic_ids", "codes", "speaker"]).with_format("numpy")
    lengths = np.array([len(ids) for ids in table["semantic_ids"]])
    taught: list[np.ndarray] = [np.empty((0, 0))] * len(lengths)
    with tqdm(total=len(rows), unit="row", desc="Teaching") as bar:
        for places in np.split(lengths.argsort(kind="stable"), range(_ROWS, len(rows), _ROWS)):
            batch = rows[places.tolist()]
            ids = [torch.as_tensor(one, dtype=torch.long) for one in batch["semantic_ids"]]
            said = teacher.speak(ids, [speaker or "" for speaker in batch["speaker"]])
            for place, frames, heard in zip(places, said, batch["codes"], strict=True):
                codes = codec.quantizer.encode(frames.to(codec.device).T[None])[: len(heard), 0]
                taught[place] = codes[:, : len(heard[0])].cpu().numpy().astype(np.int32)
            bar.update(len(places))
    table = table.remove_columns([name for name in table.column_names if name == FRAMES])
    return table.add_column(TAUGHT, _nested(taught), feature=FEATURES["codes"])


def _nested(matrices: Sequence[np.ndarray]) -> pa.Array:
    """(K, T_i) matrices as arrow's lists of lists: millions of numbers, none of which becomes an object."""
    inner = np.cumsum([0, *(columns for rows, columns in (one.shape for one in matrices) for _ in range(rows))])
    outer = np.cumsum([0, *(len(one) for one in matrices)])
    values = pa.array(np.concatenate([one.ravel() for one in matrices]))
    lists = pa.ListArray.from_arrays(pa.array(inner, pa.int32()), values)
    return pa.ListArray.from_arrays(pa.array(outer, pa.int32()), lists)


@dataclass
class TeacherArguments:
    """What is taught, and by how large a teacher."""

    model: str = field(metadata={"help": "The composite whose codec and ids the data has: a folder or a hub id."})
    data: str = field(metadata={"help": "A folder that `python -m bark_hf.training.dataset` wrote."})
    context: int = field(default=10, metadata={"help": "Semantic ids that it sees on either side of a frame."})
    history: int = field(default=3, metadata={"help": "Frames before that it sees."})
    hidden_size: int = field(default=512, metadata={"help": "Its width."})
    num_layers: int = field(default=2, metadata={"help": "Its blocks, of two linear layers each."})


def train(given: TeacherArguments, arguments: TeacherTrainingArguments) -> Path:
    """Trains a teacher and writes `<output_dir>/data`, what `bark-hf train --data` takes; returns it."""
    output = Path(arguments.output_dir)
    bark = BarkModel.from_pretrained(given.model, dtype=torch.float32)
    table = load_from_disk(given.data)
    sizes = {name: getattr(given, name) for name in ("context", "history", "hidden_size", "num_layers")}
    vocabulary = Vocabulary.of(bark.generation_config)
    teacher, metrics = train_teacher(table, bark.codec_model, vocabulary, arguments, **sizes)
    print(f"The teacher misses {metrics['eval_loss']:.1%} of the frames' variance.", file=sys.stderr)
    taught = teach(table, teacher, bark.codec_model)
    with whole_folder(output / TAUGHT_DATA, replace=True) as work:
        taught.save_to_disk(str(work))
    return output / TAUGHT_DATA


def main(arguments: list[str] | None = None) -> Path:
    """From a command line; see `--help`. Returns the folder of the result."""
    parser = HfArgumentParser(
        (TeacherArguments, TeacherTrainingArguments),
        prog="python -m bark_hf.training.teacher",
        description="A tokenized dataset to one whose codes a small network says anew, without what no semantic id "
        "tells: the acoustic stages learn those faster and further. A killed run goes on.",
        epilog="Example: python -m bark_hf.training.teacher --model my-start --data my-ids --output_dir my-teacher, "
        "then bark-hf train --data my-teacher/data --stage coarse,fine ...",
    )
    given, training = parser.parse_args_into_dataclasses(arguments)
    return train(given, training)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
