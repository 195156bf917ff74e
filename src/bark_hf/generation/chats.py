"""Chats, lists of messages as transformers has them: who says what, and the preset that each speaker has.

Knows nothing of models or tokenizers, and of voices only the presets' names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..voices.languages import preset_language, text_language


@dataclass(frozen=True)
class Message:
    """names: of who speaks, the message's name, if it has one, and its role."""

    names: tuple[str, ...]
    text: str


def read_chat(conversation: Any) -> list[Message]:
    """Reads {"role": ..., "content": ..., "name": ...} messages; the content is a text or a list of text parts.

    Raises ValueError for anything else."""
    if not isinstance(conversation, list | tuple) or not conversation:
        raise ValueError(f"A chat is a non-empty list of messages, got {conversation!r:.80}.")
    return [_message(row, message) for row, message in enumerate(conversation)]


def choose_presets(
    messages: list[Message], voices: Mapping[str, Any] | None, presets: Collection[str]
) -> dict[tuple[str, ...], Any]:
    """Finds the voice of each speaker (`Message.names`): what `voices` has for one of the names, else a preset's name.

    Without `voices`, the other speakers get presets that nobody else has, first those of the chat's language (English
    where it is not known). Raises ValueError for speakers who then have none, and for a system message's."""
    if voices is not None and not isinstance(voices, Mapping):
        raise ValueError(f"`voices` maps speakers to voices, got {type(voices).__name__}.")
    given = voices or {}
    taken = {name for message in messages for name in message.names}
    spare = iter(_by_language([name for name in presets if name not in taken], messages))
    chosen: dict[tuple[str, ...], Any] = {}
    for names in dict.fromkeys(message.names for message in messages):
        if found := [given.get(name, name) for name in names if name in given or name in presets]:
            chosen[names] = found[0]
        elif names[-1] == "system":
            raise ValueError(
                'Bark follows no instructions. Leave the system message out, or pass voices={"system": ...}.'
            )
        elif voices is not None:
            raise ValueError(f"`voices` has no voice for the speaker {names[0]!r}; it has {sorted(voices)}.")
        elif "/" in names[0]:  # a preset's name, which the processor will not know
            chosen[names] = names[0]
        elif (preset := next(spare, None)) is not None:
            chosen[names] = preset
        else:
            raise ValueError(
                f"The speaker {names[0]!r} has no voice, and of the checkpoint's {len(presets)} presets none is left. "
                f"Pass voices={{{names[0]!r}: ...}}, with None for a voice that Bark makes up."
            )
    return chosen


def _message(row: int, message: Any) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(f'Message {row} must be {{"role": ..., "content": ...}}, got {message!r:.80}.')
    names = tuple(message[key] for key in ("name", "role") if message.get(key) is not None)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"The role and the name of message {row} must be texts, got {names}.")
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list | tuple) or not all(map(_is_text, parts)):
        raise ValueError(
            f'The content of message {row} must be a text or a list of {{"type": "text", "text": ...}}, got '
            f"{content!r:.80}. Voices are passed as voices={{speaker: voice}}."
        )
    return Message(names, " ".join(part["text"] for part in parts))


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _by_language(presets: list[str], messages: list[Message]) -> list[str]:
    try:
        language = text_language(" ".join(message.text for message in messages)) or "en"
    except ImportError:
        language = "en"
    return sorted(presets, key=lambda name: (preset_language(name) != language, not name.startswith("v2/"), name))
