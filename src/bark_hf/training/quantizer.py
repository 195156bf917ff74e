"""Training runs for a semantic tokenizer's quantizer: recordings whose semantic ids are known in, a tokenizer out.

The ids may be Bark's own, of audio that it made of them (the community's quantizers came to be so), or any others that
follow from what is said. The stock Trainer does the work; knows nothing of where ids come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed

from ..audio.files import read_audio, resample, to_mono
from ..cloning.modeling_semantic_tokenizer import BarkSemanticTokenizer
from ..files.atomic import whole_folder
from .collators import IGNORED
from .run import last_checkpoint

MODEL = "model"  # the folder of the result, in the output folder
_HEARD = 500  # recordings that the mean and deviation of the features are taken from


@dataclass
class QuantizerTrainingArguments(TrainingArguments):
    """The Trainer's own arguments, with defaults that suit an LSTM of some hundred thousand weights."""

    output_dir: str = field(default="quantizer-trained", metadata={"help": "Checkpoints and the result go here."})
    max_steps: int = field(default=2000, metadata={"help": "Steps; the learning rate falls to 0 over all of them."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Recordings in a batch."})
    learning_rate: float = field(default=2e-3, metadata={"help": "The highest."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The schedule."})
    warmup_steps: float = field(default=0.02, metadata={"help": "Steps, or below 1 a share of all."})
    eval_strategy: str = field(default="steps", metadata={"help": "no, steps or epoch."})
    eval_steps: float | None = field(default=None, metadata={"help": "By default --save_steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    eval_share: float = field(default=0.02, metadata={"help": "Share of recordings to evaluate on, at least one."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave it: recordings are read in batches."})
    resume: bool = field(default=True, metadata={"help": "Go on from the last whole checkpoint of --output_dir."})

    def __post_init__(self):
        if self.eval_steps is None:
            self.eval_steps = self.save_steps
        if not 0 < self.eval_share < 1:
            raise ValueError(f"--eval_share must be above 0 and below 1, got {self.eval_share}.")
        if torch.get_device_module() is torch.cpu:  # no accelerator
            self.use_cpu, self.dataloader_pin_memory = True, False
        super().__post_init__()


@dataclass(frozen=True)
class QuantizerCollator:
    """Rows of `audio` (a path, or (N,) floats at the tokenizer's rate) and `semantic_ids` (S,) to a batch.

    A recording whose ids end a frame early or late is taken as it is; more than `APART` frames are two recordings."""

    tokenizer: BarkSemanticTokenizer
    APART = 3

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """-> input_values (B, N), lengths (B,), labels (B, S), -100 behind a row's ids.

        Raises ValueError for ids that are not a recording's."""
        waves = [torch.from_numpy(heard(row["audio"], self.tokenizer.sampling_rate)) for row in rows]
        frames = [self.tokenizer.config.count_frames(len(wave)) for wave in waves]
        labels = torch.full((len(rows), max(frames)), IGNORED)
        for row, (one, count) in enumerate(zip(rows, frames, strict=True)):
            ids = torch.as_tensor(one["semantic_ids"])[:count]
            if abs(len(one["semantic_ids"]) - count) > self.APART:
                raise ValueError(
                    f"{_name(one['audio'])} has {count} frames and {len(one['semantic_ids'])} semantic ids, at most "
                    f"{self.APART} more or less fit: are they of this recording, at {self.tokenizer.frame_rate:g} Hz?"
                )
            labels[row, : len(ids)] = ids
        return {
            "input_values": nn.utils.rnn.pad_sequence(waves, batch_first=True),
            "lengths": torch.tensor([len(wave) for wave in waves]),
            "labels": labels,
        }


def train_quantizer(
    tokenizer: BarkSemanticTokenizer, rows: Sequence[Mapping[str, Any]], arguments: QuantizerTrainingArguments
) -> tuple[Path, dict[str, float]]:
    """Trains the quantizer of `tokenizer` and writes `<output_dir>/model`; returns that and the last evaluation.

    rows: of `audio` and `semantic_ids`, as in `QuantizerCollator`. HuBERT stays what it is; MFCC features get their
    mean and deviation from some of the rows. `eval_accuracy` is the share of frames with the right id. With
    `arguments.resume` a run that was killed goes on from its last whole checkpoint.
    Raises ValueError for ids outside the vocabulary, and for too few rows."""
    kept = max(1, round(arguments.eval_share * len(rows)))
    if kept >= len(rows):
        raise ValueError(f"Of {len(rows)} recordings {kept} are to evaluate on, which leaves none: pass more.")
    size = tokenizer.config.vocab_size
    for row in rows:
        for one in row["semantic_ids"]:
            if not 0 <= one < size:
                raise ValueError(f"There is a semantic id {one}; `vocab_size` {size} allows 0 to {size - 1}.")
    set_seed(arguments.seed)
    order = np.random.default_rng(arguments.seed).permutation(len(rows))
    held_out, train = ([rows[i] for i in part] for part in (order[:kept], order[kept:]))
    checkpoint = last_checkpoint(Path(arguments.output_dir)) if arguments.resume else None
    if checkpoint is None:
        tokenizer.standardize(heard(row["audio"], tokenizer.sampling_rate) for row in train[:_HEARD])
    tokenizer.requires_grad_(False)
    tokenizer.quantizer.requires_grad_(True)
    arguments.label_names = ["labels"]
    trainer = Trainer(
        model=tokenizer,
        args=arguments,
        data_collator=QuantizerCollator(tokenizer),
        train_dataset=train,
        eval_dataset=held_out,
        compute_metrics=_accuracy,
        preprocess_logits_for_metrics=lambda output, labels: output[0].argmax(-1),
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics = trainer.evaluate()
    folder = Path(arguments.output_dir) / MODEL
    if arguments.should_save:
        with whole_folder(folder, replace=True) as work:
            tokenizer.save_pretrained(work)
    return folder, metrics


def heard(audio: str | Path | np.ndarray, rate: int) -> np.ndarray:
    """A file's samples, (N,) float32 at `rate`; an array as it is."""
    if isinstance(audio, np.ndarray):
        return audio
    samples, own = read_audio(Path(audio))
    return resample(to_mono(samples), own, rate).astype(np.float32)


def _accuracy(prediction) -> dict[str, float]:
    known = prediction.label_ids != IGNORED
    return {"accuracy": float((prediction.predictions == prediction.label_ids)[known].mean())}


def _name(audio: str | Path | np.ndarray) -> str:
    return "A recording" if isinstance(audio, np.ndarray) else Path(audio).name
