"""A folder of what a long run has finished, so that one that breaks off goes on from there.

Knows nothing of what is in it but arrays and notes: a file for each piece, whole or not there, and the run's plan."""

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ..files.atomic import PART, whole_file

_PLAN = "plan.json"


class ChunkStore:
    """Numbered pieces in a folder, and `plan`: what they are made from, empty for a new folder.

    Raises ValueError for a folder that holds other files."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._plan_file = self.folder / _PLAN
        self.plan: dict[str, Any] = {}
        if self._plan_file.exists():
            self.plan = _plan(self._plan_file)
        elif self.folder.exists() and any(not path.name.startswith(PART) for path in self.folder.iterdir()):
            raise ValueError(f"{folder} has files but no {_PLAN}: there is nothing to resume. Name a new folder.")

    def keep_to(self, plan: dict[str, Any]) -> None:
        """Writes the plan of a new folder. Raises ValueError where an old one differs, and says in what."""
        if not self.plan:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self._plan_file) as beside:
                beside.write_text(json.dumps(plan, indent=2) + "\n")
            self.plan = plan
        if differ := sorted(name for name in plan if plan[name] != self.plan.get(name)):
            raise ValueError(
                f"{self.folder} holds pieces of another run: {', '.join(differ)} differ. Pass what its {_PLAN} says, "
                "or name a new folder."
            )

    def save(self, number: int, arrays: Mapping[str, np.ndarray], notes: dict[str, Any]) -> None:
        with whole_file(self._file(number)) as beside:
            save_file(dict(arrays), beside, {"notes": json.dumps(notes)})

    def load(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A piece's arrays and notes. Raises ValueError where its file is damaged."""
        path = self._file(number)
        try:
            with safe_open(path, "numpy") as file:
                notes = json.loads(file.metadata()["notes"])
            return load_file(path), notes
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}). Delete it, and this piece is made again.") from error

    def __contains__(self, number: int) -> bool:
        return self._file(number).exists()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06}.safetensors"


def _plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Name a new folder.") from error
    if not isinstance(plan, dict):
        raise ValueError(f"{path} is no plan of a long run. Name a new folder.")
    return plan


def fingerprint(value: Any) -> str:
    """16 hex digits for what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def weights(model) -> str:
    """16 hex digits for a model: of each tensor its name, type, shape and first numbers, on any device the same.

    A tensor that is offloaded (on the meta device) stands for itself without numbers."""
    digest = hashlib.sha256()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        first = b"" if tensor.is_meta else tensor.detach().flatten()[:16].float().cpu().numpy().tobytes()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + first)
    return digest.hexdigest()[:16]
