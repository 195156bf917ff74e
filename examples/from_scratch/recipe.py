"""The recipe of a training from nothing: its settings, its folder, and how long its steps took.

Knows nothing of what the steps do."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bark_hf.bench.machine import hardware
from bark_hf.files import whole_file

RECIPE = Path(__file__).with_name("recipe.json")


@dataclass(frozen=True)
class Work:
    """The folder that all steps share, and the settings that stand in it."""

    folder: Path
    settings: dict[str, Any]

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the seconds that the block takes, also when it is interrupted, to `steps.json`; the card shows them."""
        start = time.perf_counter()
        try:
            yield
        finally:
            steps = self.steps()
            machine = hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            seconds = steps.get(step, {"seconds": 0})["seconds"] + time.perf_counter() - start
            steps[step] = {"seconds": round(seconds, 1), "on": machine.get("gpu", f"{machine['cores']} CPU cores")}
            _write(self.folder / "steps.json", steps)

    def steps(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "steps.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def begun(folder: Path, profile: str) -> Work:
    """The folder with its own `recipe.json`: made by the first step, edited by whoever wants other settings.

    Raises ValueError for an unknown profile, and where the folder was begun with another one."""
    recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
    profiles = recipe.pop("profiles")
    if profile not in profiles:
        raise ValueError(f"There is no profile {profile!r}; choose one of {', '.join(profiles)}.")
    path = folder / RECIPE.name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, {"profile": profile, **merged(recipe, profiles[profile])})
    work = opened(folder)
    if work.settings["profile"] != profile:
        raise ValueError(
            f"{folder} was begun with --profile {work.settings['profile']}; repeat that, or name another folder."
        )
    return work


def opened(folder: Path) -> Work:
    """A folder that `make_data.py` has begun. Raises FileNotFoundError for another, ValueError for an older one."""
    path = folder / RECIPE.name
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {RECIPE.name}; begin with make_data.py {folder}.")
    settings = json.loads(path.read_text(encoding="utf-8"))
    recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
    lacking = recipe.keys() - settings.keys() - {"profiles"}
    lacking |= {f"data.{name}" for name in recipe["data"].keys() - settings.get("data", {}).keys()}
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(sorted(lacking))}: an older one. Add it, or begin another folder.")
    return Work(folder, settings)


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Settings with the changes over them, level by level."""
    both = {
        name: merged(settings[name], value) if isinstance(value, dict) and name in settings else value
        for name, value in changes.items()
    }
    return {**settings, **both}


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every step has: the folder."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("work", type=Path, help="the folder of this training; all steps share it")
    return made


def say(text: str) -> None:
    print(text, file=sys.stderr)


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
