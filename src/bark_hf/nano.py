"""The model that the package brings along, once there is one: `nano()`.

Knows nothing of how it was trained; it loads a folder beside this file."""

from pathlib import Path

import torch

from .modeling_bark import BarkModel
from .processing_bark import BarkProcessor

FOLDER = Path(__file__).with_name("models") / "nano"


def nano() -> tuple[BarkModel, BarkProcessor]:
    """(model, processor) of the bundled checkpoint, on the CPU, in evaluation mode.

    Raises FileNotFoundError while this version of the package bundles none."""
    if not FOLDER.is_dir():
        raise FileNotFoundError(
            "This version of bark_hf bundles no model yet. Load one: BarkModel.from_pretrained('suno/bark-small') and "
            "BarkProcessor.from_pretrained('suno/bark-small')."
        )
    model = BarkModel.from_pretrained(FOLDER, dtype=torch.float32)  # kept in float16, which is slow on a CPU
    return model.eval(), BarkProcessor.from_pretrained(FOLDER)
