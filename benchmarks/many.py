"""`generate_many` against fixed batches: the same texts, seeds and lengths, in turn; a table, then one JSON line.

Fixed batches come twice: as `generate` makes them, where a row that has ended costs nothing more, and as it is usual,
where all rows go on for as long as the longest. Random weights never end by themselves, so EOS is made likely: lengths
are geometric, cut at 768, one for each seed."""

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


def batches(texts: torch.Tensor, size: int):
    for first in range(0, len(texts), size):
        yield texts[first : first + size], list(range(first, min(first + size, len(texts))))


def fixed(model, texts: torch.Tensor, size: int, made: dict) -> list:
    """Rows that have ended cost nothing more."""
    results = [model.generate(rows, seed=seeds, **PLAIN) for rows, seeds in batches(texts, size)]
    made["lengths"] = [len(ids) for result in results for ids in result.semantic_tokens]
    return [codes for result in results for codes in result.fine_codes]


def padded(model, texts: torch.Tensor, size: int, made: dict) -> list:
    """No row ends before the longest of its batch."""
    codes = []
    for rows, seeds in batches(texts, size):
        longest = max(made["lengths"][seed] for seed in seeds)
        result = model.generate(rows, seed=seeds, allow_early_stop=False, max_new_tokens=longest, **PLAIN)
        codes += result.fine_codes
    return codes


def many(model, texts: torch.Tensor, size: int, made: dict) -> list:
    inputs = [{"input_ids": text[None]} for text in texts]
    results = model.generate_many(inputs, batch_size=size, seed=0, min_eos_p=None)
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
    ways: dict = {"fixed": fixed, "padded": padded, "generate_many": many}
    seconds: dict = {name: [] for name in ways}
    made: dict = {}
    for number in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            made[name] = way(model, texts, arguments.batch_size, made)
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
        "ratio": {name: medians[name] / medians["generate_many"] for name in ("fixed", "padded")},
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
    }
    print(", ".join(f"{name} {median:.1f} s" for name, median in medians.items()), file=sys.stderr)
    ratios = " and ".join(f"{ratio:.2f} times as fast as {name}" for name, ratio in result["ratio"].items())
    print(f"generate_many is {ratios}; {same} of {len(texts)} results equal those of fixed", file=sys.stderr)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
