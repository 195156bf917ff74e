"""Original checkpoints and voices in, a folder in hub layout out."""

from .checkpoint import convert_checkpoint
from .presets import convert_voice_presets

__all__ = ["convert_checkpoint", "convert_voice_presets"]
