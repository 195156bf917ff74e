"""A recording to a voice: the semantic tokenizer, its configuration, and `clone_voice`.

Knows nothing of files or of text: what the recording says need not be known."""

from typing import TYPE_CHECKING

from ..lazy import found_on_first_use

if TYPE_CHECKING:
    from .clone import CloneReport, clone_voice, encode_voice, prepare_reference
    from .configuration_semantic_tokenizer import BarkSemanticTokenizerConfig
    from .modeling_semantic_tokenizer import BarkSemanticTokenizer

__all__ = [
    "BarkSemanticTokenizer",
    "BarkSemanticTokenizerConfig",
    "CloneReport",
    "clone_voice",
    "encode_voice",
    "prepare_reference",
]

_MODULES = {
    "clone": ("CloneReport", "clone_voice", "encode_voice", "prepare_reference"),
    "configuration_semantic_tokenizer": ("BarkSemanticTokenizerConfig",),
    "modeling_semantic_tokenizer": ("BarkSemanticTokenizer",),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = found_on_first_use(__name__, _MODULES)
