"""How loud audio is, and bringing it to a loudness without clipping; fades, and silence off the edges.

Knows nothing of files or models. Audio is (N,) float samples, of any length: half a minute of it is in memory at once.
LUFS as in ITU-R BS.1770-4, true peaks in dBTP."""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from .files import FRAME, heard, ramp, resample

_LOOK_AHEAD = 0.015  # seconds, around a peak, over which the limiter's gain falls and rises
_MOST_LIMITED = 12.0  # dB, by which a peak is lowered at most: more would be heard
_NEAR = 0.1  # LU
_ROUNDS = 6  # of gain and limiter; speech needs 2 or 3
_WINDOW, _AROUND = 30, 1  # seconds that are measured at once, and before and after, where the filters' memory ends
_CONTEXT = 1 << 8  # samples that the resampler sees
_GATE = 0.4  # seconds of a gating block, which begin after a quarter of that


class Samples(Protocol):
    """Audio of which slices of step 1 are read: an array, or a `SampleFile`."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice, /) -> np.ndarray: ...


class Loud(NamedTuple):
    """audio (N,) float32; its loudness in LUFS and true peak in dBTP, as measured; -inf both for silence."""

    audio: np.ndarray
    loudness: float
    true_peak: float


def loudness(audio: np.ndarray, sampling_rate: int) -> float:
    """(N,) samples -> integrated loudness in LUFS, gated; -inf for silence.

    Less than 0.4 s, the length of a gating block, is measured as one block of its own length."""
    audio = _checked(audio)
    found = [_energies(*window, sampling_rate) for window in _windows(audio, sampling_rate)]
    return _gated(np.concatenate([np.zeros(0), *found]))


def true_peak(audio: np.ndarray, sampling_rate: int) -> float:
    """(N,) samples -> the largest magnitude at four times their rate, in dBTP; -inf for silence."""
    audio = _checked(audio)
    return _decibels(max((_peak(*window, sampling_rate) for window in _windows(audio, sampling_rate)), default=0.0))


def to_loudness(audio: np.ndarray, sampling_rate: int, target: float = -16.0, peak: float = -1.0) -> Loud:
    """(N,) samples, brought to `target` LUFS by a gain, with peaks above `peak` dBTP lowered by a look-ahead limiter.

    The limiter lowers no peak by more than 12 dB; where the target would need that (clicks in silence), the result
    is quieter, as its `loudness` says. Silence stays as it is. Raises ValueError for a target or peak above 0."""
    audio = _checked(audio)
    result = leveled(audio, sampling_rate, target, peak)
    return Loud(np.concatenate([audio[:0], *result]), result.loudness, result.true_peak)


class Leveled:
    """Audio at a gain, its peaks lowered by a look-ahead limiter: pieces and slices are computed as they are read.

    gain: in dB; peak: in dBTP. Its loudness and true peak are those of the result, found in a pass over the audio."""

    def __init__(self, audio: Samples, sampling_rate: int, gain: float, peak: float):
        self._audio, self._rate = audio, sampling_rate
        self._gain, self._ceiling, self._over = np.float32(10 ** (gain / 20)), 10 ** (peak / 20), 1.0
        self._half = 2 * round(_LOOK_AHEAD * sampling_rate / 2) + 1
        energies, largest = [np.zeros(0)], 0.0
        for window in _windows(self, sampling_rate):
            energies.append(_energies(*window, sampling_rate))
            largest = max(largest, _peak(*window, sampling_rate))
        self._over = max(largest / self._ceiling, 1.0)  # by the gain's own change, some 0.01 dB
        self.loudness = _gated(np.concatenate(energies) / self._over**2)
        self.true_peak = _decibels(largest / self._over)

    def __len__(self) -> int:
        return len(self._audio)

    def __iter__(self) -> Iterator[np.ndarray]:
        """(N,) float32 pieces, in order."""
        size = _WINDOW * self._rate
        return (self[start : start + size] for start in range(0, len(self), size))

    def __getitem__(self, window: slice, /) -> np.ndarray:
        start, stop, _ = window.indices(len(self))
        margin = 2 * self._half + _CONTEXT
        begin = max(0, start - margin)
        samples = self._audio[begin : stop + margin] * self._gain
        peaks = _peaks(samples, self._rate)
        if peaks.max(initial=0) > self._ceiling:
            samples = samples * self._gains(peaks)
        return (samples[start - begin : stop - begin] / self._over).astype(np.float32)

    def _gains(self, peaks: np.ndarray) -> np.ndarray:
        """(N,) gains, changing smoothly, under which no peak is above the ceiling.

        The lowest one wanted within the look-ahead, averaged over as long a triangle, is nowhere above what is
        wanted."""
        from scipy.ndimage import minimum_filter1d, uniform_filter1d

        gains = minimum_filter1d(self._ceiling / np.maximum(peaks, self._ceiling), 2 * self._half - 1, mode="nearest")
        for _ in range(2):
            gains = uniform_filter1d(gains, self._half, mode="nearest")
        return gains


def leveled(audio: Samples, sampling_rate: int, target: float = -16.0, peak: float = -1.0) -> Leveled:
    """The same as `to_loudness`, piece by piece, for audio that is not in memory; some passes over it are made first.

    Example:
        for piece in leveled(samples, 24_000, target=-16.0):
            write(piece)
    """
    for name, value in (("target", target), ("peak", peak)):
        if not -70 <= value <= 0:
            raise ValueError(f"`{name}` is -70 to 0 dB below full scale, such as -16 LUFS and -1 dBTP; got {value}.")
    gain, result = 0.0, Leveled(audio, sampling_rate, 0.0, math.inf)
    most = peak + _MOST_LIMITED - result.true_peak
    if not math.isfinite(result.loudness):
        return result
    for _ in range(_ROUNDS):  # the limiter takes some loudness, which the next round gives back
        gain = min(gain + target - result.loudness, most)
        result = Leveled(audio, sampling_rate, gain, peak)
        if abs(result.loudness - target) < _NEAR or gain == most:
            break
    return result


def fade(audio: np.ndarray, sampling_rate: int, seconds_in: float = 0.0, seconds_out: float = 0.0) -> np.ndarray:
    """(N,) samples -> the same, rising from 0 and falling to 0 along a raised cosine; over all of it at most."""
    audio = _checked(audio).copy()
    if min(seconds_in, seconds_out) < 0:
        raise ValueError(f"Fades take 0 seconds or more; got {seconds_in} and {seconds_out}.")
    for seconds, turned in ((seconds_in, audio), (seconds_out, audio[::-1])):
        size = min(len(audio), round(seconds * sampling_rate))
        turned[:size] *= ramp(size)
    return audio


def trim_silence(audio: np.ndarray, sampling_rate: int, below: float = -50.0, keep: float = 0.05) -> np.ndarray:
    """(N,) samples without the edges where 10 ms are `below` dB under the loudest, but for `keep` seconds of each.

    Nothing is left of silence."""
    audio = _checked(audio)
    if below >= 0 or keep < 0:
        raise ValueError(
            f"`below` is negative and `keep` is not: -50 dB and 0.05 s, for example; got {below}, {keep}."
        )
    sounding = np.flatnonzero(heard(audio, sampling_rate, below))
    if not len(sounding):
        return audio[:0]
    size, kept = round(FRAME * sampling_rate), round(keep * sampling_rate)
    return audio[max(0, sounding[0] * size - kept) : (sounding[-1] + 1) * size + kept]


def _checked(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise ValueError(f"Audio is (N,) finite samples; this is {audio.shape}, or holds NaN or infinity.")
    return audio


def _decibels(magnitude: float) -> float:
    return 20 * math.log10(magnitude) if magnitude else -math.inf


def _windows(audio: Samples, sampling_rate: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Windows of the audio, with up to a second before and after, and how many samples these are."""
    size, around = _WINDOW * sampling_rate, _AROUND * sampling_rate
    for start in range(0, len(audio), size):
        begin, stop = max(0, start - around), min(start + size, len(audio))
        end = min(stop + around, len(audio))
        yield audio[begin:end], start - begin, end - stop


def _energies(samples: np.ndarray, before: int, after: int, sampling_rate: int) -> np.ndarray:
    """The weighted mean square of each whole gating block that begins in a window."""
    try:
        import pyloudnorm
    except ImportError as error:
        raise ImportError("Loudness needs pyloudnorm and soxr: pip install 'bark-hf[longform]'.") from error
    if after:
        samples = samples[: len(samples) - after + min(after, round(0.75 * _GATE * sampling_rate))]
    else:
        samples = np.pad(samples, (0, 1))  # so that a short one is longer than its block
    block = min(_GATE, (len(samples) - 0.5) / sampling_rate)
    size, hop = block * sampling_rate, block / 4 * sampling_rate
    # whole blocks alone, as the standard has it: the last may lack samples in pyloudnorm
    whole = math.ceil(size + hop * int((len(samples) - size) / hop))
    meter = pyloudnorm.Meter(sampling_rate, "DeMan", block)
    meter.integrated_loudness(samples[:whole])
    return 10 ** (np.array(meter.blockwise_loudness[round(before / hop) :]) / 10)


def _gated(energies: np.ndarray) -> float:
    """Integrated loudness in LUFS: of blocks above -70 LUFS, and less than 10 LU under the mean of these."""
    loud = energies[energies > 10**-7.0]
    kept = loud[loud > 0.1 * loud.mean()] if len(loud) else loud
    return float(10 * np.log10(kept.mean())) if len(kept) else -math.inf


def _peak(samples: np.ndarray, before: int, after: int, sampling_rate: int) -> float:
    """The largest magnitude of a window at four times its rate."""
    return float(_peaks(samples, sampling_rate)[before : len(samples) - after].max(initial=0))


def _peaks(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    """(N,): the largest magnitude between each sample and the next, of four times as many samples."""
    if not len(audio):
        return audio
    fine = resample(np.pad(audio, _CONTEXT), sampling_rate, 4 * sampling_rate)
    return np.abs(fine).reshape(-1, 4).max(axis=1)[_CONTEXT:-_CONTEXT]
