"""Text of any length as speech: scripts, sentences, speakers, quality checks and retries, joined audio, captions.

Knows nothing of audio files or command lines; model and processor come in as arguments."""

from typing import TYPE_CHECKING

from ..lazy import found_on_first_use

if TYPE_CHECKING:
    from .script import Line, parse_script, read_script
    from .speech import MAX_SECONDS, LongProgress, LongSpeech, Piece, speak_long

__all__ = [
    "MAX_SECONDS",
    "Line",
    "LongProgress",
    "LongSpeech",
    "Piece",
    "parse_script",
    "read_script",
    "speak_long",
]

_MODULES = {
    "script": ("Line", "parse_script", "read_script"),
    "speech": ("MAX_SECONDS", "LongProgress", "LongSpeech", "Piece", "speak_long"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = found_on_first_use(__name__, _MODULES)
