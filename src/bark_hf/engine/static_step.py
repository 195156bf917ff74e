"""A decoding step of fixed shapes: rows and read positions in buckets, everything in buffers that stay in place.

On CUDA each bucket is captured once as a graph and replayed; elsewhere the same code runs as it is. Knows nothing of
sampling. Declared, never run on CUDA: what runs here is the path without graphs."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

READ_BUCKET = 128  # read positions are rounded up to this, so that few graphs serve all lengths
WARM_UPS = 3  # runs before a capture, so that libraries have made their choices


class Captured(NamedTuple):
    """One bucket: its inputs, which are written before a run, its output, and the graph, None without CUDA."""

    ids: Tensor  # (rows,)
    positions: Tensor  # (rows, 1)
    logits: Tensor  # (rows, V)
    graph: Any


class StaticStep:
    """Steps of a session's rows through captured buckets. Lives as long as the session, whose cache graphs hold."""

    def __init__(self, cache):
        self.cache = cache
        self.step: Any = None  # the run's FastStep
        self.captured: dict[tuple, Captured] = {}

    def __call__(self, ids: Tensor, positions: Tensor, longest: int, legal: tuple[int, int] | None) -> Tensor:
        """(n,) ids at `positions` (n, 1), all below `longest` -> (n, V) logits, valid until the next call."""
        rows = min(1 << (len(ids) - 1).bit_length(), self.cache.slots)
        limit = min(-(-longest // READ_BUCKET) * READ_BUCKET, self.cache.capacity)
        key = (rows, limit, legal)
        if key not in self.captured:
            self.captured[key] = self._capture(rows, limit, legal, ids.device)
        one = self.captured[key]
        one.ids[: len(ids)] = ids
        one.positions[: len(ids)] = positions
        if one.graph is not None:
            one.graph.replay()
            return one.logits[: len(ids)]
        return self._run(one.ids, one.positions, limit, legal)[: len(ids)]

    def _run(self, ids: Tensor, positions: Tensor, limit: int, legal) -> Tensor:
        cache = self.cache
        cache.rows, cache.start, cache.limit, cache.positions = slice(0, len(ids)), None, limit, positions
        cache.mask = (torch.arange(limit, device=ids.device) <= positions)[:, None, None]
        return self.step(ids, cache, legal)

    def _capture(self, rows: int, limit: int, legal, device: torch.device) -> Captured:
        # rows beyond the running ones write at the last position, which no running row's mask shows before it is
        # written anew; so do the runs before a capture
        ids = torch.zeros(rows, dtype=torch.long, device=device)
        positions = torch.full((rows, 1), self.cache.capacity - 1, device=device)
        if device.type != "cuda":
            return Captured(ids, positions, torch.empty(0, device="cpu"), None)
        with torch.cuda.device(device), _autocast_without_cache():
            # torch's own capture stream lies on the device that was current when it was first needed
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._run(ids, positions, limit, legal)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": what other threads do on CUDA in the meantime is no error
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                logits = self._run(ids, positions, limit, legal)
        return Captured(ids, positions, logits, graph)


def _autocast_without_cache() -> torch.autocast:
    """Autocast as it is around, but that casts of weights are part of a capture: cached ones are freed at its end."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    return torch.autocast("cuda", dtype=dtype, enabled=enabled, cache_enabled=False)
