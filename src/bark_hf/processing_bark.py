"""Text and voice names in, model inputs out: BERT tokenization, the checkpoint's voice presets, their files.

Knows nothing of networks. What it gives the model is plain mappings of arrays."""

import difflib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, BatchEncoding
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file

from .voices import KEYS, Voice, save_bank

BANK = "voices.safetensors"
INDEX = "speaker_embeddings_path.json"
_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)*")
_HUB_KEYWORDS = (
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
    "trust_remote_code",
)  # fmt: skip


class VoicePresets(Mapping):
    """A checkpoint's voices by name. Arrays are read at first use and kept; later uses touch neither disk nor hub."""

    def __init__(self, voices: Mapping[str, Any] | None = None):
        self._voices: dict[str, Voice] = {}
        self._readers: dict[str, Any] = {}
        for name, voice in (voices or {}).items():
            self.add(name, voice)

    @classmethod
    def from_pretrained(cls, source: str | Path, **hub) -> "VoicePresets":
        """From a folder or hub id that holds `voices.safetensors`, `speaker_embeddings_path.json`, both or neither."""
        presets = cls()
        hub = {name: hub[name] for name in _HUB_KEYWORDS if name in hub and name != "trust_remote_code"}
        if (index := _find(source, INDEX, **hub)) is not None:
            presets._readers.update(_index_readers(source, Path(index), hub))
        if (bank := _find(source, BANK, **hub)) is not None:
            presets._readers.update(_bank_readers(Path(bank)))
        return presets

    def add(self, name: str, voice: Any) -> None:
        """Adds or replaces a voice. Names are words of letters, digits, `.`, `_`, `-`, joined by `/`."""
        if not _is_name(name):
            raise ValueError(f"{name!r} cannot name a voice; use letters, digits, '.', '_', '-', joined by '/'.")
        self._voices[name] = Voice.of(voice)

    def __getitem__(self, name: str) -> Voice:
        if name not in self._voices:
            read = self._readers[name]
            try:
                self._voices[name] = Voice.of(read())
            except Exception as error:
                raise ValueError(f"The checkpoint's voice {name!r} cannot be read: {error}") from error
        return self._voices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._voices, *self._readers}))

    def __len__(self) -> int:
        return len({*self._voices, *self._readers})

    def __contains__(self, name: object) -> bool:
        return name in self._voices or name in self._readers


class BarkProcessor(ProcessorMixin):
    """Wraps a BERT tokenizer and a checkpoint's voice presets."""

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer, voices: Mapping[str, Any] | None = None):
        """tokenizer: `bert-base-multilingual-cased` for Bark. voices: name -> voice, or `VoicePresets`."""
        super().__init__(tokenizer)
        self.voices: VoicePresets = voices if isinstance(voices, VoicePresets) else VoicePresets(voices)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> "BarkProcessor":
        """From a folder or hub id, ours or one in transformers' layout."""
        hub = {name: kwargs[name] for name in _HUB_KEYWORDS if name in kwargs}
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **hub)
        return cls(tokenizer, VoicePresets.from_pretrained(pretrained_model_name_or_path, **hub))

    def save_pretrained(
        self, save_directory: str | Path, push_to_hub: bool = False, voice_layout: str = "safetensors", **kwargs
    ):
        """Writes tokenizer and voices; voice_layout: "safetensors" (one file) or "npy" (transformers' layout)."""
        if voice_layout not in ("safetensors", "npy"):
            raise ValueError(f'`voice_layout` must be "safetensors" or "npy", got {voice_layout!r}.')
        folder = Path(save_directory)
        super().save_pretrained(folder)
        if len(self.voices):
            save = save_bank if voice_layout == "safetensors" else _save_npy
            save(self.voices, folder / (BANK if voice_layout == "safetensors" else INDEX))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @property
    def available_voice_presets(self) -> list[str]:
        return list(self.voices)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "history_prompt"]

    def add_voice(self, name: str, voice: Any) -> None:
        """Makes a voice known by a name, for `voice_preset=` and `save_pretrained`."""
        self.voices.add(name, voice)

    def voice(self, preset: Any) -> Voice | None:
        """A preset's name, a Voice, a mapping of arrays or a Path -> the voice. A name is never taken for a path."""
        if preset is None:
            return None
        if isinstance(preset, Path):
            return Voice.load(preset)
        if not isinstance(preset, str):
            return Voice.of(preset)
        if preset in self.voices:
            return self.voices[preset]
        near = difflib.get_close_matches(preset, list(self.voices), 3)
        names = near or sorted(self.voices)[:20]
        if names:
            choice = f"one of the {len(self.voices)} presets, for example {', '.join(names)}"
        else:
            choice = "a voice of your own (this checkpoint has no presets)"
        raise ValueError(f"Unknown voice {preset!r}. Pass {choice}; or Voice.load(path), or a pathlib.Path.")

    def __call__(
        self,
        text: str | list[str] | None = None,
        voice_preset: Any = None,
        return_tensors: str = "pt",
        max_length: int = 256,
        **kwargs,
    ) -> BatchEncoding:
        """Texts -> input_ids (B, 256), attention_mask (B, 256) and, with voices, history_prompt for `generate`.

        voice_preset: a preset's name, a `Voice`, a mapping of its arrays or a `Path`; one for all texts or a list with
        one or None for each. White space is folded; what exceeds `max_length` ids is cut, with a warning.
        Raises ValueError for empty texts, unknown voices and files that are no voices."""
        texts = _clean(text)
        if return_tensors not in ("pt", "np"):
            raise ValueError(f'`return_tensors` must be "pt" or "np", got {return_tensors!r}.')
        voices = self._history(voice_preset, len(texts), return_tensors)
        ours = ("padding", "truncation", "add_special_tokens", "return_attention_mask", "return_token_type_ids")
        kwargs = {name: value for name, value in kwargs.items() if name not in ours}
        encoded = self.tokenizer(texts, add_special_tokens=False, **kwargs)
        pad = self.tokenizer.pad_token_id or 0
        ids = np.full((len(texts), max_length), pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(encoded["input_ids"]):
            if not one:
                raise ValueError(f"Text {row} ({texts[row]!r}) has nothing that the tokenizer knows.")
            if len(one) > max_length:
                share = round(100 * (1 - max_length / len(one)))
                warnings.warn(
                    f"Text {row} has {len(one)} ids, the model reads {max_length}: {share}% are cut, from "
                    f"{self.tokenizer.decode(one[max_length : max_length + 12])!r} on.",
                    stacklevel=2,
                )
            ids[row, : len(one)] = one[:max_length]
            mask[row, : len(one)] = 1
        data: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if return_tensors == "pt":
            data = {name: torch.from_numpy(array) for name, array in data.items()}
        if voices is not None:
            data["history_prompt"] = voices
        return BatchEncoding(data)

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds; voices have a file of their own."""
        own = {"processor_class": type(self).__name__}
        return {**own, "auto_map": self.auto_map} if hasattr(self, "auto_map") else own

    def _history(self, preset: Any, rows: int, return_tensors: str):
        if not isinstance(preset, list | tuple):
            return _arrays(self.voice(preset), return_tensors)
        if len(preset) != rows:
            raise ValueError(f"`voice_preset` lists {len(preset)} voices for {rows} texts; pass one for each, or one.")
        voices = [_arrays(self.voice(one), return_tensors) for one in preset]
        return voices if any(voice is not None for voice in voices) else None


def _is_name(name: Any) -> bool:
    """Names become paths when voices are saved one by one, so none may lead out of a folder."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and not {".", ".."} & {*name.split("/")}


def _clean(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"Pass a text or a non-empty list of texts, got {text!r:.80}.")
    cleaned = [" ".join(one.split()) for one in texts]
    for row, one in enumerate(cleaned):
        if not one:
            raise ValueError(f"Text {row} is empty.")
        try:
            one.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"Text {row} is not valid Unicode: {error}.") from error
    return cleaned


def _arrays(voice: Voice | None, return_tensors: str):
    if voice is None:
        return None
    convert = torch.tensor if return_tensors == "pt" else np.array
    return {key: convert(voice[key]) for key in KEYS}


def _find(source: str | Path, name: str, **hub) -> str | None:
    return cached_file(
        str(source),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )


def _bank_readers(path: Path) -> dict[str, Any]:
    def read(name: str):
        with safe_open(path, "np") as bank:
            return {key: bank.get_tensor(f"{name}/{key}") for key in KEYS}

    try:
        with safe_open(path, "np") as bank:
            names = {key.rpartition("/")[0] for key in bank.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:
        raise ValueError(f"{path} is not a safetensors file of voices: {error}") from error
    return {name: lambda name=name: read(name) for name in names if _is_name(name)}


def _index_readers(source, index: Path, hub: dict) -> dict[str, Any]:
    """speaker_embeddings_path.json: preset -> three .npy files inside the checkpoint; other keys are no presets."""
    entries = json.loads(index.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        raise ValueError(f"{index} must hold a JSON object of presets.")

    def read(name: str, files: Mapping):
        arrays = {}
        for key in KEYS:
            relative = PurePosixPath(str(files.get(key, "")))
            if relative.is_absolute() or ".." in relative.parts or relative.suffix != ".npy":
                raise ValueError(f"Voice {name!r}: {key} must name an .npy file inside the checkpoint: {relative}.")
            path = _find(source, str(relative), **hub)
            if path is None:
                raise ValueError(f"Voice {name!r}: the checkpoint has no file {relative}.")
            arrays[key] = np.load(path, allow_pickle=False)
        return arrays

    return {
        name: lambda name=name, files=files: read(name, files)
        for name, files in entries.items()
        if isinstance(files, Mapping) and _is_name(name)
    }


def _save_npy(voices: Mapping[str, Voice], index: Path) -> None:
    """transformers' layout: three .npy files a voice and the JSON index beside them."""
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
