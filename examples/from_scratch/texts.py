"""What is read aloud: phrases of WordNet, digits, letters, everyday sentences; and which of them are never trained on.

Knows nothing of speech. Everything follows from the texts themselves, by hashes: no order, no seed."""

import hashlib
import random
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path

HERE = Path(__file__).parent
WORDNET = Path("/usr/share/wordnet")  # of Debian's wordnet-base
HELD_OUT_OF = 50  # one text of so many is never trained on
_COMMON = 20  # times that a word of a held-out phrase occurs at least: a recognizer should know it
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_LEGAL = re.compile(r"[A-Za-z][A-Za-z0-9 ,'?!-]*\.?")


def training_texts(wordnet: Path = WORDNET) -> tuple[list[str], list[str]]:
    """The texts that every voice reads (everyday sentences, digits, letters), and WordNet's phrases."""
    kept = {words(text) for text in held_out_texts(10**9, wordnet)}
    own = [*_lines("everyday.txt"), *digits(), *letters()]
    return [text for text in own if words(text) not in kept], [
        _ended(text) for text in phrases(wordnet) if words(text) not in kept and not is_held_out(text)
    ]


def unread(phrases: Iterable[str], read: Iterable[str]) -> list[str]:
    """Phrases that nobody reads, in the order of their hashes."""
    had = {words(text) for text in read}
    return sorted((text for text in phrases if words(text) not in had), key=digest)


def held_out_texts(count: int, wordnet: Path = WORDNET) -> list[str]:
    """Harvard sentences, then phrases of common words in the order of their hashes, together `count` at most."""
    found = phrases(wordnet)
    seen = Counter(word for text in found for word in words(text).split())
    usable = [
        text
        for text in found
        if is_held_out(text) and text.isascii() and not re.search(r"[\d-]", text)
        and all(seen[word] >= _COMMON for word in words(text).split())
    ]  # fmt: skip
    return [*_lines("harvard.txt"), *sorted(usable, key=digest)][:count]


def is_held_out(text: str) -> bool:
    return int(digest(words(text)), 16) % HELD_OUT_OF == 0


@cache
def phrases(wordnet: Path = WORDNET) -> tuple[str, ...]:
    """WordNet's glosses and examples as phrases of 3 to 12 words, each once."""
    files = [wordnet / f"data.{part}" for part in ("adj", "adv", "noun", "verb")]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"There is no {missing[0]}. On Debian: apt-get install wordnet-base.")
    found = {}
    for file in files:
        for line in file.read_text(encoding="latin-1").splitlines():
            for text in _cleaned(line.partition(" | ")[2]):
                found.setdefault(words(text), text)
    return tuple(found.values())


def digits(count: int = 600) -> list[str]:
    """Sequences of digits, as words and as figures, and numbers."""
    draw = random.Random(0)
    made = [*_DIGITS, *string.digits]
    while len(made) < count:
        some = [draw.randrange(10) for _ in range(draw.randint(2, 6))]
        kind = len(made) % 3
        if kind == 2:
            made.append(str(draw.randrange(10 ** draw.randint(1, 4))))
        else:
            made.append(" ".join(_DIGITS[one] if kind else str(one) for one in some))
    return list(dict.fromkeys(made))


def letters(count: int = 300) -> list[str]:
    """Names of letters, alone and spelled out."""
    draw = random.Random(1)
    made = [f"the letter {letter}" for letter in string.ascii_lowercase]
    while len(made) < count:
        made.append(", ".join(draw.choices(string.ascii_uppercase, k=draw.randint(2, 6))))
    return list(dict.fromkeys(made))


def passages(texts: Iterable[str]) -> Iterator[str]:
    """Two or three texts in a row as one, each ended: single sentences do not teach to read on."""
    rest = iter(texts)
    for size in cycle((2, 3)):
        some = list(islice(rest, size))
        if len(some) < size:
            return
        yield " ".join(text if text[-1] in ".?!" else f"{text}." for text in some)


def words(text: str) -> str:
    """Lower case, without punctuation: what makes two texts the same."""
    return " ".join("".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _cleaned(gloss: str) -> Iterator[str]:
    """The parts of `definition; "example"; "example" - author` that can be read aloud."""
    for part in re.sub(r"\([^)]*\)", " ", gloss).split(";"):
        quoted = re.search(r'"([^"]+)"?', part)
        text = " ".join((quoted.group(1) if quoted else part).split()).replace(" ,", ",").strip(" ,")
        if 3 <= len(text.split()) <= 12 and _LEGAL.fullmatch(text):
            yield text


def _ended(text: str) -> str:
    """Half of the texts end with a full stop, so that a model knows both."""
    ends = text[-1] in ".?!" or int(digest(text), 16) % 2
    return text if ends else f"{text}."


def _lines(name: str) -> list[str]:
    return [line for line in (HERE / name).read_text(encoding="ascii").splitlines() if line]
