"""Long texts in chunks: sentences of 13 languages stay whole, nothing is lost, no limit is exceeded."""

import builtins
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bark_hf.longform.sentences import Chunk, _sentence_ends, chunks, normalized, seconds_of
from bark_hf.voices.languages import LANGUAGES

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "sentences.json").read_text(encoding="utf-8"))
NAMES = [(language, name) for language, cases in CASES.items() for name in cases]
MARKS = list(' \n.!?。、「」“”„"♪[]aB1\u0301\u200d—,的かナ।')
TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(MARKS)), max_size=120)


def joined(language, parts):
    return ("" if language in ("ja", "zh") else " ").join(parts)


def texts(found):
    return [chunk.text for chunk in found]


def by_characters(text, language):
    """A tenth of a second each, so that a test's limits can be counted."""
    return len(text) / 10


def check_slices(text, found):
    """Each chunk is the next slice of the normalized text, and only white space lies between."""
    whole, at = normalized(text), 0
    for chunk in found:
        assert chunk.text
        assert chunk.text == chunk.text.strip()
        while whole[at : at + 1].isspace():
            at += 1
        assert whole.startswith(chunk.text, at)
        at += len(chunk.text)
    assert at == len(whole)
    paragraphs = [[chunk for chunk in found if chunk.paragraph == i] for i in range(whole.count("\n\n") + bool(whole))]
    for paragraph, own in zip(whole.split("\n\n"), paragraphs, strict=bool(whole)):
        assert "".join(texts(own)).replace(" ", "") == paragraph.replace(" ", "")
        assert [chunk.ending == "paragraph" for chunk in own] == [False] * (len(own) - 1) + [True]


# -------------------------------------------------------------------------------------------------------- sentences


def test_the_fixture_has_every_language():
    assert sorted(CASES) == sorted(LANGUAGES)


@pytest.mark.parametrize(("language", "name"), NAMES)
def test_sentences_end_where_they_end_and_nowhere_else(language, name):
    """Dates, abbreviations, quotes, initials: what sentencex, or a mistake in what mends it, would break."""
    sentences = CASES[language][name]
    text = joined(language, sentences)
    ends = _sentence_ends(text, language)
    assert [text[start:end].strip() for start, end in pairwise([0, *ends])] == sentences
    found = chunks(text, language, max_seconds=max(len(one) for one in sentences) / 10, duration=by_characters)
    assert all(chunk.ending != "clause" for chunk in found)


@pytest.mark.parametrize("language", CASES)
def test_texts_of_all_languages_are_cut_within_the_limits(language):
    text = joined(language, [sentence for sentences in CASES[language].values() for sentence in sentences])
    found = chunks(text, language, count_ids=len, max_ids=160)
    check_slices(text, found)
    assert all(seconds_of(chunk, language) <= 13 and len(chunk) <= 160 for chunk in texts(found))
    assert sum(seconds_of(chunk, language) for chunk in texts(found)) / len(found) > 13 / 2  # and they are well filled


def test_whole_sentences_share_a_chunk_but_never_across_paragraphs():
    text = "One two. Three four.\nFive six. Seven.\n\nEight."
    assert chunks(text, "en", max_seconds=3, duration=by_characters) == [
        Chunk("One two. Three four.", 0, "sentence"),
        Chunk("Five six. Seven.", 0, "paragraph"),
        Chunk("Eight.", 1, "paragraph"),
    ]


def test_long_sentences_are_cut_at_clauses_then_between_words_then_within_them():
    cut = lambda text, most, language="en": texts(chunks(text, language, most / 10, by_characters))
    assert cut("One two three, four five; six seven eight.", 25) == ["One two three, four five;", "six seven eight."]
    assert cut("早く起きて、朝ご飯を食べて、学校へ行った。", 14, "ja") == [
        "早く起きて、朝ご飯を食べて、",
        "学校へ行った。",
    ]
    assert cut("one two three four five six", 20) == ["one two three", "four five six"]  # even parts
    assert cut("a" * 30, 16) == ["a" * 15] * 2
    assert cut("なつかしい冬の日々を思い出しました", 13, "ja") == ["なつかしい冬の", "日々を思い出しました"]
    assert cut("He said: “I am cold, Dr. Smith. Shall we go home? It is late.”", 33) == [
        "He said: “I am cold, Dr. Smith.",
        "Shall we go home? It is late.”",
    ]
    assert cut("No, " + "word " * 8 + "end.", 45)[0].count("word") == 4  # "No," alone would be a crumb


def test_tags_and_songs_are_never_cut_where_they_fit():
    song = "♪ In the jungle. The mighty jungle! The lion sleeps ♪"
    for text in (f"One, two. {song} [clears throat] Three, four five six seven eight nine.", f"[a b]{song}[c d]" * 3):
        for most in range(len(song), 2 * len(song)):
            found = texts(chunks(text, "en", most / 10, by_characters))
            assert all(chunk.count("♪") % 2 == 0 and chunk.count("[") == chunk.count("]") for chunk in found)
    assert len(chunks(song, "en", 3, by_characters)) == 3  # longer than a chunk may be


def test_what_belongs_to_a_letter_is_not_cut_off_it():
    word = "e\u0301" * 9 + "क\u094d\u0937\u093f" * 3 + "👩\u200d👩\u200d👧" * 2
    for chunk in texts(chunks(word, "hi", 0.6, by_characters)):
        assert chunk[0] in "eक\u0937👩"
    assert max(map(len, texts(chunks("e" + "\u0301" * 30, "en", 0.6, by_characters)))) <= 6
    one_each = texts(chunks("a] b、 [c] ♪ d", "ja", 0.05, by_characters))  # where not even a character fits
    assert one_each == list("a]b、[c]♪d")


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(LANGUAGES), st.floats(0.3, 5), st.integers(1, 30))
def test_of_any_text_nothing_is_lost_and_no_limit_exceeded(text, language, max_seconds, max_ids):
    count_ids = lambda part: len(part.encode())
    found = chunks(text, language, max_seconds, count_ids=count_ids, max_ids=max_ids)
    check_slices(text, found)
    for chunk in texts(found):
        assert len(chunk) == 1 or (seconds_of(chunk, language) <= max_seconds and count_ids(chunk) <= max_ids)


def test_white_space_is_folded_and_paragraphs_are_kept():
    assert normalized(" a\r\nb\t c\r\n \r\n\u2003d\n\n\n\n") == "a b c\n\nd"
    assert normalized(" \n\n ") == ""
    assert chunks(" \n\n ", "en") == chunks("") == []


def test_the_language_is_told_where_it_is_not_given():
    """English would end a sentence after डॉ."""
    hindi = joined("hi", CASES["hi"]["abbreviations"])
    cut = [chunks(hindi, language, 3, by_characters) for language in (None, "hi", "en")]
    assert cut[0] == cut[1] != cut[2]
    assert len(chunks("Hi.")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "nl"}, "Bark speaks de, en.*'nl'"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"max_ids": 0}, "max_ids"),
        ({"text": "a\ud800"}, "Unicode"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        chunks(**{"text": "Hello.", "language": "en", **options})


def test_a_missing_sentencex_is_named_with_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "sentencex":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "bark-hf\[longform\]"'):
        chunks("Hello.", "en")


# --------------------------------------------------------------------------------------------------------- durations


# What espeak-ng takes for the fixture's long sentences, over its pace in the language: the fit's median of ratios.
LONG = {"de": 14.0, "en": 13.7, "es": 14.0, "fr": 13.2, "hi": 16.5, "it": 13.5, "ja": 21.2}
LONG |= {"ko": 21.7, "pl": 13.5, "pt": 14.0, "ru": 11.2, "tr": 17.4, "zh": 34.2}


@pytest.mark.parametrize(("language", "seconds"), LONG.items())
def test_durations_are_those_of_read_speech(language, seconds):
    (text,) = CASES[language]["long"]
    assert seconds_of(text, language) == pytest.approx(seconds, rel=0.12)
    assert 0.9 < seconds_of(2 * text, language) / seconds_of(text, language) / 2 < 1.1


def test_digits_tags_songs_and_pauses_take_their_time():
    plain = seconds_of("It was so", "en")
    assert seconds_of("It was 1989", "en") > plain + 1
    assert seconds_of("It was so [laughs]", "en") == pytest.approx(plain + 1)
    assert seconds_of("♪ It was so ♪", "en") > 1.3 * plain
    assert seconds_of("It, was so", "en") > plain
    assert seconds_of("It. Was so", "en") > seconds_of("It, was so", "en")
    assert seconds_of("1.5") == pytest.approx(seconds_of("15"))
    assert seconds_of("漢字", "ja") < seconds_of("漢字")
    assert seconds_of("Ile lat", "pl") > seconds_of("Ile lat")
    assert seconds_of("e\u0301") == seconds_of("e")
    assert seconds_of("कि") > seconds_of("क")
