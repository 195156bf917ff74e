"""Scripts for long form: who says what with which voice after how long a silence, from marked-up text or JSON.

Knows nothing of models, and of voices only their names: none of them is ever taken for a path."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_PAUSE = 60.0  # seconds
_LEAD = re.compile(r"(?:\s*\[[^\[\]]*\])*")  # marks and tags may stand before a speaker's name
_MARK = re.compile(r"\[\s*(?:(voice)\s*:|(pause)\b\s*:?)([^\[\]]*)(\]?)", re.IGNORECASE)
_PAUSE = re.compile(r"([+-]?\d+(?:\.\d*)?)\s*(ms|s)?")
_LOOKS_LIKE_JSON = re.compile(r'\s*(\{\s*"|\[\s*\{)')
_KEYS = {"speaker": str, "text": str, "voice": str, "pause": int | float}
_LINE_SHAPE = 'a line has a "text" and may have "speaker", "voice" (names) and "pause" (seconds)'
_SHAPE = f'a list of lines or {{"lines": [...], "voices": {{name: voice}}}}, where {_LINE_SHAPE}'

Event = str | dict[str, Any]  # words, or what changes before the words to come


@dataclass(frozen=True)
class Line:
    """Words without a break in who speaks.

    voice: a name, or what the voice map has for one; None is the default voice. speaker: the name before the colon.
    pause: seconds of silence before it. paragraph: counted from 0. The last line of a script has no text where the
    script ends in a pause."""

    text: str
    voice: Any
    speaker: str | None
    pause: float = 0.0
    paragraph: int = 0


def parse_script(text: str, voices: Mapping[str, Any] | None = None) -> list[Line]:
    """Marked-up text -> its lines; white space is folded, blank lines part paragraphs.

    `Name: words` at a line's start is that speaker's turn, for the names in `voices` alone; it lasts until the next
    turn or the end of the paragraph. [voice:name] changes the voice for as long, or until the next one: to what
    `voices` has under the name, else to the name itself. [pause:1.5s], [pause:1.5] and [pause 300ms] are silence, and
    add up. Other tags ([laughs], [MAN]) are Bark's own and stay in the text. `voices` may also hold voices themselves.
    Raises ValueError, with the line's number, for marks that are not complete and pauses beyond 0 to 60 seconds."""
    return _lines(_text_events(text, voices or {}))


def read_script(source: str | Path, voices: Mapping[str, Any] | None = None) -> list[Line]:
    """A script, or the file at a `Path`, -> its lines; JSON where it begins as such or the file's name ends in .json.

    JSON is a list of lines, {"speaker": ..., "text": ..., "voice": ..., "pause": seconds}, of which `text` is needed,
    or {"voices": {name: voice}, "lines": [...]}; its voices win over `voices`. Each line is a paragraph; its text may
    hold [pause:...] and [voice:...]; its own voice wins over its speaker's.
    Raises ValueError as `parse_script` does, for other shapes and for speakers whom the voices do not name, and
    FileNotFoundError. A `str` is never a path."""
    try:
        text = source.read_text(encoding="utf-8-sig") if isinstance(source, Path) else source
        if not _LOOKS_LIKE_JSON.match(text) and not (isinstance(source, Path) and source.suffix == ".json"):
            return parse_script(text, voices)
        document = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is no UTF-8 text: {error}. Save it as UTF-8.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"The script is no valid JSON: {error}.") from error
    document = {"lines": document} if isinstance(document, list) else document
    if not _fits(document, {"lines": list, "voices": dict}) or "lines" not in document:
        raise ValueError(f"A script in JSON is {_SHAPE}; got {text.strip()!r:.80}.")
    own = document.get("voices", {})
    if not _fits(own, dict.fromkeys(own, str)):
        raise ValueError(f'The script\'s "voices" must map names to names of voices; got {own!r:.80}.')
    return _lines(_json_events(document["lines"], {**(voices or {}), **own}))


def _fits(value: Any, types: Mapping[str, Any]) -> bool:
    """Whether a value is a mapping of no other keys than these, and of these types (a bool is no number)."""
    return isinstance(value, dict) and all(
        isinstance(each, types.get(key, ())) and not isinstance(each, bool) for key, each in value.items()
    )


def _lines(events: Iterable[Event]) -> list[Line]:
    found: list[Line] = []
    now, words = Line("", None, None), []  # what the words to come belong to
    for event in (*events, {}):
        if isinstance(event, str):
            words += event.split()
            continue
        if words:
            found.append(replace(now, text=" ".join(words)))
            now, words = replace(now, pause=0.0), []
        if "pause" in event:
            event = {"pause": now.pause + event["pause"]}
        if "paragraph" in event:
            event = {**event, "paragraph": found[-1].paragraph + 1 if found else 0}
        now = replace(now, **event)
    return found + ([now] if now.pause else [])


def _text_events(text: str, voices: Mapping[str, Any]) -> Iterator[Event]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            yield {"paragraph": None, "speaker": None, "voice": None}
        lead = _LEAD.match(line)[0]  # type: ignore[index]
        name, *words = re.split("[:：]", line[len(lead) :], maxsplit=1)  # noqa: RUF001 (the CJK colon)
        if words and name.strip() in voices:
            yield from _mark_events(lead, number, voices)
            yield {"speaker": name.strip(), "voice": voices[name.strip()]}
            line = words[0]
        yield from _mark_events(line, number, voices)


def _json_events(lines: list, voices: Mapping[str, Any]) -> Iterator[Event]:
    for number, given in enumerate(lines, 1):
        line = {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else {}
        if not _fits(line, _KEYS) or "text" not in line:
            raise ValueError(f"Line {number}: {_LINE_SHAPE}; got {given!r:.80}.")
        speaker: Any = line.get("speaker")
        voice: Any = line.get("voice")
        if voices and voice is None and speaker is not None and speaker not in voices:
            raise ValueError(
                f"Line {number}: {speaker!r} has no voice; the voices are of {', '.join(sorted(voices))}."
            )
        yield {"paragraph": None, "speaker": speaker, "voice": voices.get(voice or speaker, voice)}
        yield {"pause": _checked(line.get("pause", 0), number)}
        yield from _mark_events(line["text"], number, voices)


def _mark_events(text: str, number: int, voices: Mapping[str, Any]) -> Iterator[Event]:
    """Words and what the marks between them change."""
    at = 0
    for mark in _MARK.finditer(text):
        is_voice, value, length = mark[1], mark[3].strip(), _PAUSE.fullmatch(mark[3].strip().lower())
        if not mark[4] or not (value if is_voice else length):
            raise ValueError(f"Line {number}: write [pause:1.5s], [pause:300ms] or [voice:name], not {mark[0]!r:.40}.")
        yield text[at : mark.start()]
        if is_voice:
            yield {"voice": voices.get(value, value)}
        elif length:
            yield {"pause": _checked(float(length[1]) / (1000 if length[2] == "ms" else 1), number)}
        at = mark.end()
    yield text[at:]


def _checked(pause: float, number: int) -> float:
    if not 0 <= pause <= MAX_PAUSE:
        raise ValueError(f"Line {number}: a pause lasts 0 to {MAX_PAUSE:g} seconds, got {pause!r:.20}.")
    return float(pause)
