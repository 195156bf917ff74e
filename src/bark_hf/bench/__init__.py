"""Benchmarks: engines on the same random weights or on a user's checkpoint, in turn, stage by stage.

Knows nothing of command lines; `run` takes `Options` and returns what becomes one line of JSON."""

from .measure import Options, run
from .tables import table

__all__ = ["Options", "run", "table"]
