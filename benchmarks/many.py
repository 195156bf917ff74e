"""`generate_many` against fixed batches: the same texts, seeds and lengths, in turn; a table, then one JSON line.

Random weights never end by themselves, so EOS is made likely: lengths are geometric, cut at 768, one for each seed."""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch

import bark_hf
from bark_hf.bench.machine import commit, hardware, versions

PLAIN = {"min_eos_p": None, "return_dict_in_generate": True}


def build(layers: int, heads: int, width: int, dtype: torch.dtype, mean: int):
    """Random weights whose semantic stage gives EOS a probability of 1 / mean, whatever the text.

    One number of the last hidden state is made a constant, and the EOS row of the head reads that number alone."""
    sizes = {"num_layers": layers, "num_heads": heads, "hidden_size": width, "bias": True}
    torch.manual_seed(0)
    stages = dict.fromkeys(("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"), sizes)
    model = bark_hf.BarkModel(bark_hf.BarkConfig(**stages)).eval()
    eos = model.generation_config.semantic_config.eos_token_id
    final, head = model.semantic.layernorm_final, model.semantic.lm_head.weight
    with torch.no_grad():
        final.weight[0], final.bias[0] = 0, 1
        head[:, 0] = 0
        head[eos] = 0
        temperature = model.generation_config.semantic_config.temperature
        others = head[:eos].var().item() * width / temperature**2 / 2  # log of the mean exponential of their scores
        head[eos, 0] = temperature * (math.log(eos / mean) + others)
    return model.to(dtype)


def fixed(model, texts: torch.Tensor, size: int, **options) -> list:
    codes = []
    for first in range(0, len(texts), size):
        seeds = list(range(first, min(first + size, len(texts))))
        codes += model.generate(texts[first : first + size], seed=seeds, **PLAIN, **options).fine_codes
    return codes


def many(model, texts: torch.Tensor, size: int, **options) -> list:
    inputs = [{"input_ids": text[None]} for text in texts]
    results = model.generate_many(inputs, batch_size=size, seed=0, min_eos_p=None, **options)
    return [result.fine_codes[0] for _, result in sorted(results, key=lambda pair: pair[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--mean", type=int, default=200, help="semantic ids a text has on average (49.9 a second)")
    parser.add_argument("--size", default="4x4x256", help="LAYERSxHEADSxWIDTH")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build(*map(int, arguments.size.split("x")), getattr(torch, arguments.dtype), arguments.mean)
    texts = torch.randint(1, 20_000, (arguments.texts, 20), generator=torch.Generator().manual_seed(1))
    ways, seconds, made = {"fixed": fixed, "generate_many": many}, {"fixed": [], "generate_many": []}, {}
    for number in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            made[name] = way(model, texts, arguments.batch_size)
            seconds[name].append(time.perf_counter() - start)
            print(f"round {number + 1}: {name} {seconds[name][-1]:.1f} s", file=sys.stderr)
    frames = sorted(codes.shape[1] for codes in made["fixed"])
    same = sum(torch.equal(a, b) for a, b in zip(made["fixed"], made["generate_many"], strict=True))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        "benchmark": "many",
        "options": {name: value for name, value in vars(arguments).items() if name != "output"},
        "frames": {"min": frames[0], "median": statistics.median(frames), "max": frames[-1]},
        "equal_results": same,
        "seconds": seconds,
        "median": medians,
        "ratio": medians["fixed"] / medians["generate_many"],
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
    }
    table = f"fixed {medians['fixed']:.1f} s, generate_many {medians['generate_many']:.1f} s"
    print(f"{table}: {result['ratio']:.2f} times as fast, {same} of {len(texts)} results equal", file=sys.stderr)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
