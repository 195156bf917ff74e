"""Bark, Suno's text-to-audio model, as a first-class Hugging Face model."""

from .cloning import clone_voice
from .configuration_bark import BarkCoarseConfig, BarkConfig, BarkFineConfig, BarkSemanticConfig
from .configuration_semantic_tokenizer import BarkSemanticTokenizerConfig
from .generation_bark import BarkGenerateOutput
from .generation_configuration_bark import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)
from .generation_stages import Progress
from .modeling_bark import BarkCoarseModel, BarkFineModel, BarkModel, BarkSemanticModel
from .modeling_semantic_tokenizer import BarkSemanticTokenizer
from .nano import NANO, NANO_VOICE, nano
from .pipeline import BarkPipeline
from .processing_bark import BarkProcessor, VoicePresets
from .register import register
from .similarity import speaker_similarity
from .voices import Voice

__version__ = "0.1.0"

__all__ = [
    "NANO",
    "NANO_VOICE",
    "BarkCoarseConfig",
    "BarkCoarseGenerationConfig",
    "BarkCoarseModel",
    "BarkConfig",
    "BarkFineConfig",
    "BarkFineGenerationConfig",
    "BarkFineModel",
    "BarkGenerateOutput",
    "BarkGenerationConfig",
    "BarkModel",
    "BarkPipeline",
    "BarkProcessor",
    "BarkSemanticConfig",
    "BarkSemanticGenerationConfig",
    "BarkSemanticModel",
    "BarkSemanticTokenizer",
    "BarkSemanticTokenizerConfig",
    "Progress",
    "Voice",
    "VoicePresets",
    "clone_voice",
    "nano",
    "register",
    "speaker_similarity",
]
