"""How loud audio is, and bringing it to a loudness without clipping; fades, and silence off the edges.

Knows nothing of files or models. Audio is (N,) float samples; LUFS as in ITU-R BS.1770-4, true peaks in dBTP."""

from typing import NamedTuple

import numpy as np

from .audio import FRAME, heard, ramp, resample

_LOOK_AHEAD = 0.015  # seconds, around a peak, over which the limiter's gain falls and rises
_MOST_LIMITED = 12.0  # dB, by which a peak is lowered at most: more would be heard
_NEAR = 0.1  # LU
_ROUNDS = 6  # of gain and limiter; speech needs 2 or 3
_BLOCK, _CONTEXT = 1 << 19, 1 << 8  # samples that are searched for peaks at once, and those that the resampler sees


class Loud(NamedTuple):
    """audio (N,) float32; its loudness in LUFS and true peak in dBTP, as measured; -inf both for silence."""

    audio: np.ndarray
    loudness: float
    true_peak: float


def loudness(audio: np.ndarray, sampling_rate: int) -> float:
    """(N,) samples -> integrated loudness in LUFS, gated; -inf for silence.

    Less than 0.4 s, the length of a gating block, is measured as one block of its own length."""
    audio = _checked(audio)
    try:
        import pyloudnorm
    except ImportError as error:
        raise ImportError("Loudness needs pyloudnorm and soxr: pip install 'bark-hf[longform]'.") from error
    if not audio.any():
        return float("-inf")
    audio = np.pad(audio, (0, 1))  # so that a short one is longer than its block
    block = min(0.4, (len(audio) - 0.5) / sampling_rate)
    # whole blocks alone, as the standard has it: the last may lack samples in pyloudnorm
    whole = len(audio) - int(len(audio) - block * sampling_rate) % max(1, round(block / 4 * sampling_rate))
    return float(pyloudnorm.Meter(sampling_rate, "DeMan", block).integrated_loudness(audio[:whole]))


def true_peak(audio: np.ndarray, sampling_rate: int) -> float:
    """(N,) samples -> the largest magnitude at four times their rate, in dBTP; -inf for silence."""
    with np.errstate(divide="ignore"):
        return float(20 * np.log10(_peaks(_checked(audio), sampling_rate).max(initial=0)))


def to_loudness(audio: np.ndarray, sampling_rate: int, target: float = -16.0, peak: float = -1.0) -> Loud:
    """(N,) samples, brought to `target` LUFS by a gain, with peaks above `peak` dBTP lowered by a look-ahead limiter.

    The limiter lowers no peak by more than 12 dB; where the target would need that (clicks in silence), the result
    is quieter, as its `loudness` says. Silence stays as it is. Raises ValueError for a target or peak above 0."""
    audio = _checked(audio)
    for name, value in (("target", target), ("peak", peak)):
        if not -70 <= value <= 0:
            raise ValueError(f"`{name}` is -70 to 0 dB below full scale, such as -16 LUFS and -1 dBTP; got {value}.")
    found, gain = loudness(audio, sampling_rate), 0.0
    if not np.isfinite(found):
        return Loud(audio, found, true_peak(audio, sampling_rate))
    most = peak + _MOST_LIMITED - true_peak(audio, sampling_rate)
    for _ in range(_ROUNDS):  # the limiter takes some loudness, which the next round gives back
        gain = min(gain + target - found, most)
        result = _limited(audio * np.float32(10 ** (gain / 20)), sampling_rate, 10 ** (peak / 20))
        found = loudness(result, sampling_rate)
        if abs(found - target) < _NEAR or gain == most:
            break
    return Loud(result, found, true_peak(result, sampling_rate))


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


def _peaks(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    """(N,): the largest magnitude between each sample and the next, of four times as many samples."""
    padded, found = np.pad(audio, _CONTEXT), []
    for start in range(0, len(audio), _BLOCK):
        fine = resample(padded[start : start + _BLOCK + 2 * _CONTEXT], sampling_rate, 4 * sampling_rate)
        found.append(np.abs(fine).reshape(-1, 4).max(axis=1)[_CONTEXT:-_CONTEXT])
    return np.concatenate(found) if found else audio


def _limited(audio: np.ndarray, sampling_rate: int, ceiling: float) -> np.ndarray:
    """(N,) samples with no true peak above `ceiling`, by a gain that changes smoothly.

    The lowest gain wanted within the look-ahead, averaged over as long a triangle, is nowhere above what is wanted."""
    peaks = _peaks(audio, sampling_rate)
    if peaks.max() <= ceiling:
        return audio
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    half = 2 * round(_LOOK_AHEAD * sampling_rate / 2) + 1
    gain = minimum_filter1d(ceiling / np.maximum(peaks, ceiling), 2 * half - 1, mode="nearest")
    for _ in range(2):
        gain = uniform_filter1d(gain, half, mode="nearest")
    limited = audio * gain
    over = _peaks(limited.astype(np.float32), sampling_rate).max() / ceiling  # by the gain's own change, some 0.01 dB
    return (limited / max(over, 1)).astype(np.float32)
