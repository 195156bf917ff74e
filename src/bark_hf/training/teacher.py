"""A teacher of the acoustic stages: semantic ids in, the frames of a codec out, and of those the codes to be learned.

A recording's codes hold much that its semantic ids do not tell, and a stage that learns them by cross-entropy spends
itself on that noise. The teacher is a regression, so it says a mean, which has none: it speaks every utterance of a
tokenized dataset again, and the codes of that are what `utterances` gives the stages to learn (knowledge distillation
of whole sequences: Kim and Rush, 2016). Where the data tells when units end, it learns sharp frames from that, and to
foretell it from the ids. Knows nothing of stages and audio."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, load_from_disk
from datasets.utils import tqdm
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import HfArgumentParser, Trainer, set_seed

from ..codec.encodec import BarkCodec
from ..files.atomic import whole_folder
from ..generation_configuration_bark import BarkGenerationConfig
from ..vocabulary import Vocabulary
from .dataset import FEATURES
from .quantizer import QuantizerTrainingArguments
from .run import last_checkpoint
from .teacher_network import FrameTeacher, FrameTeacherConfig, Timeline
from .tokenizing import load_codec
from .utterances import TAUGHT

TEACHER, TAUGHT_DATA = "teacher", "taught"  # folders of the results, in the output folder
FRAMES = "frames"  # a column (T, D): what the teacher learns in place of what `codes` stand for
ENDS = "ends"  # a column (S,): when what an id belongs to ends, in ids from the utterance's beginning
_SIZES = ("context", "states", "hidden_size", "num_layers")  # of the teacher, which a user sets
_GIVEN = ("vocab_size", "frame_size", "speakers", "ratio", "timed")  # which the data and the model do
_ROWS = 256  # utterances that the teacher speaks at once
_HEARD = 100_000  # frames that their mean and deviation are taken from
_LEAST = 1e-3  # standard deviation of a number that says something


class Frames(torch.utils.data.Dataset):
    """Every frame of some utterances, with what the teacher is given to say it.

    In memory: a frame's codes, or its numbers where they are measured, and some 50 bytes a frame more."""

    def __init__(self, table: Any, codec: BarkCodec, config: FrameTeacherConfig):
        """table: rows of `semantic_ids`, `codes`, `speaker` and, where something better than the codec's encoder
        measured them, `frames` (T, D) in the codec's own terms; where it is known, `ends` (S,).

        Raises ValueError for rows without frames, and for ids, codes and ends that are not the model's."""
        self.codec, self.config = codec, config
        self.ids, self.speakers, held, ends = [], [], [], []
        more = [name for name in (FRAMES, ENDS) if name in table.column_names]
        for row in table.select_columns(["semantic_ids", "codes", "speaker", *more]).with_format("numpy"):
            ids, codes = torch.from_numpy(np.asarray(row["semantic_ids"], np.int64)), np.stack(row["codes"])
            self._check(ids, codes)
            self.ids.append(ids)
            self.speakers.append(row["speaker"] or "")
            measured = np.stack(row[FRAMES]).astype(np.float32)[: codes.shape[1]] if FRAMES in row else None
            held.append(torch.from_numpy(codes.astype(np.int16).T if measured is None else measured))
            ends.append(self._ends(row[ENDS], len(ids)) if ENDS in row else None)
        self.held = torch.cat(held)  # (frames, K) codes or (frames, D) numbers
        self.lengths = [len(one) for one in held]
        who = [config.speakers.index(one) for one in self.speakers]
        self.line = Timeline(config, self.ids, who, self.lengths, ends if config.timed else None)

    def _check(self, ids: Tensor, codes: np.ndarray) -> None:
        books, size = len(self.codec.quantizer.layers), self.codec.config.codebook_size
        if not len(ids) or not codes.size:
            raise ValueError("A row of the data has no semantic ids or no codes; tokenize the corpus again.")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise ValueError(f"Semantic ids go to {ids.max()}, the model's to {self.config.vocab_size - 1}.")
        if len(codes) > books or codes.min() < 0 or codes.max() >= size:
            raise ValueError(
                f"The data's codes are of {len(codes)} codebooks, up to {codes.max()}; the model's codec has {books} "
                f"of {size}. Pass the model that the data was tokenized with."
            )

    def _ends(self, ends: np.ndarray | None, ids: int) -> Tensor:
        told = np.asarray([] if ends is None else ends, np.float64)
        if len(told) != ids:
            raise ValueError(f"A row has {ids} semantic ids and {len(told)} `{ENDS}`; each id belongs to what ends.")
        if not np.isfinite(told).all() or np.median(told - np.arange(ids)) <= 0:
            raise ValueError(
                f"A row's `{ENDS}` are {told[:3]} ... {told[-1]} for {ids} semantic ids: they must be counted in ids "
                "from the utterance's beginning, and lie behind the ids that they are of."
            )
        return torch.from_numpy(told)

    def __len__(self) -> int:
        return len(self.held)

    @torch.no_grad()
    def frames(self, at: Tensor) -> Tensor:
        """Numbers of frames (B,) -> (B, D)."""
        held = self.held[at]
        return held if held.is_floating_point() else self.codec.quantizer.decode(held.T.long()[:, None])[0].T

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch at once."""
        at = torch.tensor(indices)
        batch: dict[str, Any] = {**self.line.given(at), "labels": self.frames(at)}
        if self.config.timed and len(inner := self.line.inner):
            stretches = inner[at % len(inner)]
            batch.update(asked=self.line.asked(stretches), late=self.line.late(stretches))
        return batch

    def missed(self, teacher: FrameTeacher, quiet: bool = False) -> float:
        """The share of the variance that is not in what the teacher says of nothing but ids and speakers."""
        squares, count, deviation = 0.0, 0, teacher.deviation.cpu()
        numbers = iter(torch.arange(len(self)).split(self.lengths))
        for _, said in _speak(teacher, self.ids, self.speakers, "Evaluating", quiet):
            for frames in said:
                true = self.frames(next(numbers))[: len(frames)]
                squares += float(((frames[: len(true)].cpu() - true) / deviation).square().sum())
                count += true.numel()
        return squares / max(1, count)

    def describe(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and deviation (D,) of some frames."""
        some = self.frames(torch.randperm(len(self))[:_HEARD])
        return some.mean(0), some.std(0).clamp(min=_LEAST)


@dataclass
class TeacherTrainingArguments(QuantizerTrainingArguments):
    """The Trainer's own arguments, with defaults that suit a regression by two million weights."""

    output_dir: str = field(default="teacher", metadata={"help": "Checkpoints and the results go here."})
    max_steps: int = field(default=20_000, metadata={"help": "Steps; the learning rate falls to 0 over all of them."})
    per_device_train_batch_size: int = field(default=1024, metadata={"help": "Frames in a batch."})
    per_device_eval_batch_size: int = field(default=4096, metadata={"help": "Frames in a batch."})
    learning_rate: float = field(default=1.5e-3, metadata={"help": "The highest."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or below 1 a share of all."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's."})
    save_steps: float = field(default=1000, metadata={"help": "Steps between checkpoints."})
    eval_share: float = field(default=0.02, metadata={"help": "Share of utterances to evaluate on, at least one."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it: frames are read in batches."})


def train_teacher(
    table: Dataset,
    codec: BarkCodec,
    vocabulary: Vocabulary,
    arguments: TeacherTrainingArguments,
    **sizes: int,
) -> tuple[FrameTeacher, dict[str, float]]:
    """Trains a teacher on a tokenized dataset and writes `<output_dir>/teacher`; returns it and the last evaluation.

    sizes: of `FrameTeacherConfig`. `eval_loss` is the share of the frames' variance that it misses, plus, where the
    data has `ends`, the squared error of those that it foretells; `eval_missed`, that share with those. With
    `arguments.resume` a run that was killed goes on from its last whole checkpoint.
    Raises ValueError for too few rows, missing columns, ids and codes of another model, and where the run that would
    go on had other sizes."""
    if missing := {"semantic_ids", "codes", "speaker"} - {*table.column_names}:
        raise ValueError(
            f"The data lacks the columns {sorted(missing)}: pass a folder that bark_hf.training.dataset wrote."
        )
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
        timed=ENDS in table.column_names,
        **sizes,
    )
    checkpoint = last_checkpoint(Path(arguments.output_dir)) if arguments.resume else None
    if checkpoint is not None:
        _check_same(FrameTeacherConfig.from_pretrained(checkpoint), config, checkpoint)
    split = table.train_test_split(test_size=kept, seed=arguments.seed)
    train, held_out = (Frames(split[name], codec, config) for name in ("train", "test"))
    teacher = FrameTeacher(config)
    teacher.mean, teacher.deviation = train.describe()
    trainer = Trainer(
        model=teacher,
        args=arguments,
        data_collator=lambda batch: batch,
        train_dataset=train,
        eval_dataset=held_out,
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics = trainer.evaluate()
    metrics["eval_missed"] = held_out.missed(teacher, arguments.disable_tqdm)
    if arguments.should_save:
        with whole_folder(Path(arguments.output_dir) / TEACHER, replace=True) as work:
            teacher.save_pretrained(work)
    return teacher.eval(), metrics


def _check_same(before: FrameTeacherConfig, now: FrameTeacherConfig, checkpoint: Path) -> None:
    names = [name for name in _SIZES + _GIVEN if getattr(before, name) != getattr(now, name)]
    if names:
        raise ValueError(
            f"{checkpoint} had another {', '.join(names)}. Repeat that, name another --output_dir, or train anew "
            "(--resume false)."
        )


def teach(table: Dataset, teacher: FrameTeacher, codec: BarkCodec) -> Dataset:
    """The dataset with another column, `taught_codes` (K, T), of all utterances as the teacher speaks them.

    What another teacher taught goes, and columns that only teachers read. Raises ValueError for a
    speaker whom the teacher does not know."""
    if unknown := {speaker or "" for speaker in table["speaker"]} - {*teacher.config.speakers}:
        raise ValueError(f"The teacher knows {teacher.config.speakers}, not {sorted(unknown)}: train it on this data.")
    rows = table.select_columns(["semantic_ids", "codes", "speaker"]).with_format("numpy")
    ids = [torch.as_tensor(one, dtype=torch.long) for one in table["semantic_ids"]]
    speakers = [speaker or "" for speaker in table["speaker"]]
    taught: list[np.ndarray] = [np.empty((0, 0))] * len(ids)
    for places, said in _speak(teacher, ids, speakers, "Teaching"):
        for place, frames, heard in zip(places, said, rows[places]["codes"], strict=True):
            codes = codec.quantizer.encode(frames.to(codec.device).T[None])[: len(heard), 0]
            taught[place] = codes[:, : len(heard[0])].cpu().numpy().astype(np.int32)
    table = table.remove_columns([name for name in table.column_names if name in (FRAMES, ENDS, TAUGHT)])
    return table.add_column(TAUGHT, _nested(taught), feature=FEATURES["codes"])


def _speak(
    teacher: FrameTeacher, ids: Sequence[Tensor], speakers: Sequence[str], what: str, quiet: bool = False
) -> Iterator[tuple[range, list[Tensor]]]:
    """Some utterances at a time: which they are, and their frames (T_i, D)."""
    with tqdm(total=len(ids), unit="row", desc=what, disable=quiet) as bar:
        for start in range(0, len(ids), _ROWS):
            places = range(start, min(start + _ROWS, len(ids)))
            yield places, teacher.speak([ids[place] for place in places], [speakers[place] for place in places])
            bar.update(len(places))


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
    data: str = field(
        metadata={
            "help": "A folder that `python -m bark_hf.training.dataset` wrote, maybe with a column `ends` (when what "
            "an id belongs to ends, in ids) and one of `frames` (what to learn in place of those of the codes)."
        }
    )
    context: int = field(
        default=FrameTeacherConfig.context,
        metadata={"help": "Stretches of equal units that it sees on either side of a frame's own."},
    )
    states: int = field(
        default=FrameTeacherConfig.states,
        metadata={"help": "Ids of a unit, unit * states + 0, 1, ... in the order of time: 3 where phones have three."},
    )
    hidden_size: int = field(default=FrameTeacherConfig.hidden_size, metadata={"help": "Its width."})
    num_layers: int = field(
        default=FrameTeacherConfig.num_layers, metadata={"help": "Its blocks, of two linear layers each."}
    )


def train(given: TeacherArguments, arguments: TeacherTrainingArguments) -> Path:
    """Trains a teacher and writes `<output_dir>/taught`, what `bark-hf train --data` takes; returns it.

    Raises ValueError for data that is no tokenized dataset, and as `train_teacher` does."""
    output = Path(arguments.output_dir)
    if not (Path(given.data) / "dataset_info.json").is_file():
        raise ValueError(f"{given.data} is no tokenized dataset; bark_hf.training.dataset makes one of a corpus.")
    table = load_from_disk(given.data)
    codec = load_codec(given.model)
    vocabulary = Vocabulary.of(BarkGenerationConfig.from_pretrained(given.model))
    sizes = {name: getattr(given, name) for name in _SIZES}
    teacher, metrics = train_teacher(table, codec, vocabulary, arguments, **sizes)
    print(f"The teacher misses {metrics['eval_missed']:.1%} of the frames' variance.", file=sys.stderr)
    with arguments.main_process_first(local=False, desc="teaching"):
        if arguments.should_save:
            taught = teach(table, teacher, codec)
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
        "then bark-hf train --data my-teacher/taught --stage coarse,fine ...",
    )
    given, training = parser.parse_args_into_dataclasses(arguments)
    return train(given, training)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
