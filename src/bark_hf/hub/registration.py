"""The explicit opt-in: after `register()` transformers' Auto classes and TTS pipeline build this Bark.

Importing `bark_hf` changes nothing in transformers; only this call does."""

from transformers import AutoConfig, AutoModel, AutoModelForTextToWaveform, AutoProcessor
from transformers.models.auto import processing_auto
from transformers.pipelines import PIPELINE_REGISTRY

from ..configuration_bark import BarkConfig
from ..modeling_bark import BarkModel
from ..pipeline_bark import BarkPipeline
from ..processing_bark import BarkProcessor


def register() -> None:
    """Makes `AutoConfig`, `AutoModel`, `AutoModelForTextToWaveform`, `AutoProcessor` and
    `pipeline("text-to-speech", ...)` use this package for `model_type: bark`. Other models stay as they are."""
    AutoConfig.register("bark", BarkConfig, exist_ok=True)
    AutoModel.register(BarkConfig, BarkModel, exist_ok=True)
    AutoModelForTextToWaveform.register(BarkConfig, BarkModel, exist_ok=True)
    AutoProcessor.register(BarkConfig, BarkProcessor, exist_ok=True)
    # saved processors name their class, and the native one of that name would be found first
    processing_auto.PROCESSOR_MAPPING_NAMES.pop("bark", None)
    PIPELINE_REGISTRY.supported_tasks["text-to-audio"]["impl"] = BarkPipeline
