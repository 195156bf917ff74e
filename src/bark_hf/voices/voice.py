"""A voice (history prompt, speaker embedding): three arrays of token ids, their checks, cuts and files.

Knows nothing of networks or of where a checkpoint keeps its presets (`presets`)."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..files.atomic import whole_file

KEYS = {"semantic_prompt": 1, "coarse_prompt": 2, "fine_prompt": 2}
RATES = 49.9, 75.0  # Bark's, as in the generation config, which ranks beside this file
_RATES_KEY = "rates"  # of a file's arrays: only where the rates are not Bark's, for the original reads no other
_MAX_MEMBER_BYTES = 8 * 8 * 75 * 3600  # of an .npz, unpacked: 8 codebooks of int64 at 75 Hz for an hour
_LAYOUT = "semantic_prompt (S,), coarse_prompt (2, T) and fine_prompt (8, T), integers, T/S about 1.5"


@dataclass(frozen=True, eq=False)
class Voice(Mapping):
    """semantic_prompt (S,), coarse_prompt (K, T) and fine_prompt (Q, T), int64, read-only; a mapping of its arrays.

    Sizes are K = 2 and Q = 8 for Bark; rates: semantic ids and frames a second. Raises ValueError for anything that
    the original would refuse or that would fail later: missing keys, wrong shapes or types, negative ids, lengths that
    do not belong together."""

    semantic_prompt: np.ndarray
    coarse_prompt: np.ndarray
    fine_prompt: np.ndarray
    rates: tuple[float, float] = RATES

    def __post_init__(self):
        for key, ndim in KEYS.items():
            object.__setattr__(self, key, _array(key, getattr(self, key), ndim))
        semantic, frames = len(self.semantic_prompt), self.coarse_prompt.shape[1]
        if semantic < 2:
            raise ValueError(f"A voice needs at least 2 semantic ids, got {semantic}. Use a longer generation.")
        semantic_rate, coarse_rate = self.rates
        wanted = round(coarse_rate / semantic_rate, 1)
        if round(frames / semantic, 1) != wanted:
            raise ValueError(
                f"semantic_prompt ({semantic} ids, {semantic_rate:g} Hz) and coarse_prompt ({frames} frames, "
                f"{coarse_rate:g} Hz) are not the same stretch of speech: {frames}/{semantic} rounds to "
                f"{round(frames / semantic, 1)}, it must be {wanted}."
            )
        if self.fine_prompt.shape[1] != frames:
            raise ValueError(
                f"coarse_prompt has {frames} frames and fine_prompt {self.fine_prompt.shape[1]}; they must be equal."
            )

    @classmethod
    def of(cls, value: Any, rates: tuple[float, float] = RATES) -> "Voice":
        """From a Voice or any mapping with its three keys (NumPy arrays, tensors or nested lists), of these rates."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) and not hasattr(value, "keys"):
            raise ValueError(f"A voice is a mapping of {_LAYOUT}; got {type(value).__name__}.")
        missing = [key for key in KEYS if key not in value]
        if missing:
            raise ValueError(f"The voice lacks {', '.join(missing)}; it has {sorted(map(str, value.keys()))}.")
        return cls(value["semantic_prompt"], value["coarse_prompt"], value["fine_prompt"], rates)

    @classmethod
    def load(cls, path: str | Path) -> "Voice":
        """Reads one voice from an `.npz` (the original's format, no pickles) or a `.safetensors` file."""
        path = Path(path)
        try:
            found = path.is_file()
        except (OSError, ValueError):  # a name that no file system would take
            found = False
        if not found:
            raise FileNotFoundError(f"No voice file at {path}. Pass a .npz or .safetensors file.")
        try:
            arrays = load_file(path) if path.suffix == ".safetensors" else _read_npz(path)
        except Exception as error:
            raise ValueError(f"{path} is not a voice file that can be read safely ({error}). {_LAYOUT}.") from error
        try:
            return cls.of(arrays, rates_of(arrays))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def concat(cls, *voices: Any) -> "Voice":
        """One voice of several in time order; of more than 7 seconds the last 7 count, as in `trim`.

        Any legal lengths add up to legal ones, because a ratio of sums lies between the ratios. Raises ValueError for
        no voices, or voices with different numbers of codebooks or rates."""
        if not voices:
            raise ValueError("Pass the voices to concatenate, at least one.")
        parts = [cls.of(voice) for voice in voices]
        codebooks = {(len(part.coarse_prompt), len(part.fine_prompt)) for part in parts}
        if len(codebooks) > 1:
            raise ValueError(f"The voices' codebooks (coarse, fine) differ: {sorted(codebooks)}; they must be equal.")
        rates = {part.rates for part in parts}
        if len(rates) > 1:
            raise ValueError(f"The voices' rates differ: {sorted(rates)}; they must be equal.")
        semantic, coarse, fine = (np.concatenate([part[key] for part in parts], axis=-1) for key in KEYS)
        return cls(semantic, coarse, fine, rates.pop())

    def trim(self, seconds: float) -> "Voice":
        """The voice's last `seconds` to within 0.03 s (at least 0.04 s), or itself where it is no longer than that.

        The stages read a voice's end: 256 semantic ids, then 315 frames, then 512 frames; so `trim(7)` changes no
        result. Semantic ids and codes end together and are cut together, to an even number of semantic ids: each of
        those has a legal number of frames. Raises ValueError for seconds that are not positive."""
        if not seconds > 0:
            raise ValueError(f"`seconds` must be positive, got {seconds}.")
        if seconds >= self.seconds:
            return self
        semantic_rate, coarse_rate = self.rates
        semantic = 2 * max(1, round(seconds * semantic_rate / 2))
        frames = min(round(semantic * coarse_rate / semantic_rate), self.coarse_prompt.shape[1])
        kept = self.semantic_prompt[-semantic:], self.coarse_prompt[:, -frames:], self.fine_prompt[:, -frames:]
        return Voice(*kept, self.rates)

    @property
    def seconds(self) -> float:
        """How much audio its codes are."""
        return self.coarse_prompt.shape[1] / self.rates[1]

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Writes `.npz` (readable by the original) or `.safetensors`, by the path's ending; parents must exist.

        metadata: goes into the header of `.safetensors`; `.npz` has no place for it (arrays alone)."""
        path = Path(path)
        if path.suffix == ".safetensors":
            small = {key: compact(self[key]) for key in KEYS}
            with whole_file(path) as temporary:
                save_file({**small, **self.own_rates}, temporary, dict(metadata) if metadata else None)
        elif path.suffix == ".npz":
            arrays: dict[str, Any] = {**self, **self.own_rates}
            with whole_file(path) as temporary:
                np.savez(temporary, **arrays)
        else:
            raise ValueError(f"A voice is saved as .npz or .safetensors, not {path.suffix or 'without an ending'!r}.")

    @property
    def own_rates(self) -> dict[str, np.ndarray]:
        """What a file needs beside the voice's arrays: its rates, where they are not Bark's."""
        return {} if self.rates == RATES else {_RATES_KEY: np.array(self.rates)}

    def check_against(self, vocabulary: Any) -> None:
        """Raises ValueError where an id is outside a `Vocabulary`, a codebook is missing or the rates are others."""
        v = vocabulary
        if self.rates != v.rates:
            raise ValueError(f"The voice's rates are {self.rates} Hz, this model's {v.rates}: it is another's voice.")
        for key, rows in (("coarse_prompt", v.n_coarse_codebooks), ("fine_prompt", v.n_fine_codebooks)):
            if len(self[key]) != rows:
                raise ValueError(f"The voice's {key} has {len(self[key])} codebooks; this model needs {rows}.")
        for key in KEYS:
            size = v.semantic_vocab_size if key == "semantic_prompt" else v.codebook_size
            if self[key].max() >= size:
                raise ValueError(f"The voice's {key} holds id {self[key].max()}; this model's ids end at {size - 1}.")

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the voice's content."""
        digest = hashlib.sha256()
        for key in KEYS:
            digest.update(repr(self[key].shape).encode() + self[key].tobytes())
        return digest.hexdigest()[:16]

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self):
        return iter(KEYS)

    def __len__(self) -> int:
        return len(KEYS)

    def __eq__(self, other) -> bool:
        same = isinstance(other, Voice) and self.rates == other.rates
        return same and all(np.array_equal(self[key], other[key]) for key in KEYS)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Voice(semantic_prompt={self.semantic_prompt.shape}, coarse_prompt={self.coarse_prompt.shape})"


def compact(array: np.ndarray) -> np.ndarray:
    """The same ids in the smallest common type: uint16 where they fit, else int32."""
    return np.ascontiguousarray(array.astype(np.uint16 if array.max(initial=0) < 2**16 else np.int32))


def save_bank(voices: Mapping[str, Voice], path: str | Path) -> None:
    """Many voices in one `.safetensors` file, tensors named `<voice>/<key>`: beside its place first, then renamed."""
    arrays: dict[str, np.ndarray] = {}
    for name, voice in voices.items():
        arrays |= {f"{name}/{key}": compact(voice[key]) for key in KEYS}
        arrays |= {f"{name}/{key}": rates for key, rates in voice.own_rates.items()}
    with whole_file(path) as beside:
        save_file(arrays, beside)


def rates_of(arrays: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """The rates that a file's arrays say, else Bark's. Raises ValueError where they are no two positive numbers."""
    if _RATES_KEY not in arrays:
        return RATES
    rates = np.asarray(arrays[_RATES_KEY])
    if rates.shape != (2,) or rates.dtype.kind != "f" or not (np.isfinite(rates) & (rates > 0)).all():
        raise ValueError(f"The voice's rates must be two positive numbers, got {rates!r:.80}.")
    return float(rates[0]), float(rates[1])


def _array(key: str, value: Any, ndim: int) -> np.ndarray:
    try:
        array = value if isinstance(value, np.ndarray) else _numpy(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The voice's {key} is not an array: {error}") from error
    if array.ndim != ndim or array.dtype.kind not in "iu" or array.size == 0:
        raise ValueError(f"The voice's {key} is {array.dtype} of shape {array.shape}; a voice is {_LAYOUT}.")
    if array.min() < 0 or array.max() > 2**31 - 1:
        raise ValueError(f"The voice's {key} holds ids from {array.min()} to {array.max()}; ids start at 0.")
    array = np.array(array, dtype=np.int64, order="C")
    array.setflags(write=False)
    return array


def _numpy(value: Any) -> np.ndarray:
    import torch  # arrays of a file do without: `bark-hf voices` is to start at once

    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` that a voice has. Their sizes are checked first: a zip holds zeros a thousandfold."""
    with zipfile.ZipFile(path) as archive:
        members = {key: f"{key}.npy" for key in (*KEYS, _RATES_KEY)}
        members = {key: name for key, name in members.items() if name in archive.namelist()}
        for name in members.values():
            if (size := archive.getinfo(name).file_size) > _MAX_MEMBER_BYTES:
                raise ValueError(
                    f"its {name} has {size} bytes, more than the {_MAX_MEMBER_BYTES} of an hour of speech"
                )
        arrays = {}
        for key, name in members.items():
            with archive.open(name) as member:
                arrays[key] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays
