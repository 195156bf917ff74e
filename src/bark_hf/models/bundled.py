"""The model that the package brings along: `nano()`, or any `from_pretrained` of `NANO`.

Knows nothing of how it was trained; it loads a folder beside this file, whose README.md is its card."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..modeling_bark import BarkModel
    from ..processing_bark import BarkProcessor

NANO = str(Path(__file__).with_name("nano"))  # a folder like any checkpoint's
NANO_VOICE = "en_speaker_rms"  # of its presets the one that is understood best


def nano() -> "tuple[BarkModel, BarkProcessor]":
    """(model, processor) of the bundled checkpoint, on the CPU, in evaluation mode.

    It was trained on synthetic speech, speaks English only, and has the presets `processor.available_voice_presets`;
    pass one of them, as `NANO_VOICE`: without, every call speaks in a voice of its own."""
    import torch  # here and below, as the command line reads NANO and its voices without them

    from ..modeling_bark import BarkModel
    from ..processing_bark import BarkProcessor

    model = BarkModel.from_pretrained(NANO, dtype=torch.float32)  # kept in float16, which is slow on a CPU
    return model.eval(), BarkProcessor.from_pretrained(NANO)
