"""Random crops of recordings as waveforms, read from disk when they are asked for.

Knows nothing of networks. What is drawn depends on (seed, index) alone, so that a resumed run sees what it would have
seen."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..audio.files import FORMATS, resample, to_mono


def find_recordings(source: str | Path | Iterable) -> list[Path | np.ndarray]:
    """A folder, searched to its depth, or several paths or arrays -> the recordings, a folder's in their names' order.

    Raises ValueError where there are none."""
    if isinstance(source, str | Path):
        found: list = sorted(path for path in Path(source).rglob("*") if path.suffix.lower() in FORMATS)
        if not found:
            raise ValueError(
                f"There are no recordings ({', '.join(FORMATS)}) in {source}. Pass a folder that has some."
            )
        return found
    return [Path(one) if isinstance(one, str) else one for one in source]


class Crops(torch.utils.data.Dataset):
    """`count` crops of `length` samples at `sampling_rate`, each second of audio as likely as any other.

    recordings: paths, of any rate and number of channels, or (N,) arrays at `sampling_rate`, float or int16. What is
    shorter than a crop is followed by silence. Raises ValueError for what is no audio or has no samples."""

    def __init__(
        self, recordings: Sequence[Path | np.ndarray], sampling_rate: int, length: int, count: int, seed: int = 0
    ):
        if not recordings:
            raise ValueError("There are no recordings to take crops from.")
        self.recordings, self.sampling_rate, self.length = recordings, sampling_rate, length
        self.count, self.seed = count, seed
        self.sizes = np.array([_samples(one, sampling_rate) for one in recordings])
        self.ends = self.sizes.cumsum()

    def __len__(self) -> int:
        return self.count

    @property
    def seconds(self) -> float:
        """Of all recordings together."""
        return int(self.ends[-1]) / self.sampling_rate

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """`input_values`: (length,) float32."""
        draws = np.random.default_rng([self.seed, index])
        row = int(np.searchsorted(self.ends, draws.integers(self.ends[-1]), side="right"))
        start = int(draws.integers(max(self.sizes[row] - self.length, 0) + 1))
        wave = _read(self.recordings[row], start, self.length, self.sampling_rate)
        return {"input_values": np.pad(wave, (0, self.length - len(wave)))}


def whole(recording: Path | np.ndarray, sampling_rate: int) -> np.ndarray:
    """(N,) float32, all of a recording."""
    return _read(recording, 0, _samples(recording, sampling_rate), sampling_rate)


def _samples(recording: Path | np.ndarray, sampling_rate: int) -> int:
    """How many samples it has at that rate."""
    import soundfile

    if isinstance(recording, np.ndarray):
        if recording.ndim != 1 or not len(recording):
            raise ValueError(f"Arrays of audio are (N,) and not empty; got {recording.shape}.")
        return len(recording)
    try:
        info = soundfile.info(recording)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{recording} is not audio that can be read here; convert it, or leave it out.") from error
    if not info.frames:
        raise ValueError(f"{recording} is an audio file without samples; leave it out.")
    return max(1, info.frames * sampling_rate // info.samplerate)


def _read(recording: Path | np.ndarray, start: int, length: int, sampling_rate: int) -> np.ndarray:
    """(<= length,) float32 samples from `start` on, counted at `sampling_rate`."""
    import soundfile

    if isinstance(recording, np.ndarray):
        piece = recording[start : start + length]
        return piece.astype(np.float32) / (32768 if piece.dtype == np.int16 else 1)
    with soundfile.SoundFile(recording) as file:
        file.seek(start * file.samplerate // sampling_rate)
        piece = file.read(-(-length * file.samplerate // sampling_rate), dtype="float32")
        wave = resample(to_mono(piece), file.samplerate, sampling_rate)[:length]
    if not np.isfinite(wave).all():
        raise ValueError(f"{recording} holds samples that are NaN or infinite. Export it again, or leave it out.")
    return wave
