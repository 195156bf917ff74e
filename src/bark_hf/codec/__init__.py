"""Between codebook ids and waveforms: EnCodec, at once and piece by piece.

Knows nothing of Bark's stages."""

from .encodec import BarkCodec
from .streaming import CodecStream

__all__ = ["BarkCodec", "CodecStream"]
