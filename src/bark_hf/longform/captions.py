"""Words with times, of a text and its audio or of a recognizer, and captions of them: .srt, .vtt, JSON.

Knows nothing of models or files. Times are seconds."""

# ruff: noqa: RUF001 (marks of many scripts)
import html
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from ..audio.files import FRAME, heard

_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han, without spaces between words
_OPEN = "(「『《〈（【“‘"
_PIECE = re.compile(rf"\[[^\]]*\]|[{_OPEN}]*[{_WIDE}](?:[^\w\s\[{_OPEN}])*|(?:(?![{_OPEN}]*[{_WIDE}])[^\s\[])+|\[")
_UNSPOKEN = ("[man]", "[woman]")  # of the tags: they choose a voice
_SENTENCE, _CLAUSE = ".!?…。！？।", ",;:—–、，；："
_CLOSING = "\"'”’»)]}」』》〉）】*♪"
# Shares of the time, in letters of an alphabet. Those of a word and a mark are flite's, found on other sentences than
# those below; a Han, kana or Hangul, a digit and a tag take what they do in daily speech, about.
_WORD, _MARK, _CHARACTER, _DIGIT, _TAG = 1, 3, 3, 4, 10
_PAUSE = 0.08  # seconds of silence that are a pause between words; the closures of stops are shorter
_LULL = 1.0  # seconds of silence, over which no caption stands
_REACH = 15.0  # seconds, that the pauses of a long text may be from where the shares put them


class Word(NamedTuple):
    """A word with its punctuation as it is written, from start to end in seconds."""

    text: str
    start: float
    end: float


class Cue(NamedTuple):
    """What a caption shows from start to end in seconds: lines of text."""

    start: float
    end: float
    lines: tuple[str, ...]


def align_words(text: str, audio: np.ndarray, sampling_rate: int, offset: float = 0.0) -> list[Word]:
    """A text and (N,) samples that speak it -> its words with their likely times, by length and pauses alone.

    Each pause that is heard falls between two words, rather at punctuation, where the words' lengths fit best (dynamic
    programming); between two pauses, words take shares by letters, one before punctuation more. Kana and Han are words
    of one character; tags in brackets are none, but take time. offset: seconds, added to the times.
    How far a word's start is from flite's own (60 sentences in the voices rms and slt,
    tests/longform/test_captions.py): 66 ms in the mean, 183 ms at the 95th percentile; 58 and 165 ms would be left if
    the pauses were known. By the same shares without a look for pauses it is 90 and 241 ms; starts moved to dips of
    energy came out worse.
    Expect more of a livelier speaker, and of speech that is not what the text says."""
    pieces, lasting = _pieces(text), len(audio) / sampling_rate
    ends = np.cumsum([0.0, *(share for _, share in pieces)])
    if not ends[-1]:
        return []
    stretches = _stretches(heard(audio, sampling_rate), sampling_rate, lasting)
    lengths = stretches[:, 1] - stretches[:, 0]
    ends *= lengths.sum() / ends[-1]
    between = _split(lengths, ends, np.array([True, *(_marked(word) for word, _ in pieces)]))
    times: list[tuple[float, float]] = []
    for (start, end), (first, last) in zip(stretches, pairwise(between), strict=True):
        inside = np.interp(ends[first : last + 1], ends[[first, last]], [start, end])
        times += pairwise(inside)
    spoken = zip(pieces, times, strict=True)
    return [Word(word, *(round(float(at + offset), 3) for at in both)) for (word, _), both in spoken if word]


def words_from_asr(output: Mapping[str, Any]) -> list[Word]:
    """The words of `asr(audio, return_timestamps="word")`, where `asr` is a pipeline("automatic-speech-recognition").

    A word whose end is not known lasts until the next; one that begins before the word before it begins with it.
    Raises ValueError for an output without the times of single words."""
    chunks = output.get("chunks") if isinstance(output, Mapping) else None
    if chunks is None or any(len(one["text"].split()) > 1 for one in chunks):
        raise ValueError('There are no times of words here; call the recognizer with return_timestamps="word".')
    chunks = [one for one in chunks if one["text"].strip()]
    starts = list(accumulate((one["timestamp"][0] or 0.0 for one in chunks), max))
    words = []
    for one, start, following in zip(chunks, starts, [*starts[1:], *starts[-1:]], strict=True):
        end = one["timestamp"][1]
        words.append(Word(one["text"].strip(), start, max(start, following if end is None else end)))
    return words


def cues(words: Sequence[Word], width: int = 42, lines: int = 2, seconds: float = 7.0) -> list[Cue]:
    """Captions of at most so many lines, characters in each (Han, kana and Hangul count two) and seconds.

    A caption ends before a pause of 1 s, else with the last sentence that ends in it, else with a clause, else where
    it is full; it stays for 1 s at least, where the next one lets it. Words wider than a line are cut.
    Raises ValueError for a width under 2, and for no lines or no time."""
    if width < 2 or lines < 1 or not seconds > 0:
        raise ValueError(f"Captions need 2 characters, 1 line and some time; got {width}, {lines} and {seconds} s.")
    words = [part for word in words for part in _cut(word, width)]
    found = []
    while words:
        count = _fitting(words, width, lines, seconds)
        shown, words = words[:count], words[count:]
        start, next_start = shown[0].start, words[0].start if words else float("inf")
        end = min(max(shown[-1].end, start + 1), start + seconds, max(next_start, start + 0.001))
        found.append(Cue(start, end, tuple(_wrapped(shown, width, balanced=True))))
    return found


def to_srt(cues: Sequence[Cue]) -> str:
    """SubRip. It has no escapes: an invisible word joiner keeps what looks like its markup from being taken for it."""
    blocks = []
    for number, cue in enumerate(cues, 1):
        text = re.sub(r"(?<=<)(?=[A-Za-z/])|(?<=\{)(?=\\)|(?<=--)(?=>)", "\u2060", "\n".join(cue.lines))
        blocks.append(f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{text}\n")
    return "\n".join(blocks)


def to_vtt(cues: Sequence[Cue]) -> str:
    """WebVTT, with `&`, `<` and `>` escaped."""
    blocks = ["WEBVTT\n"]
    for cue in cues:
        text = html.escape("\n".join(cue.lines), quote=False)
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{text}\n")
    return "\n".join(blocks)


def to_json(words: Sequence[Word]) -> str:
    """`{"words": [{"text": ..., "start": seconds, "end": seconds}, ...]}`"""
    return json.dumps({"words": [word._asdict() for word in words]}, ensure_ascii=False)


def _pieces(text: str) -> list[tuple[str, float]]:
    """(word, share of the time) in order, with "" for the word of a tag; marks alone go with a word beside them."""
    words: list[str] = []
    last, waiting = -1, ""  # the last word that is none of a tag; marks before the first
    for piece in _PIECE.findall(text):
        if piece[0] == "[" and piece[-1] == "]":
            words += [""] * (piece.lower() not in _UNSPOKEN)
        elif any(one.isalnum() for one in piece):
            last = len(words)
            words.append(waiting + piece)
            waiting = ""
        elif last >= 0:
            words[last] += f" {piece}"
        else:
            waiting += f"{piece} "
    return [(word, _share(word) if word else _TAG) for word in words]


def _share(word: str) -> float:
    letters = [one for one in word if one.isalnum()]
    wide = sum(_cells(one) == 2 for one in letters)
    digits = sum(one.isdigit() for one in letters)
    length = len(letters) + (_CHARACTER - 1) * wide + (_DIGIT - 1) * digits
    return length + _MARK * _marked(word) + (0 if re.search(f"[{_WIDE}]", word) else _WORD)


def _marked(word: str) -> bool:
    """Whether speech may well pause after it: it ends with punctuation, or is a tag."""
    return not word or _last_mark(word) in _SENTENCE + _CLAUSE


def _last_mark(word: str) -> str:
    return word.rstrip(_CLOSING)[-1:] or " "


def _stretches(sounding: np.ndarray, sampling_rate: int, lasting: float) -> np.ndarray:
    """Frames -> (K, 2) seconds from and to which there is sound, without pauses; the whole, where there is none."""
    loud = np.flatnonzero(sounding)
    if not len(loud):
        return np.array([[0.0, lasting]])
    last = np.flatnonzero(np.diff(loud) > _PAUSE / FRAME)
    frames = np.stack([loud[[0, *(last + 1)]], loud[[*last, -1]] + 1], axis=1)
    return np.minimum(frames * (round(FRAME * sampling_rate) / sampling_rate), lasting)


def _split(lengths: np.ndarray, ends: np.ndarray, marked: np.ndarray) -> list[int]:
    """Which of the words' predicted ends (n + 1,) each of the K stretches begins and ends with: K + 1 indices."""
    options, cost, came = [np.array([0])], np.zeros(1), []
    for length, until in zip(lengths, np.cumsum(lengths), strict=True):
        first, last = np.searchsorted(ends, [until - _REACH, until + _REACH])
        options.append(np.arange(max(first - 1, 0), min(last + 1, len(ends))))
        wanted = ends[options[-1]] - ends[options[-2]][:, None]
        misfit = 6 * (length - wanted) ** 2 / (length + np.abs(wanted) + 0.1)
        total = cost[:, None] + np.where(wanted < 0, np.inf, misfit) + ~marked[options[-1]]
        came.append(total.argmin(axis=0))
        cost = total.min(axis=0)
    chosen = [len(options[-1]) - 1]
    for back in reversed(came):
        chosen.append(int(back[chosen[-1]]))
    return [int(option[one]) for option, one in zip(options, reversed(chosen), strict=True)]


def _fitting(words: Sequence[Word], width: int, lines: int, seconds: float) -> int:
    """How many of the words the next caption shows."""
    most = 1
    while (
        most < len(words)
        and words[most].end - words[0].start <= seconds
        and words[most].start - words[most - 1].end < _LULL
        and len(_wrapped(words[: most + 1], width)) <= lines
    ):
        most += 1
    if most == len(words) or words[most].start - words[most - 1].end >= _LULL:
        return most
    for marks, least in ((_SENTENCE, 1), (_CLAUSE, most // 2)):  # a clause's break leaves no crumbs
        for count in range(most, max(least, 1) - 1, -1):
            if _last_mark(words[count - 1].text) in marks:
                return count
    return most


def _wrapped(words: Sequence[Word], width: int, balanced: bool = False) -> list[str]:
    """The words as lines of at most `width`, as few as can be; balanced ones are as narrow as so many lines allow."""
    lines = [""]
    for word in words:
        longer = _joined(lines[-1], word.text)
        if _cells(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word.text)
    if balanced:
        narrower = (_wrapped(words, narrow) for narrow in range(1, width + 1))
        return next(one for one in narrower if len(one) <= len(lines) and max(map(_cells, one)) <= width)
    return lines


def _joined(left: str, right: str) -> str:
    spaced = left and not any(re.search(f"[{_WIDE}]", one) for one in (left.rpartition(" ")[2], right))
    return f"{left} {right}" if spaced else left + right


def _cut(word: Word, width: int) -> list[Word]:
    """A word in parts that fit into a line and have no spaces, each with its share of the time."""
    parts: list[str] = []
    for token in word.text.split():
        parts.append("")
        for one in token:
            if _cells(parts[-1] + one) > width:
                parts.append("")
            parts[-1] += one
    times = np.linspace(word.start, word.end, len(parts) + 1).tolist()
    return [Word(*one) for one in zip(parts, times, times[1:], strict=False)]


def _cells(text: str) -> int:
    """How wide a text is, in letters of an alphabet."""
    return sum(
        2 if unicodedata.east_asian_width(one) in "WF" else unicodedata.category(one) not in ("Mn", "Me", "Cf")
        for one in text
    )


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, left = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left // 1000:02}{point}{left % 1000:03}"
