"""Filters and draws: logits and uniform numbers in, token ids out.

Knows nothing of what the ids mean. The order is the original's: top-p on untempered logits, top-k, temperature."""

import numpy as np
import torch
from torch import Tensor


def filter_logits(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """(..., V) logits with -inf where a filter drops the id; the input is not changed.

    top-p keeps the smallest set of the likeliest ids whose mass exceeds `top_p`, the one that crosses it included
    (Holtzman et al., 2020); top-k keeps the k largest and ties with the k-th."""
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1).cumsum(-1)
        drop = torch.zeros_like(mass, dtype=torch.bool)
        drop[..., 1:] = mass[..., :-1] > top_p
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    if top_k:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    return logits


def probabilities(
    logits: Tensor, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """(..., V) float32 probabilities that are drawn from."""
    logits = filter_logits(logits.float(), top_k, top_p)
    return (logits / temperature if temperature is not None else logits).softmax(-1)


def has_float64(device: torch.device) -> bool:
    """Whether the device is known to compute in float64, which sampling needs; Apple's MPS does not."""
    return device.type in ("cpu", "cuda", "meta")


def uniforms_device(device: torch.device) -> torch.device:
    """Where float64 uniforms for probabilities on `device` belong: there, or on the CPU where it has no float64."""
    return device if has_float64(device) else torch.device("cpu")


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """(..., V) probabilities and (...) uniforms in [0, 1) -> (...) ids by inverse CDF, float64, no host sync.

    A device without float64 waits for the CPU, which computes the same ids there. An id of probability 0 is never
    drawn: what is below 1 makes a product below the sum, rounded as well. NaN gives V, which is no id."""
    if not has_float64(probs.device):
        return draw(probs.cpu(), uniforms.cpu()).to(probs.device)
    cdf = probs.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cdf, uniforms.double().unsqueeze(-1) * cdf[..., -1:], right=True).squeeze(-1)


STREAMS = {"semantic": 0, "coarse": 1, "fine": 2}


def random_stream(seed: int, stage: str) -> np.random.Philox:
    """The bits of one row's draws in one stage; streams of (seed, stage) pairs are independent.

    NumPy's Philox, whose raw bits never change between versions: torch's CPU generator uses 32 bits of a seed."""
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=(STREAMS[stage],)))


def uniforms(stream: np.random.Philox, count: int) -> Tensor:
    """The stream's next (count,) float64 numbers in [0, 1), on the CPU, the same on every machine."""
    return torch.from_numpy((stream.random_raw(count) >> np.uint64(11)) * 2.0**-53)


MAX_SEED = 2**63 - 1


def row_seeds(rows: int, seed: int | list[int] | None = None, generator: torch.Generator | None = None) -> list[int]:
    """One seed per row: `seed + i`, the list itself, or drawn from `generator` (default: torch's global one)."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"`generator` must be a torch.Generator, got {type(generator).__name__}.")
    if seed is None:
        return torch.randint(0, MAX_SEED, (rows,), generator=generator, device=_device(generator)).tolist()
    if generator is not None:
        raise ValueError("Pass either `seed` or `generator`, not both.")
    seeds = [seed] * rows if not isinstance(seed, list | tuple) else list(seed)
    for one in seeds:
        if isinstance(one, bool) or not isinstance(one, int | np.integer) or not 0 <= one <= MAX_SEED:
            raise ValueError(f"`seed` must be an integer from 0 to 2**63 - 1, or a list of them, got {one!r}.")
    if len(seeds) != rows:
        raise ValueError(f"`seed` lists {len(seeds)} seeds for {rows} rows; pass one for each row, or an integer.")
    if isinstance(seed, list | tuple):
        return [int(one) for one in seeds]
    return [(int(seed) + row) % (MAX_SEED + 1) for row in range(rows)]


def _device(generator: torch.Generator | None):
    return generator.device if generator is not None else "cpu"
