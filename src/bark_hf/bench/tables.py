"""A benchmark's result as tables for people.

Knows nothing of measuring: it reads the JSON."""

from typing import Any

from rich.console import Group
from rich.table import Table

COLUMNS = ("engine", "dtype", "batch", "semantic s", "coarse s", "fine s", "codec s", "RTF", "x transformers",
           "first window s", "memory GB")  # fmt: skip
DETAILS = ("engine", "dtype", "batch", "semantic prefill s", "step ms", "ids/s", "GB/s", "coarse prefill s", "step ms",
           "ids/s", "GB/s", "warm-up s")  # fmt: skip


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row for each run, in the order of `COLUMNS`; medians, fastest first within a batch."""
    same = {
        (ratio["engine"], ratio["dtype"], ratio["batch"]): ratio["total"]
        for ratio in result["ratios"]
        if ratio["to"]["against"] == "same dtype"
    }
    made = []
    for run in sorted(result["runs"], key=lambda run: (run["batch"], run["median"]["total_s"])):
        median, key = run["median"], (run["engine"], run["dtype"], run["batch"])
        memory = median["peak_memory_bytes"]
        seconds = [median[name] for name in ("semantic_s", "coarse_s", "fine_s", "codec_s", "rtf")]
        rest = [same.get(key), median["first_window_s"], memory and memory / 1e9]
        made.append((run["engine"], run["dtype"], str(run["batch"]), *map(number, [*seconds, *rest])))
    return made


def details(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The causal stages' rows, in the order of `DETAILS`."""
    names = ("semantic_prefill_s", "semantic_step_ms", "semantic_tokens_per_s", "semantic_gb_s", "coarse_prefill_s",
             "coarse_step_ms", "coarse_tokens_per_s", "coarse_gb_s")  # fmt: skip
    made = []
    for run in sorted(result["runs"], key=lambda run: (run["batch"], run["median"]["total_s"])):
        numbers = [*(run["median"][name] for name in names), run["warm_up_s"]]
        made.append((run["engine"], run["dtype"], str(run["batch"]), *map(number, numbers)))
    return made


def number(value: float | None) -> str:
    """Three significant digits, without an exponent; a dash for what was not measured."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def heading(result: dict[str, Any]) -> str:
    """What was measured and where, in one line."""
    options, hardware = result["options"], result["hardware"]
    what = options["model"] or f"{options['size']}, random weights"
    where = hardware.get("gpu") or f"{hardware['cpu']}, {options['threads']} threads"
    return f"{what}: {result['tokens']['audio_s']:.1f} s of audio on {where}, median of {options['rounds']}"


def table(result: dict[str, Any]) -> Group:
    """Both tables and who was skipped, for rich's console."""
    parts: list[Any] = [heading(result)]
    for columns, lines in ((COLUMNS, rows(result)), (DETAILS, details(result))):
        made = Table(box=None, pad_edge=False)
        for index, column in enumerate(columns):
            made.add_column(column.replace(" ", "\n"), justify="left" if index < 2 else "right", no_wrap=True)
        for line in lines:
            made.add_row(*line)
        parts += [made, ""]
    copy = result["copy_gb_s"]
    parts.append(f"GB/s: weights that a step must read; a copy on this machine moves {copy:.0f} (read and written)")
    for one in result["skipped"]:
        batch = f", batch {one['batch']}" if one["batch"] else ""
        parts.append(f"skipped {one['engine']} {one['dtype']}{batch}: {one['reason']}")
    return Group(*parts)
