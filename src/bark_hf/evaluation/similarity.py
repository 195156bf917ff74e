"""How alike two voices sound: the cosine of two speaker embeddings, of a network of yours or of simple statistics.

Knows nothing of Bark or of files."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from ..audio.files import resample, to_mono

Embed = Callable[[np.ndarray, int], Any]
_RATE = 16_000  # Hz; the four below are in samples at it
_FRAME, _HOP, _FFT = 640, 160, 2048
_LAGS = _RATE // 400, _RATE // 60  # a voice's pitch is 60 to 400 Hz
_MELS, _CEPSTRA = 40, 19
_BLOCK = 1000  # frames analyzed at a time, so that an hour needs no more memory than a minute
# Of 17 synthetic voices (flite's rms, slt, awb, kal16; espeak-ng's en-us+m1..m8, +f1..f5), 12 sentences each: the mean
# over voices, and the deviation within one: doubled where the statistic is itself a deviation, which tells voices
# apart half as well, and 0.05 at least for pitch, as these hold theirs too steadily. Both are derived in
# tests/evaluation/test_similarity.py.
_AVERAGE = np.array([
    12.93, 2.57, 5.85, -1.51, -1.08, -0.29, -3.33, 0.28, -0.11, 0.95,
    -0.62, -0.61, 0.06, -0.29, -0.76, -0.14, -0.42, -0.63, -0.56,
    5.40, 4.73, 4.97, 4.14, 3.44, 3.61, 2.98, 2.74, 2.46, 2.14,
    2.08, 1.94, 1.70, 1.61, 1.50, 1.40, 1.22, 1.16, 1.10,
    4.85, 0.13,
])  # fmt: skip
_DEVIATION = np.array([
    1.27, 1.00, 1.90, 1.27, 1.02, 1.16, 0.67, 0.55, 0.53, 0.50,
    0.43, 0.49, 0.39, 0.41, 0.36, 0.36, 0.32, 0.30, 0.28,
    1.38, 0.87, 1.51, 1.50, 0.97, 1.38, 0.86, 0.80, 0.71, 0.61,
    0.59, 0.49, 0.46, 0.45, 0.40, 0.42, 0.34, 0.31, 0.31,
    0.05, 0.06,
])  # fmt: skip


def speaker_similarity(a: np.ndarray, b: np.ndarray, sampling_rate: int, embed: Embed | None = None) -> float:
    """Two recordings, (N,) or (N, channels) float samples -> the cosine of their embeddings, -1 to 1.

    embed: any function of (N,) float32 samples and their rate that gives a vector, such as that of a network trained
    to verify speakers: `lambda samples, rate: wavlm(torch.tensor(resample(samples, rate, 16_000))[None]).embeddings`
    for a `WavLMForXVector`. Without one, `mfcc_pitch_statistics`, which tell voices apart that were recorded alike,
    but take noise or another microphone for another voice. Raises ValueError for recordings without a voice."""
    return _cosine(_embedded(a, sampling_rate, embed), _embedded(b, sampling_rate, embed))


def nearest_speaker(
    sample: np.ndarray, references: Mapping[str, np.ndarray], sampling_rate: int, embed: Embed | None = None
) -> tuple[str, dict[str, float]]:
    """Which of the named recordings is most like a sample, and each one's `speaker_similarity` to it."""
    return speaker_finder(references, sampling_rate, embed)(sample)


def speaker_finder(
    references: Mapping[str, np.ndarray], sampling_rate: int, embed: Embed | None = None
) -> Callable[[np.ndarray], tuple[str, dict[str, float]]]:
    """`nearest_speaker` for many samples: the named recordings are embedded once, here."""
    if not references:
        raise ValueError("Pass the recordings to compare with, at least one.")
    known = {name: _embedded(one, sampling_rate, embed) for name, one in references.items()}

    def find(sample: np.ndarray) -> tuple[str, dict[str, float]]:
        wanted = _embedded(sample, sampling_rate, embed)
        scores = {name: _cosine(wanted, one) for name, one in known.items()}
        return max(scores, key=scores.__getitem__), scores

    return find


def mfcc_pitch_statistics(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    """(N,) or (N, channels) float samples -> (40,): how far a speaker is from the average one.

    Mean and deviation of 19 mel-frequency cepstra (the 0th, loudness, is left out), then median and deviation of log
    pitch, over voiced frames; each minus its average over speakers, in units of how far it varies between sentences
    of one speaker. Pitch is the peak of the autocorrelation over that of the window (Boersma 1993).
    Raises ValueError where less than 0.2 s are voiced."""
    mels, pitch = _voiced(samples, sampling_rate)
    pitch = np.log(pitch)
    cepstra = np.log(np.maximum(mels, 1e-6 * mels.max())) @ _cosines()
    found = [*cepstra.mean(axis=0), *cepstra.std(axis=0), np.median(pitch), pitch.std()]
    return (np.array(found) - _AVERAGE) / _DEVIATION


def median_pitch(samples: np.ndarray, sampling_rate: int) -> float:
    """(N,) or (N, channels) float samples -> Hz. Raises ValueError where less than 0.2 s are voiced."""
    return float(np.median(_voiced(samples, sampling_rate)[1]))


def _voiced(samples: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Mel powers (F, 40) and pitch in Hz (F,) of the voiced frames, 100 a second."""
    mono = to_mono(samples)
    if not np.isfinite(mono).all():
        raise ValueError("The recording holds samples that are NaN or infinite.")
    wave = resample(mono, sampling_rate, _RATE)
    if len(wave) < _FRAME:
        wave = np.zeros(_FRAME, np.float32)  # too short, and not voiced
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FRAME)[::_HOP]
    blocks = [_analyzed(frames[start : start + _BLOCK]) for start in range(0, len(frames), _BLOCK)]
    energy, pitch, clarity, mels = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    voiced = (clarity > 0.6) & (energy > 1e-3 * energy.max())
    if voiced.sum() < 20:
        raise ValueError(
            f"The recording holds {voiced.sum() * _HOP / _RATE:.2f} s of voiced speech, 0.2 s are needed."
        )
    return mels[voiced], pitch[voiced]


def _analyzed(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(F, 640) samples -> energy (F,), pitch in Hz (F,), how periodic, 0 to 1 (F,), mel powers (F, 40)."""
    window = np.hanning(_FRAME + 1)[:-1]
    power = np.square(np.abs(np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * window, _FFT)))
    least, most = _LAGS
    lags = slice(least - 1, most + 2)
    own = np.fft.irfft(np.square(np.abs(np.fft.rfft(window, _FFT))))
    correlation = np.fft.irfft(power)
    energy = correlation[:, 0]
    periodic = correlation[:, lags] / np.maximum(energy, 1e-12)[:, None] * (own[0] / own[lags])
    middle = periodic[:, 1:-1]
    peaks = np.where((middle > periodic[:, :-2]) & (middle >= periodic[:, 2:]), middle, 0)
    clarity = peaks.max(axis=1)
    lag = least + (peaks >= 0.9 * clarity[:, None]).argmax(axis=1)  # the first good peak: later ones are octaves below
    return energy, _RATE / lag, clarity, power @ _mel_filters()


@cache
def _mel_filters() -> np.ndarray:
    """(1025, 40)"""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(_FFT // 2 + 1, _MELS, 60.0, 7600.0, _RATE)


def _cosines() -> np.ndarray:
    """(40, 19): the cosine transform (DCT-II, orthonormal) without its 0th row."""
    angles = np.pi / _MELS * (np.arange(_MELS)[:, None] + 0.5) * np.arange(1, _CEPSTRA + 1)
    return np.cos(angles) * np.sqrt(2 / _MELS)


def _embedded(samples: np.ndarray, sampling_rate: int, embed: Embed | None) -> np.ndarray:
    """The embedding, of length 1."""
    found = (embed or mfcc_pitch_statistics)(to_mono(samples), sampling_rate)
    vector = torch.as_tensor(found).detach().cpu().double().flatten().numpy()
    length = np.linalg.norm(vector)
    if not length > 0 or not np.isfinite(length):
        raise ValueError("`embed` gave a vector that is zero, empty or not finite for one of the recordings.")
    return vector / length


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.clip(a @ b, -1, 1))  # of vectors of length 1
