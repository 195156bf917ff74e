"""Voices (history prompts): their arrays and files, a checkpoint's presets and banks, and their languages.

Knows nothing of networks."""

from .presets import VoicePresets
from .voice import Voice

__all__ = ["Voice", "VoicePresets"]
