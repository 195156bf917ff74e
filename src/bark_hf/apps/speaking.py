"""What `bark-hf speak` does between the loaded model and the file: one text, a stream of it, or a text of any length.

Knows nothing of how the command line is read; what can be wrong with the output is asked before the long work."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import PcmStream, WavStream, audio_bytes, check_ending, provenance, resample, write_audio
from ..captions import Word, align_words, cues, to_json, to_srt, to_vtt
from ..files import whole_file
from ..loudness import to_loudness

CAPTIONS: dict[str, Callable[[list[Word]], str]] = {
    ".srt": lambda words: to_srt(cues(words)),
    ".vtt": lambda words: to_vtt(cues(words)),
    ".json": to_json,
}
_VOICES = 64  # fingerprints of 16 letters, that find room in a file's comment


@dataclass(frozen=True)
class Target:
    """Where the audio goes and how: `path` "-" is stdout, a WAV or, with `raw`, samples alone."""

    path: str
    rate: int | None = None  # Hz; by default the model's
    bits: int | str | None = None  # by default the format's own
    loudness: float | None = None  # LUFS
    raw: bool = False
    captions: Path | None = None
    report: Path | None = None
    metadata: bool = True

    def check(self) -> None:
        """Raises ValueError for what could not be written in the end, ImportError for what that would lack."""
        check_ending(f"x{self._ending}" if self.path == "-" else self.path, self.rate or 24_000, self.bits)
        if self.captions is not None and self.captions.suffix not in CAPTIONS:
            raise ValueError(f"Captions are written as {', '.join(CAPTIONS)}; got {self.captions.name}.")
        for path in (Path(self.path), self.captions, self.report):
            if path is not None and not path.parent.is_dir():
                raise ValueError(f"There is no folder {path.parent} to write {path.name} into.")
        if (self.raw and self.path != "-") or (self.loudness is not None and self.path == "-"):
            raise ValueError("--raw is for stdout (-o -), --loudness for files: it needs all of the audio at once.")
        self._shaped(np.zeros(1, np.float32), 24_000)

    @property
    def _ending(self) -> str:
        """The format of what goes to stdout."""
        return ".pcm" if self.raw else ".wav"

    def _shaped(self, audio: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
        """Samples, resampled and brought to their loudness, and their rate."""
        wanted = self.rate or rate
        audio = resample(audio, rate, wanted)
        return (audio if self.loudness is None else to_loudness(audio, wanted, self.loudness).audio), wanted

    def write(self, audio: np.ndarray, rate: int, metadata: dict[str, str]) -> None:
        """All of it, resampled and brought to its loudness."""
        audio, wanted = self._shaped(audio, rate)
        metadata = metadata if self.metadata else {}
        if self.path == "-":
            sys.stdout.buffer.write(audio_bytes(audio, wanted, self._ending, metadata, self.bits))
            sys.stdout.buffer.flush()
        else:
            write_audio(self.path, audio, wanted, metadata, self.bits)

    def pipe(self, rate: int, metadata: dict[str, str]) -> PcmStream:
        """Stdout, for pieces as they come."""
        if self.rate not in (None, rate) or self.bits not in (None, 16):
            raise ValueError("A stream has the model's own rate and 16 bits; leave --rate and --bits out, or pipe it.")
        if self.raw:
            return PcmStream(sys.stdout.buffer)
        return WavStream(sys.stdout.buffer, rate, metadata if self.metadata else None)

    def caption(self, words: list[Word]) -> None:
        if self.captions is not None:
            text = CAPTIONS[self.captions.suffix](words)
            with whole_file(self.captions) as beside:
                beside.write_text(text, encoding="utf-8")

    def tell(self, report: dict[str, Any]) -> None:
        if self.report is not None:
            with whole_file(self.report) as beside:
                beside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def speak_one(
    model, processor, text: str, history, seed: int, name: str, target: Target, **options
) -> tuple[Any, str]:
    """A text that fits into one utterance -> the result, and what was said of it."""
    inputs = processor(text, voice_preset=history)
    out = model.generate(**inputs, seed=seed, return_dict_in_generate=True, **options)
    audio, rate = out.audio[0].cpu().numpy(), out.sampling_rate
    target.write(audio, rate, metadata_of(name, history, seed))
    target.caption(align_words(text, audio, rate) if target.captions is not None else [])
    target.tell({"text": text, "seed": seed, "seconds": len(audio) / rate})
    return out, f"{len(audio) / rate:.2f} s of audio"


def stream_one(model, processor, text: str, history, seed: int, name: str, target: Target, **options) -> str:
    """The same to stdout, piece by piece."""
    rate, samples = model.generation_config.sample_rate, 0
    pieces = model.stream(**processor(text, voice_preset=history), seed=seed, **options)
    pipe = target.pipe(rate, metadata_of(name, history, seed))  # writes a header: only now, when all is checked
    for piece in pieces:
        pipe.write(piece)
        samples += len(piece)
    return f"{samples / rate:.2f} s of audio"


def speak_all(
    model, processor, lines, voice, seed: int | None, name: str, target: Target, *, best_of: int = 1, **options
) -> str:
    """A text of any length, chunk by chunk; to stdout each is written when it is there."""
    from ..longform import speak_long

    speech = speak_long(model, processor, lines, voice=voice, seed=seed, best_of=best_of, **options)
    rate, pieces, words = speech.sampling_rate, [], []
    voices = ", ".join(speech.given[:_VOICES]) or None
    metadata = provenance(model=name, voice=voices, seed=speech.seed)
    pipe = target.pipe(rate, metadata) if target.path == "-" else None
    samples = 0
    for piece in speech:
        if target.captions is not None:
            begin = round(piece.chunk["start"] * rate) - samples
            inside = piece.audio[max(0, begin) : round(piece.chunk["end"] * rate) - samples]
            words += align_words(piece.chunk["text"], inside, rate, piece.chunk["start"])
        samples += len(piece.audio)
        if pipe is not None:
            pipe.write(piece.audio)
        else:
            pieces.append(piece.audio)
    if pipe is None:
        target.write(np.concatenate(pieces), rate, metadata)
    target.caption(words)
    target.tell({"seed": speech.seed, "sampling_rate": rate, "seconds": samples / rate, "chunks": speech.chunks})
    redone = sum(len(chunk["attempts"]) > best_of for chunk in speech.chunks)
    return (
        f"{samples / rate:.1f} s of audio in {len(speech.chunks)} chunks, {redone} of them redone, seed {speech.seed}"
    )


def metadata_of(name: str, history, seed: int) -> dict[str, str]:
    return provenance(model=name, voice=None if history is None else history.fingerprint, seed=seed)
