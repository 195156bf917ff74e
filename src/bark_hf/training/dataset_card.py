"""What tokenizing a corpus gave, for people: a line, a table, and the dataset's card.

Knows nothing of tokens or files: it reads the report of `tokenize_corpus`."""

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import DatasetCardData
from rich.markup import escape
from rich.table import Table


def report_table(report: Mapping[str, Any]) -> Table:
    """What is kept in the title; a row for each reason why something is not."""
    table = Table(title=_summary(report), title_justify="left", box=None, pad_edge=False)
    if report["dropped"]:
        table.add_column("left out")
        table.add_column("rows", justify="right")
        table.add_column("for example")
    for reason, one in report["dropped"].items():
        table.add_row(reason, str(one["rows"]), escape("\n".join(one["examples"])))
    return table


def dataset_card(name: str, columns: Iterable[str], report: Mapping[str, Any]) -> str:
    """A README.md: what is in the dataset, what made it, what was left out."""
    made_by, vocabulary = report["made_by"], report["settings"]["vocabulary"]
    facts = DatasetCardData(pretty_name=name, task_categories=["text-to-speech"], tags=["bark"])
    lines = [
        "---",
        facts.to_yaml(),
        "---",
        f"# {name}",
        "",
        f"Speech as ids, for training Bark. {_summary(report)}",
        "",
        f"`codes` are {vocabulary['n_fine_codebooks']} codebooks at {vocabulary['coarse_rate_hz']:g} Hz. "
        f"`semantic_ids` came at {report['frame_rate']:g} Hz; Bark counts {vocabulary['semantic_rate_hz']:g}. Each "
        "row has as many codes as Bark makes of its semantic ids: what was too much, at most 0.1 s, is cut off.",
        "",
        "```python",
        "from datasets import load_from_disk",
        "",
        f'rows = load_from_disk("{name}")  # {", ".join(columns)}',
        "```",
        "",
        "| made by | | SHA-256 |",
        "|---|---|---|",
        *(f"| {kind.replace('_', ' ')} | {made_by[kind]} | `{report['settings'][kind]}` |" for kind in made_by),
    ]
    if report["dropped"]:
        lines += ["", "| left out | rows | for example |", "|---|---|---|"]
    for reason, one in report["dropped"].items():
        lines.append(f"| {reason} | {one['rows']} | {_cell(one['examples'][0])} |")
    return "\n".join(lines) + "\n"


def _summary(report: Mapping[str, Any]) -> str:
    seconds = report["seconds"]
    return (
        f"{report['kept']} of {report['rows']} rows, {report['hours']:.2f} hours, {seconds['least']:.1f} to "
        f"{seconds['most']:.1f} s each ({seconds['mean']:.1f} on average), named speakers: {report['speakers']}."
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
