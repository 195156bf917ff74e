"""The versions that `make` and CI install are all named, and are such as the package declares."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
UNTESTED = {"torchao", "encodec"}  # extras that `make` does not install, or without their requirements
BY_MAKE = {"torch"}  # which build is wanted is said when it is installed


def pins(file: str) -> dict[str, str]:
    lines = [line.split("==") for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    assert all(len(line) == 2 and re.fullmatch(r"[\w.]+", line[1]) for line in lines), lines
    return {canonicalize_name(name): version for name, version in lines}


def declared() -> list[Requirement]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = content["project"]["optional-dependencies"].values()
    lists = [content["project"]["dependencies"], *extras, content["dependency-groups"]["dev"]]
    return [Requirement(text) for one in lists for text in one]


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_every_declared_requirement_is_pinned_inside_its_range(file):
    """A release of the day before made the README's commands fail: nothing that they install may be open."""
    pinned = pins(file)
    assert "torch" not in pinned
    for requirement in declared():
        if requirement.name not in UNTESTED | BY_MAKE:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_oldest_are_the_lower_bounds():
    oldest = pins("constraints-oldest.txt")
    bounds = {canonicalize_name(one.name): str(one.specifier).removeprefix(">=") for one in declared()}
    for name in ("transformers", "huggingface-hub", "accelerate", "safetensors", "soundfile", "typer", "rich", "peft"):
        assert f"{oldest[name]}.".startswith(f"{bounds[name]}."), name


def test_what_make_installs_is_constrained():
    makefile = (ROOT / "Makefile").read_text()
    assert "CONSTRAINTS ?=" in makefile
    recipe = makefile.partition("/.installed: pyproject.toml $(CONSTRAINTS)\n")[2].partition("\n\n")[0]
    open_ones = [line for line in recipe.splitlines() if " install " in line and "$(PIP)" not in line]
    assert [line.split()[-1] for line in open_ones] == ["pip", "$(TORCH))"]
