"""Speech-like sounds for tests: a pulse train through formants, in syllables, with pauses."""

import numpy as np


def speech(
    seconds: float,
    rate: int = 16_000,
    pitch: float = 120.0,
    formants: tuple[float, ...] = (600.0, 1400.0, 2600.0),
    seed: int = 0,
) -> np.ndarray:
    """(N,) float32: four syllables a second, each with its own pitch and formants around the speaker's."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    syllable = (time * 4).astype(int)
    count = syllable[-1] + 1
    phase = np.cumsum(2 * np.pi * pitch * (1 + 0.05 * draw.standard_normal(count))[syllable] / rate)
    moved = np.array(formants) * (1 + 0.1 * draw.standard_normal((count, len(formants))))
    wave = np.zeros_like(time)
    for harmonic in range(1, int(min(3800, rate / 2) / pitch)):
        gain = sum(1 / (1 + ((harmonic * pitch - moved[:, i]) / 120) ** 2) for i in range(len(formants)))
        wave += gain[syllable] * np.sin(harmonic * phase)
    envelope = np.sin(np.pi * (time * 4 % 1)) ** 0.5
    return (0.5 * wave * envelope / np.abs(wave).max()).astype(np.float32)


def noise(seconds: float, rate: int = 16_000, level: float = 1e-3, seed: int = 0) -> np.ndarray:
    """(N,) float32 white noise of that RMS."""
    draw = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return (level * draw).astype(np.float32)
