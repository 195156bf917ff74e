"""Token accuracy of a stage, overall and for each codebook, without keeping logits.

Knows nothing of models: logits and labels in, ranks of the labels, then shares."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..vocabulary import Vocabulary
from .collators import IGNORED


def ranks(logits: Tensor, labels, shifted: bool) -> Tensor:
    """(B, T, V) logits and labels (B, T), or a tuple that begins with them -> (B, T) how many ids score above each
    label, -100 where there is none. `shifted`: the logits at t are for the label at t + 1 (a causal stage)."""
    if isinstance(labels, list | tuple):
        labels = labels[0]
    if isinstance(logits, list | tuple):
        logits = logits[0]
    if shifted:
        logits = torch.nn.functional.pad(logits, (0, 0, 1, 0))[:, :-1]
    wanted = logits.gather(-1, labels.clamp(min=0)[..., None])
    above = (logits > wanted).sum(-1)
    return torch.where(labels == IGNORED, IGNORED, above)


def accuracy(found: np.ndarray) -> dict[str, float]:
    """Ranks (n,) -> the shares that are first, and among the first ten."""
    return {"top1": float((found < 1).mean()), "top10": float((found < 10).mean())}


def token_accuracy(codebook_of: Callable[[np.ndarray, tuple], np.ndarray] | None) -> Callable:
    """A Trainer's `compute_metrics` over what `ranks` gives.

    codebook_of: (labels (N, T), the other label arrays) -> (N, T) codebook of each label; None where there is one."""

    def compute(prediction) -> dict[str, float]:
        given = prediction.label_ids
        labels, *rest = given if isinstance(given, tuple) else (given,)
        known = labels != IGNORED
        found = prediction.predictions[known]
        if not found.size:
            return {}
        metrics = accuracy(found)
        if codebook_of is not None:
            codebooks = codebook_of(labels, tuple(rest))[known]
            for codebook in np.unique(codebooks):
                shares = accuracy(found[codebooks == codebook])
                metrics |= {f"{name}_codebook_{codebook}": share for name, share in shares.items()}
        return metrics

    return compute


def coarse_codebook(vocabulary: Vocabulary) -> Callable:
    """The codebook of a coarse label follows from its id."""
    return lambda labels, rest: (labels - vocabulary.semantic_vocab_size) // vocabulary.codebook_size


def fine_codebook(labels: np.ndarray, rest: tuple) -> np.ndarray:
    """The fine stage's second label array, (N,), is each row's codebook."""
    return np.broadcast_to(rest[0][:, None], labels.shape)
