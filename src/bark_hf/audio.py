"""Waveforms to 16-bit WAV files, whole or not at all.

Knows nothing of models. Float samples are -1..1; a file appears under its name only when it is complete."""

import io
from pathlib import Path

import numpy as np


def to_pcm16(audio: np.ndarray) -> np.ndarray:
    """(N,) float samples -> (N,) int16, rounded to the nearest of 32 767 steps; what exceeds -1..1 is clipped."""
    return np.rint(np.clip(np.asarray(audio, dtype=np.float64), -1, 1) * 32767).astype(np.int16)


def wav_bytes(audio: np.ndarray, sample_rate: int) -> bytes:
    """A mono 16-bit WAV file in memory."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, to_pcm16(audio), sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def write_wav(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Writes a mono 16-bit WAV: beside its place first, then renamed, so that no interruption leaves a broken file."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(wav_bytes(audio, sample_rate))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
