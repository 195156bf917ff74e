"""What `bark-hf speak` does between the loaded model and the file: one text, a stream of it, or a text of any length.

Knows nothing of how the command line is read; what can be wrong with the output is asked before the long work."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.files import (
    PcmStream,
    SampleFile,
    WavStream,
    audio_bytes,
    audio_writer,
    check_ending,
    provenance,
    resample_pieces,
)
from ..audio.loudness import leveled
from ..files.atomic import whole_file
from ..longform.captions import Word, align_words, cues, to_json, to_srt, to_vtt

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
        list(self._shaped([np.zeros(1, np.float32)], 24_000))

    @property
    def _ending(self) -> str:
        """The format of what goes to stdout."""
        return ".pcm" if self.raw else ".wav"

    def _shaped(self, pieces: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
        """Pieces, resampled and brought to their loudness, for which all of them are kept on disk first."""
        wanted, path = self.rate or rate, Path(self.path)
        pieces = resample_pieces(pieces, rate, wanted)
        if self.loudness is None:
            yield from pieces
            return
        # a system's folder for temporary files may lie in memory; beside a pipe or device there may be no room
        with SampleFile(None if path.exists() and not path.is_file() else path.resolve().parent) as kept:
            for piece in pieces:
                kept.append(piece)
            yield from leveled(kept, wanted, self.loudness)

    def write(self, pieces: Iterable[np.ndarray], rate: int, metadata: dict[str, str]) -> None:
        """All of them, resampled and brought to their loudness; to a file as they come."""
        metadata, shaped = metadata if self.metadata else {}, self._shaped(pieces, rate)
        if self.path == "-":
            audio = np.concatenate([*shaped])
            sys.stdout.buffer.write(audio_bytes(audio, self.rate or rate, self._ending, metadata, self.bits))
            sys.stdout.buffer.flush()
        else:
            with audio_writer(self.path, self.rate or rate, metadata, self.bits) as write:
                for piece in shaped:
                    write(piece)

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
    target.write([audio], rate, metadata_of(name, history, seed))
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
    """A text of any length, chunk by chunk, each written when it is there."""
    from ..longform.speech import speak_long

    speech = speak_long(model, processor, lines, voice=voice, seed=seed, best_of=best_of, **options)
    rate, words, samples = speech.sampling_rate, [], 0

    def pieces() -> Iterator[np.ndarray]:
        nonlocal samples
        for piece in speech:
            if target.captions is not None:
                begin = round(piece.chunk["start"] * rate) - samples
                inside = piece.audio[max(0, begin) : round(piece.chunk["end"] * rate) - samples]
                words.extend(align_words(piece.chunk["text"], inside, rate, piece.chunk["start"]))
            samples += len(piece.audio)
            yield piece.audio

    metadata = provenance(model=name, voice=", ".join(speech.given[:_VOICES]) or None, seed=speech.seed)
    with closing(speech):
        if target.path == "-":
            pipe = target.pipe(rate, metadata)
            for audio in pieces():
                pipe.write(audio)
        else:
            target.write(pieces(), rate, metadata)
    target.caption(words)
    target.tell({"seed": speech.seed, "sampling_rate": rate, "seconds": samples / rate, "chunks": speech.chunks})
    redone = sum(len(chunk["attempts"]) > best_of for chunk in speech.chunks)
    return (
        f"{samples / rate:.1f} s of audio in {len(speech.chunks)} chunks, {redone} of them redone, seed {speech.seed}"
    )


def metadata_of(name: str, history, seed: int) -> dict[str, str]:
    return provenance(model=name, voice=None if history is None else history.fingerprint, seed=seed)
