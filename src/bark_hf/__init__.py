"""Bark, Suno's text-to-audio model, as a first-class Hugging Face model.

Names and submodules are imported when they are first used (PEP 562): importing the package alone imports no other."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

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
    "bundled": ("NANO", "NANO_VOICE", "nano"),
    "cloning": ("clone_voice",),
    "configuration_bark": ("BarkCoarseConfig", "BarkConfig", "BarkFineConfig", "BarkSemanticConfig"),
    "configuration_semantic_tokenizer": ("BarkSemanticTokenizerConfig",),
    "generation_bark": ("BarkGenerateOutput",),
    "generation_configuration_bark": (
        "BarkCoarseGenerationConfig",
        "BarkFineGenerationConfig",
        "BarkGenerationConfig",
        "BarkSemanticGenerationConfig",
    ),
    "generation_stages": ("Progress",),
    "modeling_bark": ("BarkCoarseModel", "BarkFineModel", "BarkModel", "BarkSemanticModel"),
    "modeling_semantic_tokenizer": ("BarkSemanticTokenizer",),
    "pipeline": ("BarkPipeline",),
    "processing_bark": ("BarkProcessor",),
    "registration": ("register",),
    "similarity": ("speaker_similarity",),
    "voice_presets": ("VoicePresets",),
    "voices": ("Voice",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # to a type checker it would give every name

    def __getattr__(name: str) -> Any:
        try:
            module = import_module(f".{_HOMES.get(name, name)}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":  # a package that a module of ours needs
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        value = globals()[name] = getattr(module, name) if name in _HOMES else module
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
