"""Bark, Suno's text-to-audio model, as a first-class Hugging Face model."""

from .configuration_bark import BarkCoarseConfig, BarkConfig, BarkFineConfig, BarkSemanticConfig
from .generation_bark import BarkGenerateOutput
from .generation_configuration_bark import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)
from .generation_stages import Progress
from .modeling_bark import BarkCoarseModel, BarkFineModel, BarkModel, BarkSemanticModel
from .nano import nano
from .pipeline import BarkPipeline
from .processing_bark import BarkProcessor, VoicePresets
from .register import register
from .voices import Voice

__version__ = "0.1.0"

__all__ = [
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
    "Progress",
    "Voice",
    "VoicePresets",
    "nano",
    "register",
]
