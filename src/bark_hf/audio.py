"""Audio files in and out, whole or not at all, with a note of where the sound comes from; resampling and mixing.

Knows nothing of models. Samples are -1..1, (N,) or (N, channels); rates are in Hz."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .files import whole_file

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
}
FIELDS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license", "software")
_FIELD_BYTES = 2000  # libsndfile loses a text of 2046 bytes in a WAV file, and every text after it
_SOFTWARE_BYTES = 100  # it adds its own name there and cuts both at 127 bytes
_BLOCK = 1 << 16  # frames; libsndfile's Vorbis encoder overflows the stack when it gets minutes at once


def to_pcm16(audio: np.ndarray) -> np.ndarray:
    """(N,) float samples -> (N,) int16, rounded to the nearest of 32 767 steps; what exceeds -1..1 is clipped."""
    return np.rint(np.clip(np.asarray(audio, dtype=np.float64), -1, 1) * 32767).astype(np.int16)


def audio_bytes(
    audio: np.ndarray, sample_rate: int, ending: str = ".wav", metadata: Mapping[str, str] | None = None
) -> bytes:
    """(N,) samples as a mono file in memory: 16-bit WAV or FLAC, MP3, or Ogg Vorbis, by its ending in `FORMATS`.

    `metadata` are texts for the names in `FIELDS`, up to 2000 bytes (`software`: 100). FLAC and OGG keep all of them,
    WAV all but `license`, MP3 all but `license`, `copyright` and `software` (where its encoder's own name stands).
    Raises ValueError for other names and endings, for samples that are not (N,) and finite, for none where the format
    has no empty files, and for a rate that the format cannot hold."""
    import soundfile

    container, subtype = _format(ending)
    audio, metadata = np.asarray(audio), dict(metadata or {})
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise ValueError(f"Audio to write is (N,) finite samples; this is {audio.shape}, or holds NaN or infinity.")
    if not len(audio) and container in ("FLAC", "MP3"):
        raise ValueError(f"There are no samples, and {container} has no empty files. Write .wav, or generate again.")
    _check_fields(metadata)
    pcm, buffer = to_pcm16(audio), io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", sample_rate, 1, format=container, subtype=subtype) as file:
            for name, text in metadata.items():
                setattr(file, name, text)
            for start in range(0, len(pcm), _BLOCK):
                file.write(pcm[start : start + _BLOCK])
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{container} cannot hold audio at {sample_rate} Hz; resample it, or write .wav.") from error
    return buffer.getvalue()


def wav_bytes(audio: np.ndarray, sample_rate: int, metadata: Mapping[str, str] | None = None) -> bytes:
    """A mono 16-bit WAV file in memory."""
    return audio_bytes(audio, sample_rate, ".wav", metadata)


def write_audio(
    path: str | Path, audio: np.ndarray, sample_rate: int, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes (N,) samples as WAV, FLAC, MP3 or OGG by the path's ending; see `audio_bytes`. Whole or not at all."""
    path = Path(path)
    with whole_file(path) as beside:
        beside.write_bytes(audio_bytes(audio, sample_rate, path.suffix, metadata))


def check_ending(path: str | Path) -> None:
    """Raises ValueError for a path that `write_audio` has no format for; to be asked before the long work."""
    _format(Path(path).suffix)


def provenance(*, model: str, voice: str | None = None, seed: int | None = None) -> dict[str, str]:
    """Metadata that say how a file was made: a JSON object in `comment` (ASCII), this package in `software`.

    `model` is the hub id or the folder's name, `voice` a `Voice.fingerprint`, `seed` the row's own."""
    from . import __version__

    made = {"model": model, "voice": voice, "seed": seed, "bark_hf": __version__}
    return {"software": f"bark_hf {__version__}", "comment": json.dumps(made)}


def read_metadata(path: str | Path | BinaryIO) -> dict[str, str]:
    """The texts that an audio file carries, by their names in `FIELDS`; empty ones are left out.

    `json.loads(read_metadata(path)["comment"])` is what `provenance` wrote. libsndfile adds its name to `software`."""
    with _opened(path) as file:
        found = {name: text for name, text in file.copy_metadata().items() if text}
        return {name: _utf8(text) for name, text in found.items()} if file.format == "MP3" else found


def read_audio(path: str | Path | BinaryIO, max_seconds: float | None = None) -> tuple[np.ndarray, int]:
    """(N,) or (N, channels) float32 samples and the rate of any file that libsndfile reads: WAV, FLAC, MP3, OGG, ...

    Takes `max_seconds` from its beginning at most, and no more into memory. Raises FileNotFoundError, or ValueError
    for what is not audio, damaged, empty or not finite."""
    import soundfile

    blocks = []
    with _opened(path) as file:
        left = file.frames if max_seconds is None else min(file.frames, round(max_seconds * file.samplerate))
        try:
            while left > 0 and len(block := file.read(min(_BLOCK, left), dtype="float32")):
                blocks.append(block)
                left -= len(block)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{_name(path)} is damaged; record or export it again.") from error
        rate = file.samplerate
    if not blocks:
        raise ValueError(f"{_name(path)} is an audio file without samples.")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise ValueError(f"{_name(path)} holds samples that are NaN or infinite. Export it again.")
    return samples, rate


def to_mono(samples: np.ndarray) -> np.ndarray:
    """(N,) or (N, channels) -> (N,) float32, the mean of the channels. Raises ValueError for anything else."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > samples.shape[0]):
        raise ValueError(f"Samples are (N,) or (N, channels), time first; got shape {samples.shape}.")
    return samples if samples.ndim == 1 else samples.mean(axis=1)


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """(N,) or (N, channels) at one rate -> the same stretch at another, float32, by soxr at its high quality."""
    samples = np.asarray(samples, dtype=np.float32)
    if from_rate == to_rate:
        return samples
    try:
        import soxr
    except ImportError as error:
        raise ImportError(
            f'Audio at {from_rate} Hz needs soxr to become {to_rate} Hz: pip install "bark-hf[clone]".'
        ) from error
    return soxr.resample(samples, from_rate, to_rate)


@contextmanager
def _opened(path: str | Path | BinaryIO) -> Iterator[Any]:
    """The file, open; a missing one or one that is not audio is an error in a sentence."""
    import soundfile

    if isinstance(path, (str, Path)) and not Path(path).is_file():
        raise FileNotFoundError(f"There is no audio file at {path}.")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless audio
        raise ValueError(
            f"{_name(path)} is no audio file that can be read here: pass WAV, FLAC, MP3 or OGG, or convert it first "
            "(ffmpeg -i FILE me.wav)."
        ) from error
    # else soundfile seeks to where it is after each block: noise in an MP3, an error in a FLAC of unknown length
    file.seekable = lambda: False
    with file:
        yield file


def _format(ending: str) -> tuple[str, str]:
    if ending.lower() not in FORMATS:
        given = repr(ending) if ending else "no ending"
        raise ValueError(f"Audio is written as {', '.join(FORMATS)}, by the name's ending; got {given}.")
    return FORMATS[ending.lower()]


def _check_fields(metadata: Mapping[str, str]) -> None:
    for name, text in metadata.items():
        if name not in FIELDS:
            raise ValueError(f"Audio files have no field {name!r}; they have {', '.join(FIELDS)}.")
        most, size = _SOFTWARE_BYTES if name == "software" else _FIELD_BYTES, len(text.encode())
        if not 0 < size <= most or "\0" in text:
            raise ValueError(f"`{name}` must be a text of 1 to {most} bytes without NUL; this has {size} bytes.")


def _utf8(text: str) -> str:
    """MP3 tags come back as Latin-1 although they were written as UTF-8; text of other writers stays as it is."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _name(path: Any) -> str:
    return str(path) if isinstance(path, (str, Path)) else "The file"
