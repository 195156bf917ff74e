"""Audio files and streams in and out, with a note of where the sound comes from; resampling, mixing, levels.

Knows nothing of models. Samples are -1..1, (N,) or (N, channels); rates are in Hz."""

import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files.atomic import whole_file

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
}
RAW = {".pcm": ("RAW", "PCM_16"), ".raw": ("RAW", "PCM_16")}  # samples alone, little endian, which nothing describes
BITS: dict[str, dict[Any, str]] = {
    "WAV": {16: "PCM_16", 24: "PCM_24", "float": "FLOAT"},
    "RAW": {16: "PCM_16", 24: "PCM_24", "float": "FLOAT"},
    "FLAC": {16: "PCM_16", 24: "PCM_24"},
}
RATES = {  # Hz; the others hold 8000 to 96 000
    ".mp3": (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    ".opus": (8000, 12_000, 16_000, 24_000, 48_000),
}
FIELDS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license", "software")
_FIELD_BYTES = 2000  # libsndfile loses a text of 2046 bytes in a WAV file, and every text after it
_SOFTWARE_BYTES = 100  # it adds its own name there and cuts both at 127 bytes
FRAME = 0.01  # seconds, of `frame_levels`
_SILENCE = -75.0  # dB of full scale, of what counts as silence in any company
_BLOCK = 1 << 16  # frames; libsndfile's Vorbis encoder overflows the stack when it gets minutes at once


def to_pcm16(audio: np.ndarray) -> np.ndarray:
    """(N,) float samples -> (N,) int16, rounded to the nearest of 32 767 steps; what exceeds -1..1 is clipped."""
    return np.rint(np.clip(np.asarray(audio, dtype=np.float64), -1, 1) * 32767).astype(np.int16)


def audio_bytes(
    audio: np.ndarray,
    sample_rate: int,
    ending: str = ".wav",
    metadata: Mapping[str, str] | None = None,
    bits: int | str | None = None,
) -> bytes:
    """(N,) samples as a mono file in memory, by its ending: WAV, FLAC, MP3, Ogg Vorbis, Opus, or samples alone (.pcm).

    bits: 16 by default; 24 for WAV, FLAC and .pcm; "float" for WAV and .pcm, 32 bits, the only ones that hold what
    exceeds -1..1, which is clipped elsewhere. Rates are those in `RATES` for MP3 and Opus, else 8000 to 96 000 Hz.
    `metadata` are texts for the names in `FIELDS`, up to 2000 bytes (`software`: 100). FLAC, OGG and Opus keep all of
    them, WAV all but `license`, MP3 all but `license`, `copyright` and `software` (where its encoder's own name
    stands), .pcm none. Other readers find the exact length in all but Ogg Vorbis, where ffmpeg is up to 0.04 s off.
    Raises ValueError for other names, endings, bits and rates, for samples that are not (N,) and finite, and for none
    where the format has no empty files."""
    audio, buffer = _checked(audio), io.BytesIO()
    with _encoder(buffer, ending, sample_rate, metadata, bits) as write:
        write(audio)
    return buffer.getvalue()


def wav_bytes(audio: np.ndarray, sample_rate: int, metadata: Mapping[str, str] | None = None) -> bytes:
    """A mono 16-bit WAV file in memory."""
    return audio_bytes(audio, sample_rate, ".wav", metadata)


def write_audio(
    path: str | Path,
    audio: np.ndarray,
    sample_rate: int,
    metadata: Mapping[str, str] | None = None,
    bits: int | str | None = None,
) -> None:
    """Writes (N,) samples in the format of the path's ending; see `audio_bytes`. Whole or not at all."""
    audio = _checked(audio)
    with audio_writer(path, sample_rate, metadata, bits) as write:
        write(audio)


@contextmanager
def audio_writer(
    path: str | Path, sample_rate: int, metadata: Mapping[str, str] | None = None, bits: int | str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes audio of any length piece by piece, in the format of the path's ending. Whole or not at all.

    The function that it gives appends (N,) samples, N >= 0. Raises ValueError as `audio_bytes` does; for samples that
    are not finite when they come, and for none at all at the end.

    Example:
        with audio_writer("book.mp3", 24_000) as write:
            for piece in speak_long(model, processor, book):
                write(piece.audio)
    """
    path = Path(path)
    with whole_file(path) as beside, _encoder(beside, path.suffix, sample_rate, metadata, bits) as write:
        yield write


class SampleFile:
    """(N,) float32 samples on disk, for audio that does not fit into memory: append, then read slices of step 1.

    The file has no name and goes when it is closed. folder: where it is kept; by default the system's folder for
    temporary files."""

    def __init__(self, folder: str | Path | None = None):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._size = 0

    def append(self, audio: np.ndarray) -> None:
        """(N,) finite samples, N >= 0."""
        self._file.seek(0, io.SEEK_END)
        self._file.write(_checked(audio).astype(np.float32).tobytes())
        self._size += len(audio)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, window: slice) -> np.ndarray:
        start, stop, _ = window.indices(self._size)
        self._file.seek(4 * start)
        return np.frombuffer(self._file.read(4 * max(0, stop - start)), np.float32)

    def __enter__(self) -> "SampleFile":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


class PcmStream:
    """16-bit samples, little endian, to an open binary file as they come: `ffplay -f s16le -ar 24000 -`."""

    def __init__(self, file: BinaryIO):
        self.file = file

    def write(self, audio: np.ndarray) -> None:
        """(N,) finite samples, N >= 0; they are out when this returns."""
        self.file.write(to_pcm16(_checked(audio)).astype("<i2").tobytes())
        self.file.flush()


class WavStream(PcmStream):
    """A 16-bit WAV file of unknown length, for pipes: `WavStream(sys.stdout.buffer, 24_000).write(chunk)`.

    Its header, with `metadata` as in `audio_bytes`, gives both lengths as 0xFFFFFFFF, as ffmpeg writes to a pipe:
    ffmpeg, sox and libsndfile read to the end, ffmpeg and sox with a warning."""

    def __init__(self, file: BinaryIO, sample_rate: int, metadata: Mapping[str, str] | None = None):
        super().__init__(file)
        header = bytearray(wav_bytes(np.zeros(0), sample_rate, metadata))  # RIFF, length, ..., data, length
        header[4:8] = header[-4:] = b"\xff\xff\xff\xff"
        file.write(header)


def check_ending(path: str | Path, sample_rate: int = 24_000, bits: int | str | None = None) -> None:
    """Raises ValueError for a path, rate or bits that `write_audio` cannot write; to be asked before the long work."""
    _format(Path(path).suffix, sample_rate, bits)


def provenance(*, model: str, voice: str | None = None, seed: int | None = None) -> dict[str, str]:
    """Metadata that say how a file was made: a JSON object in `comment` (ASCII), this package in `software`.

    `model` is the hub id or the folder's name, `voice` a `Voice.fingerprint`, `seed` the row's own."""
    from ..version import __version__

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
    return samples if from_rate == to_rate else _soxr(from_rate, to_rate).resample(samples, from_rate, to_rate)


def resample_pieces(pieces: Iterable[np.ndarray], from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """(N,) pieces of one stretch -> as `resample` of the whole, piece by piece; more pieces come out than went in."""
    if from_rate == to_rate:
        yield from pieces
        return
    stream = _soxr(from_rate, to_rate).ResampleStream(from_rate, to_rate, 1, dtype="float32")
    for piece in pieces:
        yield stream.resample_chunk(np.asarray(piece, dtype=np.float32))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def frame_levels(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    """(N,) samples -> (F,) RMS of each `FRAME` in dB of full scale, -120 at least; after the last comes silence."""
    size = round(FRAME * sampling_rate)
    frames = np.pad(np.asarray(audio, dtype=np.float64), (0, -len(audio) % size)).reshape(-1, size)
    return 10 * np.log10(np.maximum(np.mean(frames * frames, axis=1), 1e-12))


def heard(audio: np.ndarray, sampling_rate: int, below: float = -40.0) -> np.ndarray:
    """(N,) samples -> (F,) bool: which frames are less than `below` dB under the loudest; no silent one is."""
    levels = frame_levels(audio, sampling_rate)
    return levels > max(levels.max(initial=_SILENCE) + below, _SILENCE)


def ramp(size: int) -> np.ndarray:
    """(size,) float32 from near 0 to near 1 along a raised cosine; with its mirror image it sums to 1."""
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(size) + 0.5) / max(size, 1))).astype(np.float32)


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


def _soxr(from_rate: int, to_rate: int) -> Any:
    try:
        import soxr
    except ImportError as error:
        raise ImportError(
            f'Audio at {from_rate} Hz needs soxr to become {to_rate} Hz: pip install "bark-hf[clone]".'
        ) from error
    return soxr


@contextmanager
def _encoder(
    file: Path | BinaryIO, ending: str, sample_rate: int, metadata: Mapping[str, str] | None, bits: int | str | None
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends (N,) samples to the file."""
    import soundfile

    container, subtype = _format(ending, sample_rate, bits)
    metadata, empty = dict(metadata or {}), True
    _check_fields(metadata)
    little = {"endian": "LITTLE"} if container == "RAW" else {}
    with soundfile.SoundFile(file, "w", sample_rate, 1, format=container, subtype=subtype, **little) as encoded:
        for name, text in metadata.items() if container != "RAW" else ():
            setattr(encoded, name, text)

        def write(audio: np.ndarray) -> None:
            nonlocal empty
            audio = _checked(audio)
            empty = empty and not len(audio)
            for start in range(0, len(audio), _BLOCK):
                encoded.write(_quantized(audio[start : start + _BLOCK], subtype))

        yield write
    if empty and container in ("FLAC", "MP3"):
        raise ValueError(f"There are no samples, and {container} has no empty files. Write .wav, or generate again.")


def _format(ending: str, sample_rate: int, bits: int | str | None = None) -> tuple[str, str]:
    """libsndfile's names of container and samples."""
    given, ending, formats = ending, ending.lower(), FORMATS | RAW
    if ending not in formats:
        named = repr(given) if given else "no ending"
        raise ValueError(f"Audio is written as {', '.join(formats)}, by the name's ending; got {named}.")
    container, subtype = formats[ending]
    if sample_rate not in RATES.get(ending, range(8000, 96_001)):
        held = ", ".join(map(str, RATES.get(ending, ["8000 to 96000"])))
        raise ValueError(
            f"{ending[1:].upper()} cannot hold audio at {sample_rate} Hz; resample it to one of {held}, or write .wav."
        )
    if bits is None:
        return container, subtype
    if bits not in BITS.get(container, {}):
        held = ", ".join(map(repr, BITS.get(container, {}))) or "none to choose"
        raise ValueError(f"{ending[1:].upper()} has no {bits!r} bits: it has {held}. Leave `bits` out, or write .wav.")
    return container, BITS[container][bits]


def _checked(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise ValueError(f"Audio to write is (N,) finite samples; this is {audio.shape}, or holds NaN or infinity.")
    return audio


def _quantized(audio: np.ndarray, subtype: str) -> np.ndarray:
    """The samples in the type that libsndfile stores as they are; those that are coded with loss, in 16 bits."""
    if subtype == "FLOAT":
        return audio.astype(np.float32)
    if subtype == "PCM_24":  # the upper 24 of 32 bits
        return np.rint(np.clip(audio.astype(np.float64), -1, 1) * 8_388_607).astype(np.int32) << 8
    return to_pcm16(audio)


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
