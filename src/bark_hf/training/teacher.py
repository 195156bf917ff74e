"""A teacher of the acoustic stages: semantic ids in, the frames of a codec out, and of those the codes to be learned.

A recording's codes hold much that its semantic ids do not tell, and a stage that learns them by cross-entropy spends
itself on that noise. The teacher is a regression, so it says a mean, which has none: going on from its own frames it
speaks every utterance of a tokenized dataset again, and the codes of that are what `utterances` gives the stages to
learn (knowledge distillation of whole sequences: Kim and Rush, 2016). Towards the end of its training the frames
before are its own, so that it learns to go on from them (Ross, Gordon and Bagnell, 2011). Knows nothing of stages and
audio."""

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
from transformers import HfArgumentParser, Trainer, TrainerCallback, set_seed

from ..codec import BarkCodec
from ..files import whole_folder
from ..generation_configuration_bark import BarkGenerationConfig
from ..vocabulary import Vocabulary
from .dataset import FEATURES
from .quantizer import QuantizerTrainingArguments
from .run import last_checkpoint
from .teacher_network import FrameTeacher, FrameTeacherConfig
from .tokenizing import load_codec
from .utterances import TAUGHT

TEACHER, TAUGHT_DATA = "teacher", "taught"  # folders of the results, in the output folder
FRAMES = "frames"  # a column (T, D): what the teacher learns in place of what `codes` stand for
_SIZES = ("vocab_size", "frame_size", "speakers", "ratio", "context", "history", "hidden_size", "num_layers")
_ROWS = 256  # utterances that the teacher speaks at once
_HEARD = 100_000  # frames that their mean and deviation are taken from
_LEAST = 1e-3  # standard deviation of a number that says something
_OWN = 0.9  # of the frames before, where they are its own
_REFRESH = 1700  # steps until it says them anew
_FAR = 10.0  # standard deviations from the mean that a frame before may be
_WIDER = 1.5  # most that a number's spread is widened


class Frames(torch.utils.data.Dataset):
    """Every frame of some utterances, with what the teacher is given to foretell it.

    In memory: a frame's codes, or its numbers where they are measured, 40 bytes more, and its numbers again once the
    teacher goes on from its own."""

    def __init__(self, table: Any, codec: BarkCodec, config: FrameTeacherConfig):
        """table: rows of `semantic_ids`, `codes`, `speaker` and, where something better than the codec's encoder
        measured them, `frames` (T, D) in the codec's own terms.

        Raises ValueError for rows without frames, and for ids and codes that are not the model's."""
        self.codec, self.config = codec, config
        outside = np.full(config.context, config.vocab_size, np.int32)
        ids, held, places, counts, lengths, speakers, width = [], [], [], [], [], [], 0
        measured = FRAMES in table.column_names
        columns = ["semantic_ids", "codes", "speaker", *([FRAMES] if measured else [])]
        for row in table.select_columns(columns).with_format("numpy"):
            own, codes = np.asarray(row["semantic_ids"], np.int32), np.stack(row["codes"]).astype(np.int16)
            self._check(own, codes)
            one = np.stack(row[FRAMES]).astype(np.float32)[: codes.shape[1]] if measured else codes.T
            ids += [outside, own, outside]
            held.append(one)
            places.append(width + config.places(len(one)).clamp(max=len(own) - 1))
            counts.append(len(one))
            lengths.append((width + config.context, len(own)))
            speakers.append(config.speakers.index(row["speaker"] or ""))
            width += len(own) + 2 * config.context
        self.ids = torch.from_numpy(np.concatenate(ids))
        self.held = torch.from_numpy(np.concatenate(held))  # (frames, K) codes or (frames, D) numbers
        self.places = torch.cat(places)  # where a frame's ids begin
        self.counts, self.lengths = counts, lengths  # of frames; where ids begin, and how many they are
        self.starts = torch.tensor([0, *counts[:-1]]).cumsum(0)
        self.speakers = torch.tensor(speakers)
        self.rows = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.begin = torch.zeros(len(config.speakers), config.frame_size)  # before an utterance's first frame
        self.own = torch.empty(0, config.frame_size)  # what the teacher said of all frames, once there is something

    def _check(self, ids: np.ndarray, codes: np.ndarray) -> None:
        books, size = len(self.codec.quantizer.layers), self.codec.config.codebook_size
        if not ids.size or not codes.size:
            raise ValueError("A row of the data has no semantic ids or no codes; tokenize the corpus again.")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise ValueError(f"Semantic ids go to {ids.max()}, the model's to {self.config.vocab_size - 1}.")
        if len(codes) > books or codes.min() < 0 or codes.max() >= size:
            raise ValueError(
                f"The data's codes are of {len(codes)} codebooks, up to {codes.max()}; the model's codec has {books} "
                f"of {size}. Pass the model that the data was tokenized with."
            )

    def __len__(self) -> int:
        return len(self.places)

    @torch.no_grad()
    def frames(self, at: Tensor) -> Tensor:
        """(...,) numbers of frames -> (..., D)."""
        held = self.held[at.flatten()]
        if not held.is_floating_point():
            held = self.codec.quantizer.decode(held.T.long()[:, None])[0].T
        return held.view(*at.shape, -1)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch at once."""
        at = torch.tensor(indices)
        rows = self.rows[at]
        before = at[:, None] + torch.arange(-self.config.history, 0)
        speaker = self.speakers[rows]
        outside, before = before < self.starts[rows][:, None], before.clamp(min=0)
        inside = self.frames(before)
        if len(self.own):
            inside = torch.where(torch.rand(len(at), 1, 1) < _OWN, self.own[before], inside)
        return {
            "semantic_ids": self.ids[self.places[at][:, None] + torch.arange(2 * self.config.context + 1)].long(),
            "speaker": speaker,
            "previous": torch.where(outside[..., None], self.begin[speaker][:, None], inside),
            "labels": self.frames(at),
        }

    def spoken(
        self, teacher: FrameTeacher, rows: Sequence[int], quiet: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each utterance numbers of frames (T,) and what the teacher says there (T, D), going on from itself."""
        ids = [self.ids[start : start + length] for start, length in (self.lengths[row] for row in rows)]
        speakers = [self.config.speakers[self.speakers[row]] for row in rows]
        for places, said in _speak(teacher, ids, speakers, "Going on from itself", quiet):
            for place, frames in zip(places, said, strict=True):
                frames = frames[: self.counts[rows[place]]].cpu()
                yield int(self.starts[rows[place]]) + torch.arange(len(frames)), frames

    def hear(self, teacher: FrameTeacher, quiet: bool = False) -> None:
        """Most histories are from now on what the teacher says of these utterances."""
        if not len(self.own):
            self.own = torch.empty(len(self), self.config.frame_size)
            for at in torch.arange(len(self)).split(_HEARD):
                self.own[at] = self.frames(at)
        mean, far = teacher.mean.cpu(), _FAR * teacher.deviation.cpu()
        for at, frames in self.spoken(teacher, range(len(self.counts)), quiet):
            self.own[at] = frames.clamp(mean - far, mean + far)

    def missed(self, teacher: FrameTeacher, quiet: bool = False) -> float:
        """The share of the variance that the teacher misses, going on from itself."""
        deviation, squares, count = teacher.deviation.cpu(), 0.0, 0
        for at, frames in self.spoken(teacher, range(len(self.counts)), quiet):
            squares += float(((frames - self.frames(at)) / deviation).square().sum())
            count += frames.numel()
        return squares / max(1, count)

    def liveliness(self, teacher: FrameTeacher, quiet: bool = False) -> tuple[Tensor, Tensor]:
        """The mean (S, D) of what the teacher says as each speaker, and how much wider the recordings are spread, 1 to
        `_WIDER`; of one who has no utterance here, 0 and 1."""
        usual, spread = torch.zeros_like(self.begin), torch.ones_like(self.begin)
        for speaker in self.speakers.unique():
            own = torch.where(self.speakers == speaker)[0]
            rows = own[torch.randperm(len(own))].tolist()
            enough = np.searchsorted(np.cumsum([self.counts[row] for row in rows]), _HEARD) + 1
            pairs = [(self.frames(at), frames) for at, frames in self.spoken(teacher, rows[:enough], quiet)]
            heard, said = (torch.cat(one) for one in zip(*pairs, strict=True))
            usual[speaker] = said.mean(0)
            wider = heard.std(0, correction=0) / said.std(0, correction=0).clamp(min=_LEAST)
            spread[speaker] = wider.clamp(1, _WIDER)
        return usual, spread

    def describe(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D,) and deviation (D,) of some frames, and the mean first frame of each speaker; of one who has no
        utterance here, the mean of all."""
        some = self.frames(torch.randperm(len(self))[:_HEARD])
        firsts, begin = self.frames(self.starts), some.mean(0).repeat(len(self.begin), 1)
        for speaker in self.speakers.unique():
            begin[speaker] = firsts[self.speakers == speaker].mean(0)
        return some.mean(0), some.std(0).clamp(min=_LEAST), begin


class OwnHistories(TrainerCallback):
    """In the last steps most frames before are what the teacher says itself, said anew from time to time."""

    def __init__(self, frames: Frames, share: float):
        self.frames, self.share = frames, share

    def on_step_begin(self, args, state, control, model, **kwargs):
        since = state.global_step - round(state.max_steps * (1 - self.share))
        begun = since >= 0 and state.global_step < state.max_steps
        if begun and (not len(self.frames.own) or since % _REFRESH == 0):
            self.frames.hear(model, args.disable_tqdm)


@dataclass
class TeacherTrainingArguments(QuantizerTrainingArguments):
    """The Trainer's own arguments, with defaults that suit a regression by a million weights."""

    output_dir: str = field(default="teacher", metadata={"help": "Checkpoints and the results go here."})
    max_steps: int = field(default=20_000, metadata={"help": "Steps; the learning rate falls to 0 over all of them."})
    per_device_train_batch_size: int = field(default=1024, metadata={"help": "Frames in a batch."})
    per_device_eval_batch_size: int = field(default=4096, metadata={"help": "Frames in a batch."})
    learning_rate: float = field(default=1.5e-3, metadata={"help": "The highest."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps, or below 1 a share of all."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's."})
    save_steps: float = field(default=1000, metadata={"help": "Steps between checkpoints."})
    own_share: float = field(
        default=0.25,
        metadata={"help": "Last share of the steps, in which most frames before are what it said itself; 0: none."},
    )
    eval_share: float = field(default=0.02, metadata={"help": "Share of utterances to evaluate on, at least one."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it: frames are read in batches."})

    def __post_init__(self):
        if not 0 <= self.own_share <= 1:
            raise ValueError(f"--own_share must be 0 to 1, got {self.own_share}.")
        if self.own_share and self.dataloader_num_workers:
            raise ValueError(
                f"With --dataloader_num_workers {self.dataloader_num_workers} what the teacher says does not reach "
                "its training: pass 0, or --own_share 0."
            )
        super().__post_init__()


def train_teacher(
    table: Dataset,
    codec: BarkCodec,
    vocabulary: Vocabulary,
    arguments: TeacherTrainingArguments,
    **sizes: int,
) -> tuple[FrameTeacher, dict[str, float]]:
    """Trains a teacher on a tokenized dataset and writes `<output_dir>/teacher`; returns it and the last evaluation.

    sizes: of `FrameTeacherConfig`. `eval_loss` is the share of the frames' variance that it misses, given the true
    frames before; `eval_own_loss`, going on from its own. With `arguments.resume` a run that was killed goes on from
    its last whole checkpoint.
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
        **sizes,
    )
    checkpoint = last_checkpoint(Path(arguments.output_dir)) if arguments.resume else None
    if checkpoint is not None:
        _check_same(FrameTeacherConfig.from_pretrained(checkpoint), config, checkpoint)
    split = table.train_test_split(test_size=kept, seed=arguments.seed)
    train, held_out = (Frames(split[name], codec, config) for name in ("train", "test"))
    teacher = FrameTeacher(config)
    teacher.mean, teacher.deviation, teacher.begin = train.describe()
    train.begin = held_out.begin = teacher.begin.clone()
    arguments.label_names = ["labels"]
    trainer = Trainer(
        model=teacher,
        args=arguments,
        data_collator=lambda batch: batch,
        train_dataset=train,
        eval_dataset=held_out,
        callbacks=[OwnHistories(train, arguments.own_share)],
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics = trainer.evaluate()
    metrics["eval_own_loss"] = held_out.missed(teacher, arguments.disable_tqdm)
    lively = train.liveliness(teacher, arguments.disable_tqdm)
    teacher.usual, teacher.spread = (one.to(teacher.device) for one in lively)
    if arguments.should_save:
        with whole_folder(Path(arguments.output_dir) / TEACHER, replace=True) as work:
            teacher.save_pretrained(work)
    return teacher.eval(), metrics


def _check_same(before: FrameTeacherConfig, now: FrameTeacherConfig, checkpoint: Path) -> None:
    names = [name for name in _SIZES if getattr(before, name) != getattr(now, name)]
    if names:
        raise ValueError(
            f"{checkpoint} had another {', '.join(names)}. Repeat that, name another --output_dir, or train anew "
            "(--resume false)."
        )


def teach(table: Dataset, teacher: FrameTeacher, codec: BarkCodec) -> Dataset:
    """The dataset with another column, `taught_codes` (K, T), of all utterances as the teacher speaks them.

    What another teacher taught goes, and a column of frames, which the stages do not read. Raises ValueError for a
    speaker whom the teacher does not know."""
    if unknown := {speaker or "" for speaker in table["speaker"]} - {*teacher.config.speakers}:
        raise ValueError(f"The teacher knows {teacher.config.speakers}, not {sorted(unknown)}: train it on this data.")
    rows = table.select_columns(["semantic_ids", "codes", "speaker"]).with_format("numpy")
    ids = [torch.as_tensor(one, dtype=torch.long) for one in table["semantic_ids"]]
    speakers = [speaker or "" for speaker in table["speaker"]]
    taught: list[np.ndarray] = [np.empty((0, 0))] * len(ids)
    for places, said in _speak(teacher, ids, speakers, "Teaching"):
        for place, frames, heard in zip(places, said, rows[places]["codes"], strict=True):
            frames = teacher.vivid(frames, speakers[place])
            codes = codec.quantizer.encode(frames.to(codec.device).T[None])[: len(heard), 0]
            taught[place] = codes[:, : len(heard[0])].cpu().numpy().astype(np.int32)
    table = table.remove_columns([name for name in table.column_names if name in (FRAMES, TAUGHT)])
    return table.add_column(TAUGHT, _nested(taught), feature=FEATURES["codes"])


def _speak(
    teacher: FrameTeacher, ids: Sequence[Tensor], speakers: Sequence[str], what: str, quiet: bool = False
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Utterances of similar length together, shortest first: which they are, and their frames (T_i, D)."""
    lengths = np.array([len(one) for one in ids])
    with tqdm(total=len(ids), unit="row", desc=what, disable=quiet) as bar:
        for batch in np.split(lengths.argsort(kind="stable"), range(_ROWS, len(ids), _ROWS)):
            places = batch.tolist()
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
    data: str = field(metadata={"help": "A folder that `python -m bark_hf.training.dataset` wrote."})
    context: int = field(
        default=FrameTeacherConfig.context, metadata={"help": "Semantic ids that it sees on either side of a frame."}
    )
    history: int = field(default=FrameTeacherConfig.history, metadata={"help": "Frames before that it sees."})
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
    sizes = {name: getattr(given, name) for name in ("context", "history", "hidden_size", "num_layers")}
    teacher, metrics = train_teacher(table, codec, vocabulary, arguments, **sizes)
    print(
        f"The teacher misses {metrics['eval_loss']:.1%} of a next frame's variance, {metrics['eval_own_loss']:.1%} "
        "going on from itself.",
        file=sys.stderr,
    )
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
