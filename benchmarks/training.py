"""Training throughput and memory of each stage at a size, settings in turn; a table, then one JSON line.

Random weights and random ids with the lengths of read sentences (LJSpeech's: 6.6 s on average, 1 to 10). Each setting
lives in a process of its own, so that its peak memory is its own."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments

import bark_hf
from bark_hf.bench.machine import commit, hardware, versions
from bark_hf.training.run import train_stage
from bark_hf.training.stages import STAGES, Stage
from bark_hf.training.utterances import Utterances
from bark_hf.vocabulary import Vocabulary

SETTINGS = {
    "all weights": {},
    "all weights, full-length padding": {"full_length": True},
    "all weights, bfloat16": {"bf16": True},
    "all weights, activation checkpointing": {"gradient_checkpointing": True},
    "LoRA 16": {"lora_rank": 16},
}
PADDING = ("all weights", "all weights, full-length padding")  # semantic: to a batch's longest row, to 1 024


class Clock(TrainerCallback):
    """Notes when each step ended, and how many seconds of audio it had read."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.perf_counter())


def rows(vocabulary: Vocabulary, count: int) -> list[dict]:
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        length = int(np.clip(random.normal(6.6, 2.2), 1, 10) * vocabulary.semantic_rate_hz)
        frames = vocabulary.coarse_length(length) // vocabulary.n_coarse_codebooks
        made.append({
            "text_ids": random.integers(1, 20_000, 30).tolist(),
            "semantic_ids": random.integers(0, vocabulary.semantic_vocab_size, length).tolist(),
            "codes": random.integers(0, vocabulary.codebook_size, (8, frames)).tolist(),
            "speaker": "a",
        })  # fmt: skip
    return made


def measure(stage_name: str, setting: str, arguments) -> dict:
    """Runs one setting here."""
    torch.set_num_threads(arguments.threads)
    layers, heads, width = map(int, arguments.size.split("x"))
    sizes = {"num_layers": layers, "num_heads": heads, "hidden_size": width, "bias": False}
    torch.manual_seed(0)
    parts = dict.fromkeys(("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"), sizes)
    stage = Stage(stage_name, bark_hf.BarkModel(bark_hf.BarkConfig(**parts)))
    others = [
        name
        for name in ("semantic", "coarse_acoustics", "fine_acoustics")
        if getattr(stage.bark, name) is not stage.network
    ]
    for name in others:
        delattr(stage.bark, name)  # their memory is not this stage's
    count = arguments.batch_size * (arguments.steps + 1)
    data = Utterances(rows(stage.vocabulary, count), stage.vocabulary, history_share=0.5)
    options = dict(SETTINGS[setting])
    own = {name: options.pop(name) for name in ("full_length", "lora_rank") if name in options}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingArguments(
            folder, max_steps=arguments.steps + 1, per_device_train_batch_size=arguments.batch_size, report_to="none",
            train_sampling_strategy="group_by_length", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available(), **options,
        )  # fmt: skip
        train_stage(stage, data, None, training, callbacks=[clock], **own)
    seconds = clock.ends[-1] - clock.ends[0]
    audio = sum(data.lengths) / stage.vocabulary.semantic_rate_hz * arguments.steps / (arguments.steps + 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e9
    return {"stage": stage_name, "setting": setting, "seconds_per_step": seconds / arguments.steps,
            "audio_seconds_per_second": audio / seconds, "peak_gb": peak}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="12x12x768", help="LAYERSxHEADSxWIDTH; bark-small's by default")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="measured ones, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip", nargs="*", default=[], choices=list(SETTINGS), help="settings to leave out")
    parser.add_argument(
        "--padding", type=int, metavar="ROUNDS", help="only what padding to the longest row gains, in turn"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("STAGE", "SETTING"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments)))
        return
    runs = [
        (stage, setting)
        for stage in STAGES
        for setting in SETTINGS
        if setting not in arguments.skip and not (stage == "fine" and "padding" in setting)  # windows have one length
    ]
    if arguments.padding:
        runs = [("semantic", setting) for setting in PADDING] * arguments.padding
    found, failed = [], []
    for stage, setting in runs:
        command = [sys.executable, *sys.argv, "--one", stage, setting]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:  # the others' numbers still count
            print(f"{stage:9} {setting:38} failed:\n{done.stderr}", file=sys.stderr)
            failed.append({"stage": stage, "setting": setting, "exit_status": done.returncode})
            continue
        found.append(json.loads(done.stdout.splitlines()[-1]))
        one = found[-1]
        speed = f"{one['seconds_per_step']:6.2f} s/step {one['audio_seconds_per_second']:7.2f} s of audio/s"
        print(f"{stage:9} {setting:38} {speed} {one['peak_gb']:6.2f} GB", file=sys.stderr)
    short, full = (
        [one["audio_seconds_per_second"] for one in found if (one["stage"], one["setting"]) == ("semantic", setting)]
        for setting in PADDING
    )
    gains = [ours / theirs for ours, theirs in zip(short, full, strict=False)]  # one may be left out or have failed
    result = {
        "benchmark": "training",
        "options": {name: value for name, value in vars(arguments).items() if name not in ("output", "one")},
        "results": found,
        "failed": failed,
        "gain_of_short_padding": median(gains) if gains else None,
        "gains_of_short_padding": gains,
        "hardware": hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "versions": versions(),
        "commit": commit(),
    }
    if gains:
        print(f"padding to a batch's longest row: {median(gains):.2f} times full-length padding", file=sys.stderr)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    if failed:
        sys.exit(f"error: {len(failed)} of {len(runs)} settings failed")


if __name__ == "__main__":
    main()
