"""Long texts in pieces that Bark can speak at a time: sentences, packed by the seconds that reading them takes.

Knows nothing of models or audio; a tokenizer comes in as a function that counts ids."""

# ruff: noqa: RUF001 (marks of many scripts)
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from ..voices.languages import LANGUAGES, text_language

# Seconds a character: espeak-ng's, fitted to 70 to 100 sentences a language (the Universal Declaration of Human Rights
# and daily prose) and slowed by 1.25, to an English of 15 characters a second. No alphabet is faster than English, as
# in people (IReST, Trauzettel-Klosinski et al., 2012), and Chinese is not slowed, for espeak-ng drawls it.
_ALPHABET, _DIGIT, _SYMBOL, _CLAUSE_PAUSE, _SENTENCE_PAUSE, _START = 0.078, 0.36, 0.5, 0.23, 0.45, 0.1
_SCRIPTS = {"DEVANAGARI": 0.093, "HIRAGANA": 0.138, "KATAKANA": 0.138, "HANGUL": 0.223, "CJK": 0.33}
_OWN = {"ja": {"CJK": 0.26}, "pl": {"LATIN": 0.089}, "pt": {"LATIN": 0.084}, "tr": {"LATIN": 0.095}}
_TAG_SECONDS, _SUNG = 1.0, 1.5  # of [laughs]; how much slower songs are than speech: guesses
_TAG, _SONG = re.compile(r"\[[^\[\]]*\]"), re.compile(r"♪[^♪]*♪")
_WHOLE = re.compile(f"{_TAG.pattern}|{_SONG.pattern}")
_SENTENCE_MARK = re.compile(r"[.!?।॥。！？…]+(?=\D)")  # not at a text's end, nor in 3.5
_OPEN, _CLOSED = "「『“„«(（[", "」』”’\"'»)）"
_UNQUOTED = str.maketrans(dict.fromkeys('「」『』“”„«»"', " "))
_CLAUSE = re.compile(rf"(?:[,;:!?…–—)\]»”]|(?<=\s)-)[{_CLOSED}]*\s+|[、，；：。！？…—]+[{_CLOSED}]*\s*")
_WORD = re.compile(r"\s+|(?<=[ぁ-ゖ])(?=[々一-鿿ァ-ヺ])|(?=[\[♪])|(?<=[\]♪])(?!\s)")  # kana end Japanese words
# Of a cut there, beside (1 - fullness)^4 of each chunk, which makes one word alone as bad as a cut between words.
_COSTS = {"sentence": 0.0, "clause": 0.1, "word": 0.7, "character": 3.0}

# What sentencex 1.0 takes for the end of a sentence, beside an initial, a word without vowel (mgr) and a numeral (II).
_ABBREVIATIONS = {
    "fr": "Mlle Mme Prof Ste",
    "hi": "कु डॉ पं प्रो रु श्री",
    "it": "pag",
    "pl": "al art gen godz hab inż ok os tel",
    "pt": "Av Cia Profa Sta cap pág tel vol",
    "ru": "ген доц им инж напр рис табл",
    "tr": "Arş Av Cad Doç Gör Mah Müh Sok Uzm Öğr",
}
_SHORT = "[a-zà-ӿ]|[b-df-hj-np-tv-xzçğłñśşźżб-джзй-нп-тф-щ]{2,4}"


@dataclass(frozen=True)
class Chunk:
    """What is spoken at a time; its paragraph, from 0; what ends with it: "sentence", "paragraph", or "clause" where
    a sentence goes on, even in the middle of a clause or word."""

    text: str
    paragraph: int
    ending: str


def normalized(text: str) -> str:
    """Blank lines part paragraphs and become "\\n\\n"; other white space becomes one space, none at the ends.

    Raises ValueError for what is no valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The text is not valid Unicode: {error}.") from error
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", "\n".join(text.splitlines())))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def is_spoken(text: str) -> bool:
    """Whether there is anything to speak or sing: a letter, a digit, a tag or a note; not of `* * *` or `...`."""
    return any(char.isalnum() or char == "♪" for char in text)


def seconds_of(text: str, language: str | None = None) -> float:
    """Predicted seconds of a text, read aloud; without a language an alphabet is English and Han Chinese.

    On sentences held out from the fit it errs by 3 (pt) to 8 % (en) in the mean, of espeak-ng's durations brought to
    each language's own pace. A tag ([laughs]) counts as a second."""
    tags, text = len(_TAG.findall(text)), _TAG.sub(" ", text).strip()
    seconds = sum(_character(char, language) for char in text) + len(_SENTENCE_MARK.findall(text)) * _SENTENCE_PAUSE
    sung = sum(map(len, _SONG.findall(text))) / max(1, len(text))
    return _START + tags * _TAG_SECONDS + seconds * (1 + (_SUNG - 1) * sung)


@cache
def _character(char: str, language: str | None) -> float:
    kind, script = unicodedata.category(char), re.split("[ -]", unicodedata.name(char, ""))[0]
    if kind[0] in "LM":  # letters and vowel signs; an alphabet's accents take no time
        return (_SCRIPTS | _OWN.get(language or "", {})).get(script, _ALPHABET if kind[0] == "L" else 0)
    if kind[0] == "N":
        return _DIGIT
    return _SYMBOL if kind in ("Sc", "Sm") or char in "%&@#°" else _CLAUSE_PAUSE * (char in ",;:(–—、，；：（")


def chunks(
    text: str,
    language: str | None = None,
    max_seconds: float = 13.0,
    duration: Callable[[str, str | None], float] = seconds_of,
    count_ids: Callable[[str], int] | None = None,
    max_ids: int = 256,
) -> list[Chunk]:
    """The normalized text in pieces of at most `max_seconds` by `duration` and `max_ids` by `count_ids`.

    Each is a slice of `normalized(text)`, in order, and only the white space at a cut lies between two: nothing else
    is lost or added. Sentences that fit stay whole and share a chunk within their paragraph; longer ones are cut at
    clauses, then between words, then within one, in even parts. Tags ([laughs]) and songs (♪ la la ♪) are cut only
    where one alone exceeds a limit; a single character may exceed it.
    language: one of Bark's 13; None asks `text_language`, and takes English for what is too short to tell.
    Raises ValueError for other languages and limits, ImportError where sentencex is missing."""
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"Bark speaks {', '.join(LANGUAGES)}; got {language!r}. Pass one of them, or None to guess.")
    if not max_seconds > 0 or not max_ids > 0:
        raise ValueError(f"`max_seconds` ({max_seconds}) and `max_ids` ({max_ids}) must be positive.")
    text = normalized(text)
    spoken_in = language or text_language(text[:5000]) or "en"

    def load(part: str) -> float:
        """How full a chunk of this text is; 1 is as full as may be."""
        part = part.strip()
        seconds = duration(part, spoken_in) / max_seconds
        return seconds if count_ids is None or seconds > 1 else max(seconds, count_ids(part) / max_ids)

    found = []
    for number, paragraph in enumerate(text.split("\n\n")):
        ends = _ends(paragraph, spoken_in, load)
        for start, end in pairwise([0, *_best(paragraph, ends, load)]):
            kind = "paragraph" if end == len(paragraph) else "sentence" if ends[end] == "sentence" else "clause"
            found.append(Chunk(paragraph[start:end].strip(), number, kind))
    return found


def _best(text: str, ends: dict[int, str], load: Callable[[str], float]) -> list[int]:
    """The ends to cut at: of all ways that fit, the one with the fewest bad cuts and the fullest, most even chunks."""
    places = sorted({0, *ends})
    best = [(0.0, 0)]  # for each place: the least cost up to there, and where its chunk starts
    for here in range(1, len(places)):
        options: list[tuple[float, int]] = []
        for start in reversed(range(here)):
            full = load(text[places[start] : places[here]])
            if full > 1 and options:
                break
            options.append((best[start][0] + _COSTS[ends[places[here]]] + (1 - full) ** 4, start))
        best.append(min(options))
    cuts, here = [], len(places) - 1
    while here:
        cuts.append(places[here])
        here = best[here][1]
    return cuts[::-1]


def _ends(text: str, language: str, load: Callable[[str], float]) -> dict[int, str]:
    """Where a paragraph may be cut and what ends there: its sentences, and parts of those that do not fit."""
    inside = {i for tag in _WHOLE.finditer(text) if load(tag[0]) <= 1 for i in range(tag.start() + 1, tag.end())}
    ends = {end: "sentence" for end in _sentence_ends(text, language) if end not in inside}
    for start, end in _long(text, ends, load):
        part = text[start:end]
        finer = dict.fromkeys(_sentence_ends(part.translate(_UNQUOTED), language), "sentence")
        for kind, pattern in (("clause", _CLAUSE), ("word", _WORD)):
            finer = dict.fromkeys((match.end() for match in pattern.finditer(part)), kind) | finer
        ends = {start + i: kind for i, kind in finer.items() if start + i not in inside} | ends
    for start, end in _long(text, ends, load):
        ends |= dict.fromkeys(_halves(text, start, end - (text[end - 1] == " "), load), "character")
    return ends


def _long(text: str, ends: dict[int, str], load: Callable[[str], float]) -> list[tuple[int, int]]:
    """The spans between neighboring ends that do not fit."""
    return [span for span in pairwise(sorted({0, *ends})) if load(text[slice(*span)]) > 1]


def _halves(text: str, start: int, end: int, load: Callable[[str], float]) -> Iterator[int]:
    """Even cuts of what has no other; accents, vowel signs and joined emoji go with their letter while that fits."""
    inner = range(start + 1, end)
    if inner and load(text[start:end]) > 1:
        free = [i for i in inner if unicodedata.category(text[i])[0] != "M" and "\u200d" not in text[i - 1 : i + 1]]
        middle = min(free or inner, key=lambda place: abs(2 * place - start - end))
        yield from (*_halves(text, start, middle, load), middle, *_halves(text, middle, end, load))


def _sentence_ends(text: str, language: str) -> list[int]:
    """Where sentences end, white space behind them included: sentencex's ends, less its mistakes, and the text's."""
    try:
        from sentencex import get_sentence_boundaries
    except ImportError as error:
        raise ImportError('Telling sentences apart needs sentencex: pip install "bark-hf[longform]".') from error
    ends = [0]
    for boundary in get_sentence_boundaries(language, re.sub("„([^„“”]*)”", r"“\1”", text))[1:]:  # it knows „“ alone
        place = boundary["start_index"]
        if not _goes_on(text[ends[-1] : place], text[place:], language):
            ends.append(place)
    return [*ends[1:], len(text)]


def _goes_on(before: str, after: str, language: str) -> bool:
    """Whether a sentence goes on where sentencex ended it."""
    first, short = after.lstrip(" –—-")[:1], "|".join((_SHORT, *_ABBREVIATIONS.get(language, "").split()))
    return bool(
        (first.islower() and not (before + after).islower())
        or re.search(rf"(?<!\w)((?i:{short})|[IVX]+)\.\s*$", before)
        or (re.search(r"(\.\.|…|\d\.)\s*$", before) and not first.isupper())  # so ... it is, 2024. 3. 15.
        or re.search(r"^\W*\d\d?\.\s*$", before)  # 1. First
        or (language in ("de", "tr") and re.search(r"(?<!\d)\d\d?\.\s*$", before))  # an ordinal
        or (before[-1] in _CLOSED and first not in _OPEN)  # "..." he said, where no space parts them
    )
