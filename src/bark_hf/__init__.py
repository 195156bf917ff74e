"""Bark, Suno's text-to-audio model, as a first-class Hugging Face model.

Names and submodules are imported when they are first used (PEP 562): importing the package alone imports no other."""

from typing import TYPE_CHECKING

from .lazy import found_on_first_use
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .cloning.clone import clone_voice
    from .cloning.configuration_semantic_tokenizer import BarkSemanticTokenizerConfig
    from .cloning.modeling_semantic_tokenizer import BarkSemanticTokenizer
    from .configuration_bark import BarkCoarseConfig, BarkConfig, BarkFineConfig, BarkSemanticConfig
    from .evaluation.similarity import speaker_similarity
    from .generation.stages import Progress
    from .generation_bark import BarkGenerateOutput
    from .generation_configuration_bark import (
        BarkCoarseGenerationConfig,
        BarkFineGenerationConfig,
        BarkGenerationConfig,
        BarkSemanticGenerationConfig,
    )
    from .hub.registration import register
    from .modeling_bark import BarkCoarseModel, BarkFineModel, BarkModel, BarkSemanticModel
    from .models.bundled import NANO, NANO_VOICE, nano
    from .pipeline_bark import BarkPipeline
    from .processing_bark import BarkProcessor
    from .voices.presets import VoicePresets
    from .voices.voice import Voice

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

_MODULES = {
    "cloning.clone": ("clone_voice",),
    "cloning.configuration_semantic_tokenizer": ("BarkSemanticTokenizerConfig",),
    "cloning.modeling_semantic_tokenizer": ("BarkSemanticTokenizer",),
    "configuration_bark": ("BarkCoarseConfig", "BarkConfig", "BarkFineConfig", "BarkSemanticConfig"),
    "evaluation.similarity": ("speaker_similarity",),
    "generation.stages": ("Progress",),
    "generation_bark": ("BarkGenerateOutput",),
    "generation_configuration_bark": (
        "BarkCoarseGenerationConfig",
        "BarkFineGenerationConfig",
        "BarkGenerationConfig",
        "BarkSemanticGenerationConfig",
    ),
    "hub.registration": ("register",),
    "modeling_bark": ("BarkCoarseModel", "BarkFineModel", "BarkModel", "BarkSemanticModel"),
    "models.bundled": ("NANO", "NANO_VOICE", "nano"),
    "pipeline_bark": ("BarkPipeline",),
    "processing_bark": ("BarkProcessor",),
    "voices.presets": ("VoicePresets",),
    "voices.voice": ("Voice",),
}

if not TYPE_CHECKING:  # to a type checker it would give every name
    __getattr__, __dir__ = found_on_first_use(__name__, _MODULES)
