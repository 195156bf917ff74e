"""What is wrong with a checkpoint's files, as a ValueError or OSError that says so.

Knows nothing of networks: two classes to mix in before transformers' own."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


class ConfigErrors:
    """For configs: a field of the wrong type in `config.json` is a ValueError, not an error of the library's own."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers. Raises ValueError for fields, or a dict, of the wrong type."""
        if not isinstance(config_dict, dict):
            raise ValueError(f"A {cls.__name__} is a JSON object, got {type(config_dict).__name__}.")
        try:
            return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        except (StrictDataclassError, TypeError, AttributeError) as error:
            raise ValueError(f"This is no {cls.__name__}: {error.__cause__ or error}") from error


class ModelErrors:
    """For models: damaged weights are an OSError that names the checkpoint, as missing ones are in transformers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers. Raises OSError for missing or damaged weights, ValueError for a wrong config."""
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        except SafetensorError as error:
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are damaged or cut off ({error}). Save or download "
                "them again; for a hub id pass force_download=True."
            ) from error
