"""Checkpoints for the command line: what cannot be loaded or written is a ValueError of one sentence."""

from enum import Enum
from pathlib import Path

from .terminal import stderr

BUNDLED = "nano"  # the model that the package brings along; a folder of that name is ./nano
FULL_MODEL = "suno/bark-small"


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def folder_of(model: str) -> str:
    """What `--model` names, for `from_pretrained`."""
    from ..models.bundled import NANO

    return NANO if model == BUNDLED else model


def load(model: str, device: str | None, dtype: Dtype, quiet: bool):
    import torch
    from transformers.utils import logging

    from ..modeling_bark import BarkModel
    from ..processing_bark import BarkProcessor

    if quiet or not stderr.is_terminal:
        logging.disable_progress_bar()
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    if model == BUNDLED and dtype is Dtype.auto:
        dtype = Dtype.float32  # as `nano()`
    folder = folder_of(model)
    processor = from_checkpoint(BarkProcessor, folder)
    bark = from_checkpoint(BarkModel, folder, dtype="auto" if dtype is Dtype.auto else getattr(torch, dtype.value))
    return bark.to(place).eval(), processor


def from_checkpoint(loaded_class, model: str, model_type: str | None = None, **options):
    """`from_pretrained` with an error that says, in a sentence, what to pass instead.

    With a model_type, a checkpoint of another is an error too: transformers would take what fits and draw the rest."""
    if not Path(model).is_dir() and (model.count("/") > 1 or model.startswith((".", "~", "/"))):
        raise ValueError(f"There is no folder {model}. Pass a checkpoint's folder or a hub id like {FULL_MODEL}.")
    try:
        if model_type is not None:
            from transformers import PreTrainedConfig

            config = PreTrainedConfig.get_config_dict(model)[0]
            found = config.get("model_type") if isinstance(config, dict) else None
            if found != model_type:
                raise ValueError(f"its model_type is {found!r}, wanted is {model_type!r}")
        return loaded_class.from_pretrained(model, **options)
    except (OSError, ValueError, ImportError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{model} cannot be loaded as a Bark checkpoint: {reason:.300}") from error


def need_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} into.")
