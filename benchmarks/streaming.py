"""What streaming costs and gains: time to the first audio, word errors and distance to `generate`, mode by mode.

Reads the held-out corpus of examples/from_scratch, one text at a time. A table for people, then one JSON line."""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from quality import error_rates, held_out, load, recognized, tell
from tqdm import tqdm

from bark_hf.audio import resample
from bark_hf.bench.machine import cores
from bark_hf.longform.quality import spoken_words
from bark_hf.training.codec_network import SpectralDistance

MODES = {
    "generate": None,
    "full look-ahead": {"lookahead": None},
    "1 s": {"lookahead": 1.0},
    "0.3 s (default)": {},
    "0.1 s": {"lookahead": 0.1},
    "none": {"lookahead": 0.0},
    "0.3 s, overlap 1 s": {"overlap": 1.0},
    "0.1 s, overlap 0.5 s": {"lookahead": 0.1, "overlap": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a composite checkpoint, or nano for the bundled one")
    parser.add_argument("data", type=Path, help="held-out recordings: a corpus with speakers, such as WORK/heldout")
    parser.add_argument("--sentences", type=int, default=10, help="of each voice (%(default)s)")
    parser.add_argument("--mode", choices=MODES, action="append", help="beside generate; by default all")
    parser.add_argument("--preset", default="en_speaker_{}", help="the preset of a voice (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--num-proc", type=int, default=cores(), help="processes that recognize (%(default)s)")
    parser.add_argument("--output", type=Path, help="a .json file for the result")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, processor = load(given.model)
    rows = held_out(given.data, None, given.sentences)
    model.warmup()
    made = {name: [spoken(model, processor, row, given, MODES[name]) for row in tqdm(rows, desc=name)]
            for name in dict.fromkeys(["generate", *(given.mode or MODES)])}  # fmt: skip
    rate = model.generation_config.sample_rate
    texts = [spoken_words(row["text"]) for row in rows]
    distance = SpectralDistance(rate)
    results = {}
    for name, all_spoken in made.items():
        heard = recognized([resample(one["audio"], rate, 16_000) for one in all_spoken], given.num_proc)
        apart = [_apart(distance, one, base) for one, base in zip(all_spoken, made["generate"], strict=True)]
        results[name] = {
            "first_audio_s": median(one["first"] for one in all_spoken),
            "rtf": sum(one["all"] for one in all_spoken) / sum(len(one["audio"]) / rate for one in all_spoken),
            **error_rates(texts, [spoken_words(one) for one in heard]),
            "log_mel_distance": float(np.mean(apart)),
        }
    for name, one in results.items():
        print(f"{name:22} first audio {one['first_audio_s']:6.3f} s  RTF {one['rtf']:5.2f}  WER {one['wer']:.3f}  "
              f"log-mel distance {one['log_mel_distance']:.3f}", file=sys.stderr)  # fmt: skip
    tell("streaming", given, results, model.device)


def spoken(model, processor, row: dict, given: argparse.Namespace, options: dict | None) -> dict:
    """The audio (N,), seconds until its first sample could be heard, and seconds in all."""
    inputs = processor(row["text"], voice_preset=given.preset.format(row["speaker"]))
    start = time.perf_counter()
    if options is None:
        audio = model.generate(**inputs, seed=row["number"])[0].cpu().numpy()
        first = time.perf_counter() - start
    else:
        pieces, first = [], 0.0
        for piece in model.stream(**inputs, seed=row["number"], **options):
            first = first or time.perf_counter() - start
            pieces.append(piece)
        audio = np.concatenate(pieces)
    return {"audio": audio, "first": first, "all": time.perf_counter() - start}


def _apart(distance: SpectralDistance, one: dict, base: dict) -> float:
    length = min(len(one["audio"]), len(base["audio"]))
    both = [torch.from_numpy(each["audio"][:length])[None] for each in (one, base)]
    return float(distance(*both)[0])


if __name__ == "__main__":
    main()
