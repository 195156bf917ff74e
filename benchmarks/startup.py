"""What starting costs: CPU seconds, seconds and imported modules of the package and of each light command.

Each runs in processes of its own. A table for people, then one JSON line."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from bark_hf.bench.machine import commit, hardware, versions

CLI = "from bark_hf.cli.main import main; main({})"
CODE = {
    "python": "pass",
    "import numpy": "import numpy",
    "import torch, transformers": "import torch, transformers",
    "import bark_hf": "import bark_hf",
    "from bark_hf import Voice": "from bark_hf import Voice",
    "from bark_hf import BarkModel": "from bark_hf import BarkModel",
    "bark-hf --version": CLI.format(["--version"]),
    "bark-hf --help": CLI.format(["--help"]),
    "bark-hf voices": CLI.format(["voices"]),
    "bark-hf speak Hello": CLI.format(["speak", "Hello", "--seed", "1"]),
}
COUNT = "import atexit, sys; atexit.register(lambda: print(len(sys.modules), 'torch' in sys.modules, file=sys.stderr))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of all in turn; medians are shown (%(default)s)")
    parser.add_argument("--output", type=Path, help="a .json file for the result")
    given = parser.parse_args()
    runs: dict[str, list[dict]] = {name: [] for name in CODE}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds + 1):  # the first compiles and fills the disk's cache
            for name, code in CODE.items():
                measured = started(code, folder)
                if number:
                    runs[name].append(measured)
    results = {
        name: {
            "cpu_s": round(median(one["cpu_s"] for one in measured), 3),
            "wall_s": round(median(one["wall_s"] for one in measured), 3),
            "modules": measured[0]["modules"],
            "torch": measured[0]["torch"],
        }
        for name, measured in runs.items()
    }
    print(f"{'':30} {'CPU s':>7} {'s':>7} {'modules':>8}  torch", file=sys.stderr)
    for name, one in results.items():
        torch_too = "yes" if one["torch"] else "no"
        print(f"{name:30} {one['cpu_s']:7.2f} {one['wall_s']:7.2f} {one['modules']:8}  {torch_too}", file=sys.stderr)
    result = {
        "benchmark": "startup",
        "options": {"rounds": given.rounds},
        "results": results,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "commit": commit(),
    }
    if given.output:
        given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def started(code: str, folder: str) -> dict:
    """Runs the code in a process, in that folder; raises CalledProcessError where it fails."""
    start, before = time.perf_counter(), children_cpu()
    ran = subprocess.run(
        [sys.executable, "-c", f"{COUNT}; {code}"], cwd=folder, capture_output=True, text=True, check=True
    )
    seconds, cpu = time.perf_counter() - start, children_cpu() - before
    modules, with_torch = ran.stderr.split()[-2:]
    return {"cpu_s": cpu, "wall_s": seconds, "modules": int(modules), "torch": with_torch == "True"}


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
