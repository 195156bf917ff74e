"""Training runs for a codec: recordings in, a `transformers.EncodecModel` out, which `BarkCodec` loads.

The stock Trainer does the work; here are its arguments, the phases of a run and what becomes of its result. Knows
nothing of losses and quantizers (`codec_network`) or of audio files (`crops`)."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    EncodecConfig,
    EncodecFeatureExtractor,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..files.atomic import whole_file, whole_folder
from ..version import __version__
from .codec_network import FFT_SIZES, CodecForTraining, LossWeights
from .codec_vocoder import SHAPE, check_vocoder, start_as_vocoder
from .crops import Crops, find_recordings, whole
from .run import last_checkpoint

MODEL = "model"  # the folder of the result, in the output folder
REPORT = "training.json"  # what was done and measured, in the output folder
FRAMES_PER_CODE = 128  # that k-means sees
STARTS = ("random", "vocoder")
_START_RECORDINGS, _START_SECONDS = 2000, 6000.0  # that a vocoder is made of, at most


@dataclass
class CodecDataArguments:
    """What is trained, on what."""

    data: str = field(metadata={"help": "A folder of recordings, searched to its depth; any rate and format."})
    config: str | None = field(
        default=None, metadata={"help": "A JSON file of an EncodecConfig; by default `codec_config()`: 16 kHz, small."}
    )


@dataclass
class CodecTrainingArguments(TrainingArguments):
    """The Trainer's own arguments, with defaults that suit small codecs, and the phases and losses of a codec."""

    output_dir: str = field(default="codec-trained", metadata={"help": "Checkpoints and the result go here."})
    max_steps: int = field(
        default=20_000,
        metadata={"help": "Steps; the learning rate falls to 0 over all of them. A vocoder may have 0."},
    )
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Crops in a batch."})
    learning_rate: float = field(default=1e-3, metadata={"help": "The highest."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The schedule."})
    warmup_steps: float = field(default=0.02, metadata={"help": "Steps, or below 1 a share of all."})
    adam_beta1: float = field(default=0.8, metadata={"help": "AdamW's."})
    adam_beta2: float = field(default=0.99, metadata={"help": "AdamW's."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's."})
    train_sampling_strategy: str = field(
        default="sequential", metadata={"help": "Leave it: crops are random already, and each has its number."}
    )
    eval_strategy: str = field(default="steps", metadata={"help": "no, steps or epoch."})
    eval_steps: float | None = field(default=None, metadata={"help": "By default --save_steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    start: str = field(
        default="random",
        metadata={"help": "random, or vocoder: speech that can be understood from the first step on, without melody."},
    )
    crop_seconds: float = field(default=0.5, metadata={"help": "Length of a crop; whole frames are taken."})
    eval_share: float = field(
        default=0.05, metadata={"help": "Share of recordings kept to evaluate on, at least one."}
    )
    eval_crops: int = field(default=64, metadata={"help": "Crops of them that an evaluation hears."})
    quantize_from: float = field(
        default=0.2, metadata={"help": "Step, or below 1 share of all, from which on frames are quantized."}
    )
    freeze_encoder_from: float = field(
        default=1.0, metadata={"help": "Share of the steps after which only the decoder learns; 1: never."}
    )
    codebook_decay: float = field(default=0.95, metadata={"help": "What a codebook keeps of itself in a step."})
    split: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Where to cut a frame's numbers, as 3 9 18: each part starts a codebook of its own, what is left "
            "of all the others. Of a vocoder's, from coarse to fine, a stage can then foretell the first ones."
        },
    )
    quantizer_dropout: bool = field(
        default=False, metadata={"help": "Each batch uses the first few codebooks only, a number drawn for it."}
    )
    mel_weight: float = field(default=LossWeights.mel, metadata={"help": "Of log-mel distance in the loss."})
    magnitude_weight: float = field(default=LossWeights.magnitude, metadata={"help": "Of log magnitudes."})
    convergence_weight: float = field(default=LossWeights.convergence, metadata={"help": "Of spectral convergence."})
    waveform_weight: float = field(default=LossWeights.waveform, metadata={"help": "Of the waveform's L1 distance."})
    commitment_weight: float = field(default=LossWeights.commitment, metadata={"help": "Of frames to codebooks."})
    resume: bool = field(default=True, metadata={"help": "Go on from the last whole checkpoint of --output_dir."})

    def __post_init__(self):
        if self.eval_steps is None:
            self.eval_steps = self.save_steps
        if self.start not in STARTS:
            raise ValueError(f"--start must be one of {', '.join(STARTS)}, got {self.start!r}.")
        if self.max_steps < (self.start == "random"):
            raise ValueError(
                "--max_steps must be 1 or more, or 0 with --start vocoder, as crops have no epochs; got "
                f"{self.max_steps}."
            )
        if not 0 <= self.quantize_from < max(1, self.max_steps):
            raise ValueError(
                f"--quantize_from must be at least 0 and below --max_steps ({self.max_steps}), got "
                f"{self.quantize_from}."
            )
        if not 0 <= self.freeze_encoder_from <= 1:
            raise ValueError(f"--freeze_encoder_from must be 0 to 1, got {self.freeze_encoder_from}.")
        if any(a >= b for a, b in pairwise([0, *self.split])):
            raise ValueError(f"--split must be rising counts of a frame's numbers, 1 or more, got {self.split}.")
        if not 0 < self.eval_share < 1:
            raise ValueError(f"--eval_share must be above 0 and below 1, got {self.eval_share}.")
        super().__post_init__()

    @property
    def loss_weights(self) -> LossWeights:
        return LossWeights(
            self.mel_weight,
            self.magnitude_weight,
            self.convergence_weight,
            self.waveform_weight,
            self.commitment_weight,
        )

    @property
    def first_quantized_step(self) -> int:
        """Counted from 0."""
        share = self.quantize_from if self.quantize_from < 1 else self.quantize_from / self.max_steps
        return round(share * self.max_steps)

    @property
    def first_frozen_step(self) -> int:
        """Counted from 0; the encoder never rests before the codebooks are there."""
        return max(round(self.freeze_encoder_from * self.max_steps), self.first_quantized_step)


def codec_config(
    sampling_rate: int = 16_000, n_codebooks: int = 8, codebook_size: int = 256, **fields: Any
) -> EncodecConfig:
    """A small codec that learns fast: few layers, a long stride next to the waveform, residuals without a convolution.

    At 16 kHz a frame is 20 ms. fields: EncodecConfig's own, over ours; its `target_bandwidths` become those of 1 to
    `n_codebooks` codebooks."""
    ours: dict[str, Any] = {
        "num_filters": 16,
        "upsampling_ratios": [4, 5, 16],
        "hidden_size": 64,
        "num_lstm_layers": 1,
        "use_conv_shortcut": False,
    }
    config = EncodecConfig(sampling_rate=sampling_rate, codebook_size=codebook_size, **{**ours, **fields})
    bits = config.frame_rate * config.codebook_nbits
    config.target_bandwidths = [count * bits / 1000 for count in range(1, n_codebooks + 1)]
    return config


class Phases(TrainerCallback):
    """Starts the quantizer, and the encoder's rest, at their steps."""

    def __init__(self, crops: Crops):
        """crops: what the codebooks are made of."""
        self.crops = crops

    def on_step_begin(self, args, state, control, model: CodecForTraining, **kwargs):
        if state.global_step >= args.first_quantized_step and not model.quantizing:
            size = args.per_device_train_batch_size
            starts = range(0, len(self.crops), size)
            model.start_quantizing([_batch(self.crops, i, size, args.device) for i in starts], args.split)
        model.encoder_frozen = state.global_step >= args.first_frozen_step


def train_codec(
    config: EncodecConfig,
    recordings: str | Path | Iterable[str | Path | np.ndarray],
    arguments: CodecTrainingArguments,
) -> Path:
    """Trains a codec from nothing and writes `<output_dir>/model` for `EncodecModel` and `BarkCodec`; returns it.

    recordings: a folder, or paths, or (N,) arrays at `config.sampling_rate`. With `arguments.resume` a run that was
    killed goes on from its last whole checkpoint, and comes to the same weights: crops depend on (seed, number)."""
    if arguments.split and arguments.split[-1] >= config.hidden_size:
        raise ValueError(
            f"--split cuts a frame of {config.hidden_size} numbers; {arguments.split} leaves none behind."
        )
    output = Path(arguments.output_dir)
    found = find_recordings(recordings)
    train, codebooks, held_out = _crops(found, config, arguments)
    set_seed(arguments.seed)
    network = CodecForTraining(config, arguments.loss_weights, arguments.codebook_decay, arguments.quantizer_dropout)
    checkpoint = last_checkpoint(output) if arguments.resume and arguments.max_steps else None
    if arguments.start == "vocoder":
        check_vocoder(config)
        if checkpoint is None:
            start_as_vocoder(network.codec, _some(train.recordings, config.sampling_rate))
    else:
        network.scale_layers(_batch(codebooks, 0, 16))
    arguments.label_names = ["input_values"]  # else the Trainer sees nothing to evaluate
    # in the decoder's phase the encoder has no gradients
    arguments.ddp_find_unused_parameters = arguments.first_frozen_step < arguments.max_steps
    phases = Phases(codebooks)
    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=train,
        eval_dataset=held_out,
        compute_metrics=codec_metrics,
        callbacks=[phases],
    )
    metrics: dict[str, Any] = {}
    if arguments.max_steps:
        metrics |= trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint)).metrics
    else:
        phases.on_step_begin(arguments, trainer.state, trainer.control, network)
    if held_out is not None:
        metrics |= trainer.evaluate()
    if arguments.should_save:
        with whole_folder(output / MODEL, replace=True) as work:
            network.finished().save_pretrained(work)
            EncodecFeatureExtractor(feature_size=1, sampling_rate=config.sampling_rate).save_pretrained(work)
        report = {
            "metrics": metrics,
            "log": trainer.state.log_history,
            "recordings": len(found),
            "hours": round(train.seconds / 3600, 3),
            "bark_hf": __version__,
            "torch": torch.__version__,
        }
        with whole_file(output / REPORT) as beside:
            beside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return output / MODEL


def codec_metrics(prediction) -> dict[str, float]:
    """A Trainer's `compute_metrics`: the mean log-mel distance, and how many entries of each codebook are in use, as
    the exponential of their entropy."""
    found = prediction.predictions
    mel, codes = found if isinstance(found, tuple) else (found, None)
    metrics = {"mel": float(mel.mean())}
    for codebook in range(0 if codes is None else codes.shape[1]):
        counts = np.unique(codes[:, codebook], return_counts=True)[1]
        shares = counts / counts.sum()
        metrics[f"used_codebook_{codebook}"] = float(np.exp(-(shares * np.log(shares)).sum()))
    return metrics


def _crops(found: list, config: EncodecConfig, arguments: CodecTrainingArguments) -> tuple[Crops, Crops, Crops | None]:
    """For training, for the codebooks' start and for evaluation; the last of other recordings than the others."""
    length = max(1, round(arguments.crop_seconds * config.sampling_rate / config.hop_length)) * config.hop_length
    per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    kept = 0
    if arguments.eval_strategy != "no":
        kept = max(1, round(arguments.eval_share * len(found)))
        if kept >= len(found):
            raise ValueError(
                f"Of {len(found)} recordings --eval_share {arguments.eval_share:g} keeps {kept} for evaluation, which "
                "leaves none to train on: pass more, a smaller share, or --eval_strategy no."
            )
    order = np.random.default_rng(arguments.seed).permutation(len(found))
    held_out, train = ([found[i] for i in part] for part in (order[:kept], order[kept:]))
    if 2 * length <= max(FFT_SIZES):
        raise ValueError(
            f"--crop_seconds {arguments.crop_seconds:g} is {length} samples at {config.sampling_rate} Hz; the loss "
            f"needs more than {max(FFT_SIZES) // 2}."
        )
    first = -(-FRAMES_PER_CODE * config.codebook_size * config.hop_length // length)

    def crops(recordings: list, count: int, seed: int) -> Crops:
        return Crops(recordings, config.sampling_rate, length, count, seed)

    return (
        crops(train, arguments.max_steps * per_step, arguments.seed),
        crops(train, first, arguments.seed + 1),
        crops(held_out, arguments.eval_crops, arguments.seed) if kept else None,
    )


def _some(recordings: Sequence, rate: int) -> list[Tensor]:
    """Recordings from all over the list, as many as a vocoder is made of."""
    waves: list[Tensor] = []
    for one in recordings[:: -(-len(recordings) // _START_RECORDINGS)]:
        if sum(map(len, waves)) >= _START_SECONDS * rate:
            break
        waves.append(torch.from_numpy(whole(one, rate)))
    return waves


def _batch(crops: Crops, start: int, size: int, device: torch.device | None = None) -> Tensor:
    waves = [crops[i]["input_values"] for i in range(start, min(start + size, len(crops)))]
    return torch.from_numpy(np.stack(waves)).to(device)


_EXAMPLES = """examples:
  python -m bark_hf.training.codec --data recordings --output_dir my-codec --max_steps 20000
  python -m bark_hf.training.codec --data recordings --config codec.json --output_dir my-codec --bf16 true \\
      --per_device_train_batch_size 64 --crop_seconds 1 --dataloader_num_workers 8 --report_to tensorboard
The same command goes on after an interruption."""


def main(arguments: list[str] | None = None) -> Path:
    """From a command line; see `--help`. Returns the folder of the result."""
    parser = HfArgumentParser(
        (CodecDataArguments, CodecTrainingArguments),
        prog="python -m bark_hf.training.codec",
        usage="python -m bark_hf.training.codec --data FOLDER --output_dir FOLDER [--config FILE.json] [options]",
        description="Trains a codec with transformers' Trainer, all of whose arguments are options here.",
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    data, training = parser.parse_args_into_dataclasses(arguments)
    if data.config is not None:
        config = EncodecConfig.from_json_file(data.config)
    else:
        config = codec_config(**(SHAPE if training.start == "vocoder" else {}))
    return train_codec(config, data.data, training)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
