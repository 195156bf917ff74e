"""What turns rows of a corpus (a recording and its text) into ids that fit together, or says why a row cannot be used.

Knows nothing of a corpus's layout, of files other than recordings, or of how the work is shared out (`dataset`)."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..audio.files import read_audio, resample, to_mono
from ..cloning.clone import aligned
from ..cloning.modeling_semantic_tokenizer import BarkSemanticTokenizer
from ..codec.encodec import BarkCodec
from ..configuration_bark import BarkConfig
from ..generation_configuration_bark import BarkGenerationConfig
from ..processing_bark import BarkProcessor
from ..vocabulary import Vocabulary
from .card import public_name

_SILENT = 1e-3  # RMS: -60 dBFS
_APART = 0.1  # seconds between the ends of semantic ids and codes that make them two different recordings
_OFF_RATE = 0.01  # share by which rates may differ; the usual 50 ids a second for Bark's 49.9 are 0.002
_PASSING = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of configs: they change, and no id


def load_codec(model: str) -> BarkCodec:
    """The codec of a Bark checkpoint, a folder or hub id; the stages are not loaded."""
    config = BarkConfig.from_pretrained(model).codec_config
    return BarkCodec.from_pretrained(model, config=config, key_mapping={r"^codec_model\.": ""}).eval()


class Tokenizers(NamedTuple):
    """What makes ids of texts and recordings, and the id spaces and rates that they must fit."""

    processor: BarkProcessor
    semantic_tokenizer: BarkSemanticTokenizer
    codec: BarkCodec
    vocabulary: Vocabulary

    @classmethod
    def load(cls, model: str, semantic_tokenizer: str, device: str | torch.device = "cpu") -> "Tokenizers":
        """From a Bark checkpoint and a semantic tokenizer, folders or hub ids; Bark's stages are not loaded."""
        return cls(
            BarkProcessor.from_pretrained(model),
            BarkSemanticTokenizer.from_pretrained(semantic_tokenizer).eval().to(device),
            load_codec(model).to(device),
            Vocabulary.of(BarkGenerationConfig.from_pretrained(model)),
        )

    @property
    def devices(self) -> set[str]:
        return {self.semantic_tokenizer.device.type, self.codec.device.type}

    @property
    def names(self) -> dict[str, str]:
        """What a reader calls them: hub ids, and of folders the last name."""
        paths = {
            "text_tokenizer": self.processor.tokenizer.name_or_path,
            "semantic_tokenizer": self.semantic_tokenizer.name_or_path,
            "codec": self.codec.name_or_path,
        }
        return {kind: public_name(path) if path else "unnamed" for kind, path in paths.items()}

    def text_ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def check(self) -> None:
        """Raises ValueError where an id could lie outside the vocabulary, or the rates are others."""
        v = self.vocabulary
        sizes = (
            ("text tokenizer's ids", len(self.processor.tokenizer), v.text_pad_token - v.text_encoding_offset),
            ("semantic tokenizer's ids", self.semantic_tokenizer.config.vocab_size, v.semantic_vocab_size),
            ("codec's ids", self.codec.config.codebook_size, v.codebook_size),
            ("model's codebooks", v.n_fine_codebooks, len(self.codec.quantizer.layers)),
        )
        rates = (
            ("semantic tokenizer", self.semantic_tokenizer.frame_rate, v.semantic_rate_hz),
            ("codec", self.codec.config.frame_rate, v.coarse_rate_hz),
        )
        for name, size, most in sizes:
            if size > most:
                raise ValueError(f"The {name} ({size}) are more than there is room for ({most}): they do not match.")
        for name, rate, counted in rates:
            if abs(rate / counted - 1) > _OFF_RATE:
                raise ValueError(f"The {name} gives {rate:g} frames a second, the model counts {counted:g}.")

    def identities(self, texts: Iterable[str]) -> dict[str, str]:
        """SHA-256 of what each does: of weights and config; of the words, and how some texts are cut up into them."""
        words = sorted(self.processor.tokenizer.get_vocab().items())
        cut_up = [self.text_ids(text) for text in texts]  # shows how case, accents, ... are treated
        return {
            "text_tokenizer": sha256([json.dumps([words, cut_up]).encode()]),
            "semantic_tokenizer": sha256(_model_bytes(self.semantic_tokenizer)),
            "codec": sha256(_model_bytes(self.codec)),
        }


@dataclass(frozen=True)
class RowTokenizer:
    """Rows of `audio` (`path` or `bytes`), `text` and maybe `speaker` and `semantic_ids` to rows of the dataset.

    Only rows without `semantic_ids` of their own get those of the semantic tokenizer."""

    tokenizers: Tokenizers
    min_seconds: float
    max_seconds: float

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """For each row `text`, `text_ids` (L,), `semantic_ids` (S,), `codes` (K, T), `speaker`, `seconds`, `length`,
        or `dropped`, a reason to count by, and `detail`."""
        made = [_or_dropped(self._heard, row) for row in rows]
        kept = [one for one in made if "dropped" not in one]
        semantic, codes = self._encoded([one.pop("recording") for one in kept], [one.pop("own_ids") for one in kept])
        for one, ids, frames in zip(kept, semantic, codes, strict=True):
            one.update(_or_dropped(self.fitted, ids, frames))
        return made

    def fitted(self, semantic: Tensor, codes: Tensor) -> dict[str, Any]:
        """Ids (S,) and codes (K, T) of one recording -> the columns, cut as a voice is (`cloning.aligned`)."""
        tokenizer, vocabulary = self.tokenizers.semantic_tokenizer, self.tokenizers.vocabulary
        seconds = len(semantic) / tokenizer.frame_rate, codes.shape[1] / vocabulary.coarse_rate_hz
        if abs(seconds[0] - seconds[1]) > _APART:
            raise _Dropped("mismatch", f"semantic ids of {seconds[0]:.2f} s, codes of {seconds[1]:.2f} s")
        ids, frames = aligned(len(semantic), codes.shape[1], tokenizer.frame_rate, vocabulary)
        semantic, codes = semantic[ids], codes[:, frames]
        return {"semantic_ids": semantic.tolist(), "codes": codes.tolist(), "length": len(semantic)}

    def _heard(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The text's columns, and the `recording`: (N,) and its rate."""
        text, ids = self._text(row["text"])
        wave, rate = self._recording(row["audio"])
        speaker = row.get("speaker")
        return {
            "text": text,
            "text_ids": ids,
            "speaker": None if speaker is None else str(speaker),
            "seconds": len(wave) / rate,
            "recording": (wave, rate),
            "own_ids": self._own_ids(row.get("semantic_ids")),
        }

    def _text(self, text: str | None) -> tuple[str, list[int]]:
        text = " ".join((text or "").split())
        ids = self.tokenizers.text_ids(text) if text else []
        if not ids:
            raise _Dropped("no text", repr(text))
        if len(ids) > (most := self.tokenizers.vocabulary.max_input_semantic_length):
            raise _Dropped("text too long", f"{len(ids)} ids, at most {most}")
        return text, ids

    def _own_ids(self, ids: Sequence[int] | None) -> Tensor | None:
        if ids is None:
            return None
        size = self.tokenizers.vocabulary.semantic_vocab_size
        if not ids or not 0 <= min(ids) <= max(ids) < size:
            raise _Dropped("semantic ids", f"{min(ids)} to {max(ids)}, must be 0 to {size - 1}" if ids else "none")
        return torch.tensor(ids)

    def _recording(self, audio: Mapping[str, Any]) -> tuple[np.ndarray, int]:
        file = audio["path"] if audio["bytes"] is None else io.BytesIO(audio["bytes"])
        try:
            samples, rate = read_audio(file, self.max_seconds + 1)
            wave = to_mono(samples)
        except (OSError, ValueError) as error:
            raise _Dropped("unreadable", str(error)) from error
        seconds = len(wave) / rate
        if seconds < self.min_seconds:
            raise _Dropped("too short", f"{seconds:.2f} s, at least {self.min_seconds:g}")
        if seconds > self.max_seconds:
            raise _Dropped("too long", f"more than {self.max_seconds:g} s")
        if wave.std() < _SILENT:
            raise _Dropped("silent", "below -60 dBFS")
        return wave, rate

    @torch.inference_mode()
    def _encoded(
        self, recordings: list[tuple[np.ndarray, int]], own_ids: list[Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Waves (N_i,) with their rates -> semantic ids (S_i,), their own where they have them, and codes (K, T_i)."""
        tokenizer, codec = self.tokenizers.semantic_tokenizer, self.tokenizers.codec
        heard = [
            resample(wave, rate, tokenizer.sampling_rate)
            for (wave, rate), ids in zip(recordings, own_ids, strict=True)
            if ids is None
        ]
        made = iter(tokenizer.encode(heard))
        semantic = [next(made) if ids is None else ids for ids in own_ids]
        waves = [torch.from_numpy(resample(wave, rate, codec.config.sampling_rate)) for wave, rate in recordings]
        codes = codec.encode_all(waves, self.tokenizers.vocabulary.n_fine_codebooks)
        return semantic, [one.cpu() for one in codes]


class _Dropped(Exception):
    """(reason to count by, the row's own detail)"""


def _or_dropped(make: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    try:
        return make(*given)
    except _Dropped as dropped:
        reason, detail = dropped.args
        return {"dropped": reason, "detail": detail}


def sha256(parts: Iterable[bytes]) -> str:
    """Of several byte strings in order, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _model_bytes(model: PreTrainedModel) -> Iterator[bytes]:
    yield json.dumps([type(model).__name__, _lasting(model.config.to_diff_dict())], sort_keys=True).encode()
    for name, tensor in sorted(model.state_dict().items()):
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _lasting(config: Any) -> Any:
    """A config without what differs from one saving to the next."""
    if not isinstance(config, dict):
        return config
    return {name: _lasting(value) for name, value in config.items() if name not in _PASSING}
