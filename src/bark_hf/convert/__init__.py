"""Original checkpoints, voices and quantizers in, folders in hub layout out."""

from .checkpoint import convert_checkpoint
from .presets import convert_voice_presets
from .semantic_tokenizer import convert_semantic_tokenizer

__all__ = ["convert_checkpoint", "convert_semantic_tokenizer", "convert_voice_presets"]
