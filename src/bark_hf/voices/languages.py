"""Bark's 13 languages: that of a preset, told by its name, and that of a text, told by py3langid.

Knows nothing of voices or networks."""

import re

LANGUAGES = ("de", "en", "es", "fr", "hi", "it", "ja", "ko", "pl", "pt", "ru", "tr", "zh")
_TAG = re.compile(r"\[[^\]]*\]")  # [laughs], [MAN]: English words in a text of any language
_CLEAR = 1.0  # nats between the two likeliest languages: below, a single word is as often wrong as right


def preset_language(name: str) -> str:
    """`fr` for `v2/fr_speaker_3`; empty where the name does not say."""
    head, _, tail = name.rpartition("/")[2].partition("_")
    return head if tail.startswith("speaker") else ""


def text_language(text: str) -> str | None:
    """The likeliest of Bark's languages, or None where a text is too short to tell. Tags in brackets do not count.

    Raises ImportError, with what to install, where py3langid (Barbaresi; Lui and Baldwin, 2012) is missing."""
    try:
        import py3langid
    except ImportError as error:
        raise ImportError('Telling a text\'s language needs py3langid: pip install "bark-hf[language]".') from error
    ranks = [(name, score) for name, score in py3langid.rank(_TAG.sub(" ", text)) if name in LANGUAGES]
    (best, score), (_, second), *_ = ranks  # best first
    return best if score - second >= _CLEAR else None
