"""Rounds in turn (A B A B) over engines that each live in a process, and what follows: medians, rates, ratios.

Knows nothing of how an engine works or how results are shown."""

import importlib.util
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .engines import ENGINES
from .machine import commit, copy_gb_s, hardware, place_on, versions
from .worker import Worker, WorkerError
from .workload import describe, step_weights, tokens_for, vocabulary_of, write_random_checkpoint

SIZES = {"tiny": (4, 4, 256), "small": (12, 12, 768), "large": (24, 16, 1024)}  # layers, heads, width
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
STAGES = ("semantic", "coarse", "fine", "codec")
REFERENCE = "transformers"
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Options:
    """One benchmark. size: a name or LAYERSxHEADSxWIDTH of random weights; model: a checkpoint instead of them."""

    size: str = "small"
    model: str | None = None
    engines: tuple[str, ...] = tuple(ENGINES)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    batches: tuple[int, ...] = (1,)
    seconds: float = 10.0
    rounds: int = 3
    threads: int = 1
    device: str = "cpu"
    warm_up: str = "few"
    shape: tuple[int, int, int] | None = field(init=False, default=None)

    def __post_init__(self):
        for name, given, known in (
            ("engine", self.engines, tuple(ENGINES)), ("dtype", self.dtypes, tuple(BYTES)),
            ("warm-up", (self.warm_up,), ("few", "whole")),
        ):  # fmt: skip
            unknown = [one for one in given if one not in known]
            if unknown or not given:
                raise ValueError(f"Unknown {name} {', '.join(unknown) or '(none)'!r}; known: {', '.join(known)}.")
        for name, least in (
            ("rounds", self.rounds),
            ("threads", self.threads),
            ("batch", min(self.batches, default=0)),
        ):
            if least < 1:
                raise ValueError(f"`{name}` must be at least 1, got {least}.")
        if not self.seconds > 0:
            raise ValueError(f"`seconds` must be above 0, got {self.seconds}.")
        if self.model is None:
            object.__setattr__(self, "shape", _shape(self.size))


def run(options: Options, report: Report = lambda done, total, sentence: None) -> dict[str, Any]:
    """Measures; returns what is written as JSON. report: gets (rounds done, rounds in all, what goes on).

    An engine that cannot run is listed under `skipped` with its reason. Raises ValueError where none can."""
    with ExitStack() as stack:
        bench = _Bench(options, report, stack)
        if bench.engines:
            folder = options.model or stack.enter_context(tempfile.TemporaryDirectory(prefix="bark-bench-"))
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            bench.prepare(folder)
            bench.build(folder)
            bench.measure()
    if not bench.runs:
        raise ValueError(f"No engine could run. {' '.join(_sentence(one) for one in bench.skipped)}")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **bench.facts,
        "options": asdict(options),
        "runs": bench.runs,
        "ratios": ratios(bench.runs),
        "skipped": bench.skipped,
    }


class _Bench:
    """The engines that still run, the runs so far, and who was skipped and why."""

    def __init__(self, options: Options, report: Report, stack: ExitStack):
        self.options, self.report = options, report
        self.facts: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []
        self.skipped: list[dict[str, Any]] = []
        pairs = itertools.product(options.dtypes, options.engines)  # a dtype's engines next to each other
        keys = [(engine, dtype) for dtype, engine in pairs if self._offered(engine, dtype)]
        self.done, self.total = 0, len(keys) * len(options.batches) * options.rounds
        self.engines = {key: stack.enter_context(Worker(options.threads)) for key in keys}
        self.load_s: dict[tuple[str, str], float] = {}

    def prepare(self, folder: str) -> None:
        """Writes random weights where they are wanted; describes machine, model and workload."""
        options = self.options
        device = place_on(options.device, options.threads)
        vocabulary = vocabulary_of(folder)
        tokens = tokens_for(options.seconds, vocabulary)
        if options.shape is not None:
            self.report(0, self.total, "writing random weights")
            write_random_checkpoint(Path(folder), *options.shape, originals=self._has_suno())
        self.facts = {
            "tokens": tokens._asdict(),
            "model": describe(folder),
            "step_weights": step_weights(folder, vocabulary),
            "hardware": hardware(device),
            "versions": versions(),
            "commit": commit(),
        }

    def build(self, folder: str) -> None:
        """Loads every engine; then, with all of them idle, measures the copy bandwidth."""
        options = self.options
        place: dict[str, Any] = {"device": options.device, "threads": options.threads, "seconds": options.seconds}
        for key, worker in list(self.engines.items()):
            self._say(key, "loading")
            try:
                self.load_s[key] = worker.ask("build", engine=key[0], dtype=key[1], source=folder, **place)
            except WorkerError as error:
                self._skip(key, str(error))
                self.engines.pop(key).close()
        self.facts["copy_gb_s"] = copy_gb_s(torch.device(options.device))

    def _offered(self, engine: str, dtype: str) -> bool:
        if dtype not in ENGINES[engine].dtypes:
            self._skip((engine, dtype), f"It has no {dtype}.")
        elif self.options.model and ENGINES[engine].random_weights_only:
            self._skip((engine, dtype), "It is measured on random weights only.")
        else:
            return True
        return False

    def _has_suno(self) -> bool:
        return any(engine == "suno" for engine, _ in self.engines) and importlib.util.find_spec("bark") is not None

    def measure(self) -> None:
        for batch in self.options.batches:
            warm = {}
            for key, worker in self.engines.items():
                self._say(key, f"warming up batch {batch}")
                try:
                    warm[key] = worker.ask("warm_up", batch=batch, whole=self.options.warm_up == "whole")
                except WorkerError as error:
                    self._skip(key, str(error), batch)
            rounds: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in warm}
            for number in range(1, self.options.rounds + 1):
                for key in list(rounds):
                    self._one_round(key, batch, number, rounds)
            for key, measured in rounds.items():
                self.runs.append(
                    {
                        "engine": key[0], "dtype": key[1], "batch": batch, "load_s": self.load_s[key],
                        "warm_up_s": warm[key], "median": medians(measured), "rounds": measured,
                    }
                )  # fmt: skip

    def _one_round(self, key, batch: int, number: int, rounds) -> None:
        where = f"batch {batch}, round {number} of {self.options.rounds}"
        self._say(key, where)
        try:
            raw = self.engines[key].ask("round", lambda what: self._say(key, f"{where}: {what}"), batch=batch)
        except WorkerError as error:
            self._skip(key, str(error), batch)
            del rounds[key]
            return
        rounds[key].append(derive(raw, self.facts["tokens"], self.facts["step_weights"], key[1], batch))
        self.done += 1
        self._say(key, f"{where}: RTF {rounds[key][-1]['rtf']:.3g}")

    def _skip(self, key: tuple[str, str], reason: str, batch: int | None = None) -> None:
        self.skipped.append({"engine": key[0], "dtype": key[1], "batch": batch, "reason": reason})

    def _say(self, key: tuple[str, str], sentence: str) -> None:
        self.report(self.done, self.total, f"{key[0]} {key[1]}: {sentence}")


def derive(raw: dict[str, Any], tokens: dict[str, Any], step_weights: dict[str, int], dtype: str, batch: int):
    """A round's seconds and what follows from them, flat: {stage}_s, prefill, step, tokens/s, GB/s, RTF, memory.

    Semantic step: the whole run less the run of one id, a step. Coarse prefill and step are those of a full window:
    a voice in front, 60 ids less one frame. rtf: seconds of computing for a second of audio, all rows together."""
    n = tokens["semantic"]
    semantic_step = (raw["semantic"] - raw["semantic_one"]) / max(n - 1, 1)
    coarse_step = (raw["coarse_voice_window"] - raw["coarse_voice_frame"]) / raw["coarse_voice_steps"]
    total = sum(raw[stage] for stage in STAGES)
    steps = {"semantic": semantic_step, "coarse": coarse_step}
    return {
        **{f"{stage}_s": raw[stage] for stage in STAGES},
        "total_s": total,
        "rtf": total / (tokens["audio_s"] * batch),
        "first_window_s": raw["semantic"] + raw["coarse_first_window"],
        "semantic_prefill_s": raw["semantic_one"],
        "coarse_prefill_s": raw["coarse_voice_frame"] - raw["coarse_voice_prefill_steps"] * coarse_step,
        **{f"{stage}_step_ms": 1000 * step for stage, step in steps.items()},
        "semantic_tokens_per_s": batch * n / raw["semantic"],
        "coarse_tokens_per_s": batch * tokens["coarse"] / raw["coarse"],
        "fine_frames_per_s": batch * tokens["frames"] / raw["fine"],
        **{f"{stage}_gb_s": _rate(step_weights[stage] * BYTES[dtype], step) for stage, step in steps.items()},
        "peak_memory_bytes": raw["peak_memory_bytes"],
    }


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Each number's median over the rounds; of the memory peaks the highest."""
    result: dict[str, Any] = {}
    for name in rounds[0]:
        values = [one[name] for one in rounds]
        if None in values:
            result[name] = None
        else:
            result[name] = max(values) if name == "peak_memory_bytes" else statistics.median(values)
    return result


def ratios(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as fast as transformers each run is, at the same batch: at the same dtype, and at its best one.

    `to` names the run that is compared with; the numbers are its median seconds over the run's own."""
    runs = list(runs)
    result = []
    for one in runs:
        others = [o for o in runs if o["engine"] == REFERENCE and o["batch"] == one["batch"]]
        if one["engine"] == REFERENCE or not others:
            continue
        best = min(others, key=lambda other: other["median"]["total_s"])
        same = [other for other in others if other["dtype"] == one["dtype"]]
        for against, found in (("same dtype", same), ("best", [best])):
            for other in found:
                names = [*(f"{stage}_s" for stage in STAGES), "total_s", "first_window_s"]
                faster = {n.removesuffix("_s"): other["median"][n] / one["median"][n] for n in names}
                to = {"engine": REFERENCE, "dtype": other["dtype"], "against": against}
                result.append(
                    {"engine": one["engine"], "dtype": one["dtype"], "batch": one["batch"], "to": to} | faster
                )
    return result


def _sentence(skipped: dict[str, Any]) -> str:
    return f"{skipped['engine']} {skipped['dtype']}: {skipped['reason']}"


def _rate(count: float, seconds: float) -> float | None:
    """GB/s; None where clocks jittered more than the step took."""
    return count / seconds / 1e9 if seconds > 0 else None


def _shape(size: str) -> tuple[int, int, int]:
    if size in SIZES:
        return SIZES[size]
    try:
        layers, heads, width = (int(part) for part in size.split("x"))
    except ValueError:
        raise ValueError(f"Unknown size {size!r}; known: {', '.join(SIZES)}, or LAYERSxHEADSxWIDTH.") from None
    if min(layers, heads, width) < 1 or width % heads:
        raise ValueError(f"Size {size}: the width must be a multiple of the heads, and all at least 1.")
    return layers, heads, width
