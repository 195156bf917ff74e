"""Joined speech: no clicks, pauses as wanted, levels matched, and the same again from the same chunks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import noise, speech

from bark_hf.audio.files import frame_levels, heard
from bark_hf.longform.joiner import LONGEST, PAUSES, Joiner, click_ratio

RATE = 24_000
FRAMES = round(RATE * 0.01)
CUT = [speech(1.25, RATE, seed=seed)[3000:21_000] for seed in range(4)]  # from and to the middle of a syllable
HUMS = [0.3 * np.sin(np.arange(18_000) * 2 * np.pi * (101.3 + 9 * i) / RATE + i + 1) for i in range(4)]
CHUNKS = [np.pad(wave, (3000 * number, 9000 - 2000 * number)) for number, wave in enumerate(CUT)]


def joined(waves, ending="sentence", **options):
    joiner = Joiner(RATE, **options)
    parts = [joiner.add(wave, ending) for wave in waves]
    return np.concatenate([*parts, joiner.end()]), joiner.spans


def gaps(audio):
    """Seconds of each silence inside."""
    loud = np.flatnonzero(heard(audio, RATE))
    steps = np.diff(loud) - 1
    return steps[steps > 5] * 0.01


@pytest.mark.parametrize("waves", [CUT, CHUNKS, HUMS], ids=["cut off", "with silence", "hums"])
@pytest.mark.parametrize("pause", [0.0, 0.01, 0.05, 0.5])
def test_no_join_clicks(waves, pause):
    audio, spans = joined([0.05 + wave for wave in waves], pauses={"sentence": pause})  # 0.05: an offset steps, too
    for at in np.array(spans).flatten():
        for near in range(-7, 8):  # the kept edges of 0.03 and 0.1 s, and what lies between
            assert click_ratio(audio, RATE, max(0, at + round(near * RATE / 60))) < 1.1


def test_hums_laid_end_to_end_do_click():
    """What the test above is able to find."""
    assert min(click_ratio(np.concatenate(HUMS), RATE, at) for at in (18_000, 36_000, 54_000)) > 2.5


@pytest.mark.parametrize("hum", HUMS)
@pytest.mark.parametrize("quiet", [0, 5000])
def test_cuts_are_at_zero_crossings(hum, quiet):
    hum = np.concatenate([0.003 * hum[:quiet], hum[quiet : 18_000 - quiet], 0.003 * hum[18_000 - quiet :]])
    audio, spans = joined([hum])
    middle = slice(spans[0][0] + 500, spans[0][1] - 500)
    places = range(max(quiet - 1200, 0), quiet + 200)
    (first,) = (at for at in places if np.array_equal(hum.astype(np.float32)[at:][middle], audio[middle]))
    for at in (first, first + len(audio)):
        assert hum[at - 1] * hum[at] <= 0


def test_a_click_is_a_step_that_its_neighborhood_does_not_know():
    tone = np.sin(2 * np.pi * 100 / RATE * np.arange(RATE))
    assert click_ratio(tone, RATE, 5040) == pytest.approx(1, abs=0.01)
    broken = tone.copy()
    broken[5000:] *= -1
    assert click_ratio(broken, RATE, 5000 + RATE // 400) < 1  # 2.5 ms away it is the neighborhood's
    broken = np.concatenate([tone[:5060], tone[5000:]])
    assert click_ratio(broken, RATE, 5060) > 10
    assert click_ratio(np.zeros(RATE), RATE, 5000) == 0
    assert click_ratio(np.repeat([0, 1], 5000), RATE, 5000) == float("inf")
    assert click_ratio(np.zeros(0), RATE, 0) == 0


@pytest.mark.parametrize("ending", PAUSES)
def test_pauses_are_those_of_the_ending(ending):
    audio, spans = joined(CHUNKS, ending)
    for (_, before), (after, _) in pairwise(spans):
        assert (after - before) / RATE == pytest.approx(PAUSES[ending], abs=1e-3)
    assert gaps(audio) == pytest.approx([PAUSES[ending]] * 3, abs=0.021)
    assert spans[0][0] / RATE <= 0.03
    assert len(audio) - spans[-1][1] <= 0.1 * RATE  # no pause is left hanging
    assert PAUSES["clause"] < PAUSES["sentence"] < PAUSES["paragraph"] < 1.2


def test_what_follows_speech_dies_away_in_the_pause():
    room = noise(1, RATE, 1e-4)
    audio, spans = joined([np.concatenate([CUT[0], room]), CUT[1]])
    quiet = audio[spans[0][1] : spans[1][0]]
    levels = frame_levels(quiet, RATE)[:45]
    assert levels[:3] == pytest.approx([-80] * 3, abs=2)
    assert (np.diff(levels[:10]) < 2).all()
    assert levels[8] < -90
    assert (quiet[int(0.11 * RATE) : int(0.46 * RATE)] == 0).all()


def test_a_pause_of_ones_own_counts():
    joiner = Joiner(RATE)
    parts = [joiner.add(CHUNKS[0], "clause", 2.5), joiner.add(CHUNKS[1], "paragraph"), joiner.end()]
    assert gaps(np.concatenate(parts)) == pytest.approx([2.5], abs=0.021)


def test_no_silence_inside_a_paragraph_is_over_its_limit():
    """A model's own long pauses are cut where they are silent, without a click, and the speech around stays."""
    room = 1e-3 * np.sin(np.arange(3 * RATE) * 2 * np.pi * 103.3 / RATE)
    parts = [CUT[0], room, CUT[1], room[:RATE], CUT[2]]
    audio, spans = joined([np.concatenate(parts), CHUNKS[1]])
    assert max(gaps(audio)) <= LONGEST + 0.021 < 1.2
    assert len(gaps(audio)) == 3
    assert (spans[0][1] - spans[0][0]) / RATE == pytest.approx(sum(map(len, parts)) / RATE - 2, abs=0.03)
    cut = spans[0][0] + len(CUT[0]) + RATE // 2
    assert max(click_ratio(audio, RATE, at) for at in range(cut - 999, cut + 999, 20)) < 1.5
    spoken = audio[spans[0][0] + 200 : spans[0][0] + len(CUT[0]) - 200]
    assert np.abs(np.correlate(CUT[0], spoken, "valid")).max() == pytest.approx(spoken @ spoken, rel=0.01)


def speech_level(wave):
    return 10 * np.log10(np.mean(10 ** (frame_levels(wave, RATE)[heard(wave, RATE)] / 10)))


def test_levels_are_matched_to_the_first_or_to_the_given_within_6_decibels():
    gains = [0.3, 0.5, 0.2, 0.05]
    waves = [gain * wave for gain, wave in zip(gains, CHUNKS, strict=True)]
    audio, spans = joined(waves)
    levels = [speech_level(audio[start:end]) for start, end in spans]
    assert levels[:3] == pytest.approx([levels[0]] * 3, abs=0.5)
    assert levels[0] == pytest.approx(speech_level(waves[0]), abs=0.5)
    assert levels[3] == pytest.approx(speech_level(waves[3]) + 6, abs=0.5)
    audio, spans = joined(waves, level=-29.0)
    assert [speech_level(audio[start:end]) for start, end in spans[:3]] == pytest.approx([-29] * 3, abs=0.6)


def test_no_level_clips():
    peaky = CHUNKS[0].copy()
    peaky[20_000] = 0.9
    audio, _ = joined([CHUNKS[1], peaky, 1.5 * CHUNKS[2]], level=0.0)
    assert np.abs(audio).max() <= 1.0
    over, _ = joined([3 * CHUNKS[2]], level=0.0)
    assert np.abs(over).max() == pytest.approx(3 * np.abs(CHUNKS[2]).max())  # as it came


def test_pauses_that_a_script_adds_up_may_be_long():
    """Each mark is 60 s at most; two in a row must not stop a book in its middle."""
    joiner = Joiner(RATE)
    joiner.add(CUT[0], "clause", 120)
    assert len(joiner.add(CUT[1], "clause")) > 119 * RATE


def test_silent_chunks_add_a_pause_alone():
    joiner = Joiner(RATE)
    parts = [joiner.add(np.zeros(RATE), "paragraph"), joiner.add(np.zeros(0), "clause")]
    assert [len(part) for part in parts] == [0, 0]
    parts += [joiner.add(CHUNKS[0], "clause"), joiner.add(np.zeros(0), "sentence"), joiner.add(np.zeros(9), "clause")]
    parts += [joiner.add(CHUNKS[1], "clause")]
    audio = np.concatenate([*parts, joiner.end()])
    assert joiner.spans[0][0] == joiner.spans[1][0] == 0
    assert joiner.spans[2][0] <= 0.03 * RATE
    assert joiner.spans[3] == (joiner.spans[2][1],) * 2
    assert gaps(audio) == pytest.approx([PAUSES["sentence"]], abs=0.021)
    assert len(Joiner(RATE).end()) == 0


chunks = st.lists(
    st.tuples(st.integers(0, 9999), st.sampled_from(sorted(PAUSES)), st.none() | st.floats(0, 2), st.integers(0, 99)),
    max_size=5,
)


def some_wave(size, seed):
    """Anything: speech with edges, noise, nearly nothing, silence."""
    draw = np.random.default_rng(seed)
    wave = noise(size / RATE, RATE, 10 ** draw.uniform(-6, 0), seed)
    return wave * draw.choice([0, 1, 0.001], size // 240 + 1).repeat(240)[: len(wave)] if seed % 3 else wave


@given(chunks)
@settings(max_examples=60, deadline=None)
def test_whatever_is_joined_is_whole_in_order_and_the_same_again(given_chunks):
    joiner, again, parts, heard_so_far = Joiner(RATE), Joiner(RATE), [], 0
    for size, ending, pause, seed in given_chunks:
        parts.append(joiner.add(some_wave(size, seed), ending, pause))
        heard_so_far += len(parts[-1])
        np.testing.assert_array_equal(parts[-1], again.add(some_wave(size, seed), ending, pause))
        assert joiner.spans[-1][1] <= heard_so_far  # what is spoken can be heard at once
    parts.append(joiner.end())
    whole = np.concatenate(parts)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    assert len(joiner.spans) == len(given_chunks)
    bounds = np.array(joiner.spans, int).flatten()
    assert (np.diff(bounds) >= 0).all()
    assert len(whole) - bounds[-1] <= 0.1 * RATE + 1 if len(bounds) else not len(whole)
    assert all(type(one) is int for span in joiner.spans for one in span)
    assert not len(whole) or max(abs(whole[0]), abs(whole[-1])) < 0.05


def test_chunks_are_left_as_they_are():
    before = CHUNKS[0].copy()
    joined([CHUNKS[0], CHUNKS[0]])
    np.testing.assert_array_equal(CHUNKS[0], before)


def test_what_cannot_be_joined_is_said():
    joiner = Joiner(RATE)
    with pytest.raises(ValueError, match="one of 'clause', 'sentence', 'paragraph'; got 'comma'"):
        joiner.add(CUT[0], "comma")
    for wrong in (np.zeros((2, 9)), np.array([np.nan])):
        with pytest.raises(ValueError, match="finite samples"):
            joiner.add(wrong, "clause")
    for pause in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="0 or more"):
            joiner.add(CUT[0], "clause", pause)
        with pytest.raises(ValueError, match="'clause' is"):
            Joiner(RATE, {"clause": pause})
    for rate, level in ((0, None), (RATE, 3.0)):
        with pytest.raises(ValueError, match="Joining needs a rate"):
            Joiner(rate, level=level)
    joiner.end()
    with pytest.raises(ValueError, match="has ended"):
        joiner.add(CUT[0], "clause")
