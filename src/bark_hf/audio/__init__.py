"""Sound: files and streams in many formats, resampling, levels and loudness.

Knows nothing of models."""

from .files import (
    FORMATS,
    audio_bytes,
    audio_writer,
    check_ending,
    provenance,
    read_audio,
    read_metadata,
    resample,
    resample_pieces,
    to_mono,
    to_pcm16,
    wav_bytes,
    write_audio,
)

__all__ = [
    "FORMATS",
    "audio_bytes",
    "audio_writer",
    "check_ending",
    "provenance",
    "read_audio",
    "read_metadata",
    "resample",
    "resample_pieces",
    "to_mono",
    "to_pcm16",
    "wav_bytes",
    "write_audio",
]
