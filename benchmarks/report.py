"""Makes the README's tables from benchmarks/results/: of speech (*.json) and of training (training/*.json).

report.py [README] [RESULTS]"""

import json
import sys
from pathlib import Path

from bark_hf.bench.tables import COLUMNS, heading, rows

HERE = Path(__file__).parent
TRAINING = ("stage", "setting", "s a step", "s of audio a second", "peak GB")
PADDING = ("all weights", "all weights, full-length padding")  # what training.py compares


def section(name: str, result: dict) -> str:
    """One result file as Markdown: what and where, the table, versions and commit."""
    lines = [f"**{heading(result)}** (`{name}`)", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(result)]
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items() if version)
    commit = f"commit {result['commit']['hash'][:9]}, " if result["commit"] else ""
    return "\n".join([*lines, "", f"{commit}{versions}; a copy moves {result['copy_gb_s']:.0f} GB/s here."])


def training_section(name: str, result: dict) -> str:
    """One result of benchmarks/training.py as Markdown."""
    options, hardware = result["options"], result["hardware"]
    where = f"{hardware.get('gpu') or hardware['cpu']}, {options['threads']} threads"
    size = f"{options['size']} (layers, heads, width), batches of {options['batch_size']}"
    lines = [
        f"**{size}, {where}** (`training/{name}`)",
        "",
        f"| {' | '.join(TRAINING)} |",
        "|---" * len(TRAINING) + "|",
    ]
    for one in result["results"]:
        figures = [f"{one[name]:.3g}" for name in ("seconds_per_step", "audio_seconds_per_second", "peak_gb")]
        lines.append(f"| {' | '.join([one['stage'], one['setting'], *figures])} |")
    speeds = {
        one["setting"]: one["audio_seconds_per_second"] for one in result["results"] if one["stage"] == "semantic"
    }
    if speeds.keys() >= {*PADDING}:
        gain = speeds[PADDING[0]] / speeds[PADDING[1]]
        lines += [
            "",
            "Padding the semantic stage's batches, of sentences of like length, to the longest of each, as is the "
            f"default, trains it {gain:.2f} times as fast as padding all to 1 024 positions.",
        ]
    return "\n".join(lines)


def report(readme: Path, results: Path) -> None:
    """Replaces what stands between the markers. Raises ValueError where they are missing."""
    text = readme.read_text(encoding="utf-8")
    for marker, folder, make in (("bench", results, section), ("training", results / "training", training_section)):
        begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{readme} needs the markers {begin} and {end}, in this order.")
        files = sorted(folder.glob("*.json"))
        sections = [make(path.name, json.loads(path.read_text(encoding="utf-8"))) for path in files]
        text = "\n\n".join([before + begin, *sections, end + after])
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    try:
        report(*(paths + [HERE.parent / "README.md", HERE / "results"][len(paths) :]))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")
