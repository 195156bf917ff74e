"""The parts of a long text and their speakers: what is said at a time, in which voice, and what it goes on from.

Knows nothing of how a part is spoken."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, zip_longest

from ..voices.voice import Voice
from .script import Line
from .sentences import chunks, is_spoken

MODES = ("fixed", "rolling", "anchored")
_TAIL = 1 / 3  # of the coarse window, the shortest, is the last part's end; the rest hears the anchor


@dataclass(frozen=True, eq=False)
class Part:
    """What is said at a time. voice: the one it is given; without one its speaker keeps the voice made up first.

    ending: as a `Chunk`'s; pause: seconds of silence after it, where the script says them."""

    index: int
    text: str
    ending: str
    pause: float | None
    speaker: str | None
    voice: Voice | None

    @property
    def who(self) -> tuple[str | None, str | None]:
        return self.speaker, None if self.voice is None else self.voice.fingerprint


def spoken_lines(lines: Iterable[Line]) -> list[Line]:
    """The lines that have something to speak, unlike `* * *`; the others' pauses go to the next, or come last."""
    kept: list[Line] = []
    pause = 0.0
    for line in lines:
        pause += line.pause
        if is_spoken(line.text):
            kept.append(replace(line, pause=pause))
            pause = 0.0
    return kept + ([replace(kept[-1], text="", pause=pause)] if kept and pause else [])


def parts_of(
    processor, lines: list[Line], default: Voice | None, language: str, max_seconds: float, max_ids: int
) -> Iterator[Part]:
    """The chunks of `spoken_lines`, numbered through. `default` is the voice of lines that name none.

    Raises ValueError for voices that the processor does not know."""
    voices = {name: processor.voice(name) for name in {line.voice for line in lines} - {None}}
    number = count()
    for line, following in zip_longest(lines, lines[1:]):
        found = chunks(
            line.text,
            language,
            max_seconds,
            count_ids=lambda text: len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]),
            max_ids=max_ids,
        )
        made = [chunk for chunk in found if is_spoken(chunk.text)]
        for chunk in made:
            ending, pause = chunk.ending, None
            if chunk is made[-1] and following is not None:
                ending = "paragraph" if following.paragraph != line.paragraph else "sentence"
                pause = following.pause or None
            yield Part(next(number), chunk.text, ending, pause, line.speaker, voices.get(line.voice, default))


class Cast:
    """Each speaker's voice, and what the speaker's next part goes on from.

    In mode "fixed" that is the voice; in "rolling" the last part; in "anchored" the voice and then the last part's
    end. A speaker's voice is the one given, or else the first parts, until they last as long as every stage hears;
    of those that failed the guard, the first stands in for a voice until a part passes."""

    def __init__(self, mode: str, window: float):
        """window: the seconds of history that every stage hears, the coarse stage's."""
        if mode not in MODES:
            raise ValueError(f"`mode` is one of {', '.join(MODES)}; got {mode!r}.")
        self.mode, self.window = mode, window
        self.voices: dict[tuple, Voice] = {}
        self.last: dict[tuple, Voice] = {}
        self.stopgaps: dict[tuple, Voice] = {}

    def history(self, part: Part) -> Voice | None:
        voice, last = self.voices.get(part.who, part.voice), self.last.get(part.who)
        if voice is None:
            return self.stopgaps.get(part.who)
        if self.mode == "fixed" or last is None:
            return voice
        return last if self.mode == "rolling" else Voice.concat(voice, last.trim(_TAIL * self.window))

    def heard(self, part: Part, made: Voice | None, passed: bool) -> None:
        """What a part became; None is too short to be a voice. One that has not passed the guard is not continued,
        unless the speaker has no other."""
        if made is None:
            return
        if not passed:
            self.stopgaps.setdefault(part.who, made)
            return
        if not self._settled(part):
            known = self.voices.get(part.who)
            self.voices[part.who] = made if known is None else Voice.concat(known, made)
        self.last[part.who] = made

    def together(self, parts: list[Part]) -> int:
        """How many of the next parts need nothing of each other: up to a speaker who has first to be heard.

        The first of all goes alone: it is the sooner heard."""
        if self.mode != "fixed" or not parts[0].index:
            return 1
        opening = set()
        for place, part in enumerate(parts):
            if not self._settled(part):
                if part.who in opening:
                    return place
                opening.add(part.who)
        return len(parts)

    def _settled(self, part: Part) -> bool:
        return part.voice is not None or (part.who in self.voices and self.voices[part.who].seconds >= self.window)
