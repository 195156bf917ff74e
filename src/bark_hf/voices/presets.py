"""Named voices: a checkpoint's presets or a bank file, listed without reading and read at first use.

Knows nothing of texts or networks."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from safetensors import safe_open

from ..files.checkpoint import find_file
from .voice import KEYS, RATES, Voice, rates_of, save_bank

BANK = "voices.safetensors"
INDEX = "speaker_embeddings_path.json"
SAMPLE_RATE = 24_000  # Hz, Bark's
_GENERATION = "generation_config.json"
_RATES = ("semantic_config", "semantic_rate_hz"), ("coarse_acoustics_config", "coarse_rate_hz")
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)*")


class VoicePresets(Mapping):
    """Voices by name. Arrays are read at first use and kept; later uses touch neither disk nor hub.

    rates: of bare mappings of arrays, which do not say theirs; `from_pretrained` takes the checkpoint's."""

    def __init__(self, voices: Mapping[str, Any] | None = None, rates: tuple[float, float] = RATES):
        self.rates = rates
        self._voices: dict[str, Voice] = {}
        self._files: dict[str, _InBank | _InIndex] = {}
        for name, voice in (voices or {}).items():
            self.add(name, voice)

    @classmethod
    def from_pretrained(cls, source: str | Path, **hub) -> "VoicePresets":
        """From a folder or hub id that holds `voices.safetensors`, `speaker_embeddings_path.json`, both or neither.

        Raises OSError where the hub cannot be reached and the cache does not know whether they are there."""
        hub = {name: hub[name] for name in HUB_KEYWORDS if name in hub}
        config = find_file(source, _GENERATION, **hub)
        presets = cls(rates=RATES if config is None else _model_rates(Path(config)))
        if (index := find_file(source, INDEX, **hub)) is not None:
            presets._files.update(_index(source, Path(index), hub))
        if (bank := find_file(source, BANK, **hub)) is not None:
            presets._files.update(_bank(Path(bank)))
        return presets

    @classmethod
    def load(cls, path: str | Path) -> "VoicePresets":
        """Opens a bank, a `.safetensors` file of many voices. Raises ValueError for a file that is none."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No bank of voices at {path}.")
        presets = cls()
        presets._files.update(_bank(path))
        if not len(presets):
            raise ValueError(f"{path} is no bank of voices; a file of one voice is opened by Voice.load.")
        return presets

    def save(self, path: str | Path) -> None:
        """Writes all voices into one bank, a `.safetensors` file that `load` opens: whole, or not at all."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"A bank of voices is saved as .safetensors, not as {path.name!r}.")
        if not len(self):
            raise ValueError("There are no voices to save.")
        save_bank(self, path)

    def add(self, name: str, voice: Any) -> None:
        """Adds or replaces a voice. Names are words of letters, digits, `.`, `_`, `-`, joined by `/`."""
        if not _is_name(name):
            raise ValueError(f"{name!r} cannot name a voice; use letters, digits, '.', '_', '-', joined by '/'.")
        self._voices[name] = Voice.of(voice, self.rates)

    def seconds(self, name: str) -> float:
        """How long a voice is. Of one that is not in memory only the shape is read."""
        if name in self._voices:
            return self._voices[name].seconds
        file = self._files[name]
        try:
            return file.seconds()
        except Exception as error:
            raise ValueError(f"The voice {name!r} cannot be read: {error}") from error

    def __getitem__(self, name: str) -> Voice:
        if name not in self._voices:
            file = self._files[name]
            try:
                arrays = file.read()
                self._voices[name] = Voice.of(arrays, rates_of(arrays))
            except Exception as error:
                raise ValueError(f"The voice {name!r} cannot be read: {error}") from error
        return self._voices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._voices, *self._files}))

    def __len__(self) -> int:
        return len({*self._voices, *self._files})

    def __contains__(self, name: object) -> bool:
        return name in self._voices or name in self._files


@dataclass(frozen=True)
class _InBank:
    """A voice that is still in a bank file."""

    path: Path
    name: str

    def read(self) -> dict[str, np.ndarray]:
        with safe_open(self.path, "np") as bank:
            return {**{key: bank.get_tensor(f"{self.name}/{key}") for key in KEYS}, **self._rates(bank)}

    def seconds(self) -> float:
        with safe_open(self.path, "np") as bank:
            frames = bank.get_slice(f"{self.name}/coarse_prompt").get_shape()[1]
            return frames / rates_of(self._rates(bank))[1]

    def _rates(self, bank) -> dict[str, np.ndarray]:
        name = f"{self.name}/rates"
        return {"rates": bank.get_tensor(name)} if name in bank.keys() else {}  # noqa: SIM118 (not a dict)


@dataclass(frozen=True)
class _InIndex:
    """A voice that is still in three .npy files of a checkpoint; `files`: key -> path inside the checkpoint."""

    source: str | Path
    files: Mapping[str, Any]
    hub: Mapping[str, Any]

    def read(self) -> dict[str, np.ndarray]:
        return {key: np.load(self._path(key), allow_pickle=False) for key in KEYS}

    def seconds(self) -> float:
        return np.load(self._path("coarse_prompt"), mmap_mode="r", allow_pickle=False).shape[1] / RATES[1]

    def _path(self, key: str) -> str:
        relative = str(self.files.get(key, ""))
        path = PureWindowsPath(relative)  # a POSIX path is one, too; a drive or `\\` leads out on Windows alone
        if path.anchor or ".." in path.parts or path.suffix != ".npy":
            raise ValueError(f"{key} must name an .npy file inside the checkpoint: {relative}.")
        found = find_file(self.source, relative, **self.hub)
        if found is None:
            raise ValueError(f"the checkpoint, or its copy in the cache, has no file {relative}.")
        return found


def _bank(path: Path) -> dict[str, _InBank]:
    """Tensors named `<voice>/<key>`; others are no voices."""
    try:
        with safe_open(path, "np") as bank:
            names = {key.rpartition("/")[0] for key in bank.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:
        raise ValueError(f"{path} is not a safetensors file of voices: {error}") from error
    return {name: _InBank(path, name) for name in names if _is_name(name)}


def _index(source: str | Path, index: Path, hub: dict) -> dict[str, _InIndex]:
    """speaker_embeddings_path.json: preset -> three .npy files inside the checkpoint; other keys are no presets."""
    return {
        name: _InIndex(source, files, hub)
        for name, files in _json_object(index).items()
        if isinstance(files, Mapping) and _is_name(name)
    }


def _model_rates(config: Path) -> tuple[float, float]:
    """Of a model's generation_config.json; Bark's where it says none."""
    given = _json_object(config)
    rates: list[Any] = []
    for (section, name), default in zip(_RATES, RATES, strict=True):
        fields = given.get(section) or {}
        rates.append(fields.get(name, default) if isinstance(fields, dict) else None)
    if not all(isinstance(rate, int | float) and rate > 0 for rate in rates):
        raise ValueError(f"{config} must give the model's rates as positive numbers, got {rates}.")
    return rates[0], rates[1]


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return content


def _is_name(name: Any) -> bool:
    """Names become paths when voices are saved one by one, so none may lead out of a folder."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and not {".", ".."} & {*name.split("/")}


def save_npy(voices: Mapping[str, Voice], index: Path) -> None:
    """transformers' layout: three .npy files a voice and the JSON index beside them.

    Raises ValueError, before it writes, for voices of rates that are not Bark's: the layout has no place for them."""
    if others := [name for name, voice in voices.items() if voice.rates != RATES]:
        raise ValueError(
            f"transformers' layout has no place for the rates of {', '.join(others[:5])}, which are not Bark's. Save "
            'them with voice_layout="safetensors".'
        )
    entries: dict[str, Any] = {"repo_or_path": index.parent.name}
    for name, voice in voices.items():
        entries[name] = {}
        for key in KEYS:
            relative = f"speaker_embeddings/{name}_{key}.npy"
            path = index.parent / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, voice[key])
            entries[name][key] = relative
    index.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def model_sample_rate(source: str | Path, **hub) -> int:
    """Of the audio, in Hz, as the checkpoint's generation_config.json says; Bark's where there is none."""
    config = find_file(source, _GENERATION, **{name: hub[name] for name in HUB_KEYWORDS if name in hub})
    given = {} if config is None else _json_object(Path(config))
    return given.get("sample_rate", SAMPLE_RATE)
