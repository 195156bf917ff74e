"""Makes the README's table of speeds from benchmarks/results/*.json: report.py [README] [RESULTS]."""

import json
import sys
from pathlib import Path

from bark_hf.bench.tables import COLUMNS, heading, rows

HERE = Path(__file__).parent
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def section(name: str, result: dict) -> str:
    """One result file as Markdown: what and where, the table, versions and commit."""
    lines = [f"**{heading(result)}** (`{name}`)", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(result)]
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items() if version)
    commit = f"commit {result['commit']['hash'][:9]}, " if result["commit"] else ""
    return "\n".join([*lines, "", f"{commit}{versions}; a copy moves {result['copy_gb_s']:.0f} GB/s here."])


def report(readme: Path, results: Path) -> None:
    """Replaces what stands between the markers. Raises ValueError where they are missing."""
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} needs the markers {BEGIN} and {END}, in this order.")
    files = sorted(results.glob("*.json"))
    sections = [section(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    readme.write_text("\n\n".join([before + BEGIN, *sections, END + after]), encoding="utf-8")


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    try:
        report(*(paths + [HERE.parent / "README.md", HERE / "results"][len(paths) :]))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")
