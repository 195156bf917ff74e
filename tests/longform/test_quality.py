"""The guard: what each of its ears hears and what it must not, and the best of several attempts on a tiny model."""

import json
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import noise, speech
from transformers import AutomaticSpeechRecognitionPipeline

from bark_hf import BarkGenerateOutput
from bark_hf.audio import read_audio
from bark_hf.longform import attempts as best_of
from bark_hf.longform import quality as guard
from bark_hf.longform.attempts import Task, attempt_seed, speak_well
from bark_hf.longform.quality import Verdict, judge, longest_loop, longest_silence, word_error_rate

TEXT = "She had a dark suit in greasy wash water, and the old man heard it all year."  # 5.5 s by prediction
SHORT = {"semantic_max_new_tokens": 20}


def result(wave, rate=16_000, ids=None, rates=(50.0, 75.0)):
    """What `generate_many` would give for this wave, with ids that never repeat unless they are given."""
    if ids is None:
        ids = np.random.default_rng(0).permutation(10_000)[: max(1, round(len(wave) / rate * rates[0]))]
    wave = torch.tensor(wave, dtype=torch.float32)[None]
    lengths = torch.tensor([wave.shape[1]])
    return BarkGenerateOutput(wave, lengths, [torch.tensor(ids)], [None], [None], [0], rate, rates)


def failed(verdict):
    return {name for name, amount in verdict.measures.items() if amount > 1}


@pytest.mark.parametrize(("rate", "rates"), [(16_000, (50.0, 75.0)), (24_000, (49.9, 75.0)), (24_000, (25.0, 50.0))])
def test_good_speech_passes_at_every_rate(rate, rates):
    verdict = judge(result(speech(5, rate=rate), rate, rates=rates), TEXT)
    assert not verdict.reasons
    assert verdict.score == max(verdict.measures.values()) < 1
    assert verdict.wer is None


def gap(wave, seconds, rate=16_000, fill=0.0):
    middle = len(wave) // 2
    return np.concatenate([wave[:middle], np.full(round(seconds * rate), fill, np.float32), wave[middle:]])


def faded(wave):
    quiet = wave.copy()
    quiet[len(wave) // 2 :] *= 10 ** (-24 / 20)
    return quiet


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda wave: wave[:16_000], {"length"}),
        (lambda wave: np.tile(wave, 3), {"length"}),
        (lambda wave: gap(wave, 1.5), {"silence"}),
        (lambda wave: gap(wave, 1.5) + noise(6.5, level=2e-3), {"silence"}),
        (lambda wave: 20 * wave, {"clipping"}),
        (faded, {"collapse"}),
        (lambda wave: 5e-3 * wave, {"quiet"}),
        (np.zeros_like, {"length", "quiet"}),
        (lambda wave: wave[:0], {"empty"}),
    ],
)
def test_each_kind_of_bad_speech_fails_for_its_own_reason(spoil, names):
    verdict = judge(result(spoil(speech(5))), TEXT)
    assert failed(verdict) == names
    assert len(verdict.reasons) == len(names)
    assert verdict.score > 1
    assert np.isfinite(verdict.score)


def test_ids_that_go_round_or_reach_the_limit_fail():
    ids = np.random.default_rng(0).integers(0, 500, 250)
    assert failed(judge(result(speech(5), ids=ids), TEXT, limit=251)) == set()
    assert failed(judge(result(speech(5), ids=ids), TEXT, limit=250)) == {"unfinished"}
    ids[100:170] = ids[100]
    verdict = judge(result(speech(5), ids=ids), TEXT)
    assert failed(verdict) == {"loop"}
    assert verdict.reasons[0].startswith("Its semantic ids go round for 1.")


@settings(max_examples=60, deadline=None)
@given(
    rate=st.sampled_from([25.0, 49.9, 50.0]),
    size=st.sampled_from([50, 500, 10_000]),
    lag=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_a_loop_is_as_long_as_its_rounds(rate, size, lag, seed):
    """Any period, vocabulary and rate; what it repeats may be preceded and followed by anything."""
    draw = np.random.default_rng(seed)
    rounds = max(4, 40 // lag)
    looped = np.tile(draw.permutation(size)[:lag], rounds)
    ids = np.concatenate([draw.integers(size, 2 * size, 60), looped, draw.integers(size, 2 * size, 60)])
    found = longest_loop(ids, rate) * rate
    assert len(looped) <= found + 1e-6
    assert found <= len(looped) / 0.9 + 2 * lag  # a tenth may differ


@settings(max_examples=30, deadline=None)
@given(size=st.sampled_from([100, 1000, 10_000]), seed=st.integers(0, 99))
def test_chance_and_words_said_twice_are_no_loop(size, seed):
    draw = np.random.default_rng(seed)
    word = draw.integers(0, size, 25)
    ids = np.concatenate([draw.integers(0, size, 300), word, word, np.repeat(draw.integers(0, size, 20), 5)])
    assert longest_loop(ids, 50.0) < guard.STUCK / 2


def test_a_loop_with_slips_is_still_a_loop():
    draw = np.random.default_rng(0)
    ids = np.tile(draw.permutation(10_000)[:10], 20)
    ids[draw.permutation(200)[:8]] = 10_001
    assert longest_loop(ids, 50.0) > 2


def test_few_ids_are_no_loop():
    for ids in ([], [1], [1, 1], [1, 2]):
        assert longest_loop(np.array(ids, dtype=np.int64), 50.0) == 0


@settings(max_examples=25, deadline=None)
@given(
    seconds=st.floats(0.2, 3.0),
    rate=st.sampled_from([8000, 16_000, 24_000, 44_100]),
    level=st.sampled_from([0.0, 1e-4, 3e-3]),
)
def test_silence_is_measured_at_any_rate_and_over_noise(seconds, rate, level):
    wave = speech(2, rate=rate)
    wave = gap(wave, seconds, rate)
    wave = wave + noise(len(wave) / rate + 1, rate, level)[: len(wave)]
    assert longest_silence(wave, rate) == pytest.approx(seconds, abs=0.15)


def test_silence_at_the_ends_does_not_count_and_a_click_does_not_hide_it():
    ends = np.concatenate([np.zeros(48_000, np.float32), speech(2), np.zeros(48_000, np.float32)])
    assert longest_silence(ends, 16_000) < 0.2
    clicked = gap(speech(2), 2.0)
    clicked[len(clicked) // 2] = 0.5
    assert longest_silence(clicked, 16_000) > 1.8


def test_words_are_compared_as_they_are_heard():
    assert word_error_rate("Hello, World! [laughs] ♪ It\u2019s 5.", "hello world it's 5") == 0
    assert word_error_rate("one two three four", "one two tree") == 0.5
    assert word_error_rate("你好。世界", "你好世间") == 0.25
    assert word_error_rate("हिन्दी बोलो", "हिन्दी बोलो।") == 0
    assert word_error_rate("हिन्दी", "हन्द") == 1
    assert word_error_rate("[laughs] ♪", "ha ha") is None
    assert word_error_rate(["One, two", "[laughs]", "three four"], ["one two", "ha", "tree"]) == 0.5
    assert word_error_rate(["[laughs]"], ["ha"]) is None


def test_a_recognizer_has_its_say():
    good = judge(result(speech(5)), TEXT, asr=lambda wave, rate: TEXT.lower())
    bad = judge(result(speech(5)), TEXT, asr=lambda wave, rate: "nothing of the kind")
    assert (good.wer, good.reasons) == (0, ())
    assert failed(bad) == {"words"}
    assert bad.heard == "nothing of the kind"
    assert sorted([bad, good], key=lambda verdict: verdict.key) == [good, bad]
    assert not judge(result(speech(1)), "[laughs]", asr=lambda wave, rate: "ha").reasons


def test_a_pipeline_gets_samples_at_its_own_rate():
    class Pipeline(AutomaticSpeechRecognitionPipeline):
        def __init__(self):
            self.feature_extractor = type("Extractor", (), {"sampling_rate": 16_000})

        def __call__(self, given):
            return {"text": f"{len(given['raw'])} at {given['sampling_rate']}"}

    assert guard.recognizer(Pipeline())(speech(1, rate=24_000), 24_000) == "16000 at 16000"


@pytest.mark.parametrize("voice", ["slt", "rms", "awb", "kal16"])
def test_flite_passes(tmp_path, voice):
    text = f"{TEXT} The birch canoe slid on the smooth planks, and then, rice is often served in round bowls."
    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", tmp_path / "a.wav"], check=True, timeout=60)
    wave, rate = read_audio(tmp_path / "a.wav")
    assert not judge(result(wave, rate), text).reasons
    assert failed(judge(result(wave[: len(wave) // 2], rate), text)) == {"length"}


def spoken(small, texts, voice="made/short", **options):
    tasks = [Task(i, text, voice) for i, text in enumerate(texts)]
    made = list(speak_well(small.model, small.processor, tasks, seed=5, **{**SHORT, **options}))
    return sorted(made, key=lambda one: one.task.index)


def by_seeds(scores):
    """A judge that gives the attempts with these seeds their scores, above 1 for bad, and others 0."""

    def stub(result, text):
        score = scores.get(result.seeds[0], 0.0)
        return Verdict(score, ("bad",) if score > 1 else ())

    return stub


TEXTS = ["Hello the music.", "And a song!", "Hello world, this is the music.", "Hello?", "The dog sings."]


def test_a_result_does_not_depend_on_the_batch_and_its_seed_repeats_it(small):
    ones, fours = (spoken(small, TEXTS, batch_size=size, guard=False) for size in (1, 4))
    for one, four, text in zip(ones, fours, TEXTS, strict=True):
        np.testing.assert_array_equal(one.audio, four.audio)
        inputs = small.processor(text, voice_preset="made/short")
        again = small.model.generate(**inputs, seed=one.attempts[0]["seed"], **SHORT)
        np.testing.assert_array_equal(one.audio, again[0])


def test_seeds_of_attempts_tasks_and_runs_differ():
    seeds = {attempt_seed(seed, task, number) for seed in (0, 1) for task in range(20) for number in range(5)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_fails_is_made_again_until_it_passes_and_nothing_else_changes(small):
    bad = {attempt_seed(5, 1, 0): 3.0, attempt_seed(5, 1, 1): 2.0, attempt_seed(5, 3, 0): 3.0}
    plain, made = spoken(small, TEXTS, guard=by_seeds({})), spoken(small, TEXTS, guard=by_seeds(bad), batch_size=2)
    assert [len(one.attempts) for one in made] == [1, 3, 1, 2, 1]
    assert [one.kept for one in made] == [0, 2, 0, 1, 0]
    assert [attempt["score"] for attempt in made[1].attempts] == [3.0, 2.0, 0.0]
    assert [attempt["seed"] for attempt in made[1].attempts] == [attempt_seed(5, 1, number) for number in range(3)]
    for place in (0, 2, 4):
        np.testing.assert_array_equal(plain[place].audio, made[place].audio)


@pytest.mark.parametrize(("retries", "kept"), [(0, 0), (1, 1), (3, 1)])
def test_where_all_fail_the_least_bad_is_kept(small, retries, kept):
    scores = (4.0, 2.0, 3.0, 5.0)
    bad = {attempt_seed(5, 0, number): score for number, score in enumerate(scores)}
    (one,) = spoken(small, TEXTS[:1], guard=by_seeds(bad), retries=retries)
    assert (len(one.attempts), one.kept, one.passed) == (retries + 1, kept, False)
    again = small.model.generate(
        **small.processor(TEXTS[0], voice_preset="made/short"), seed=one.attempts[kept]["seed"], **SHORT
    )
    np.testing.assert_array_equal(one.audio, again[0])


def test_best_of_makes_all_and_keeps_the_best(small):
    scores = {attempt_seed(5, 0, number): score for number, score in enumerate((0.5, 2.0, 0.1))}
    (one,) = spoken(small, TEXTS[:1], guard=by_seeds(scores), best_of=3)
    assert (len(one.attempts), one.kept, one.passed) == (3, 2, True)


def test_a_recognizer_chooses(small):
    """All are cut off, and so fail alike: what is heard decides."""
    heard = iter(["nothing", "hello the muse", "hello the music", "hello"])
    options = {"best_of": 4, "retries": 0, "batch_size": 1, "allow_early_stop": False}
    (one,) = spoken(small, TEXTS[:1], asr=lambda wave, rate: next(heard), **options)
    assert [attempt["heard"] for attempt in one.attempts] == ["nothing", "hello the muse", "hello the music", "hello"]
    assert [round(attempt["wer"], 2) for attempt in one.attempts] == [1, 0.33, 0, 0.67]
    assert one.kept == 2


def test_attempts_are_batched_and_tasks_are_read_as_rows_get_free(small, monkeypatch):
    passes, read = [], []
    own = type(small.model).generate_many
    monkeypatch.setattr(type(small.model), "generate_many", lambda *a, **k: passes.append(1) or own(*a, **k))

    def tasks():
        for index in range(12):
            read.append(index)
            yield Task(index, TEXTS[index % 5], "made/short")

    bad = by_seeds({attempt_seed(5, 0, 0): 2.0})
    made = speak_well(small.model, small.processor, tasks(), seed=5, batch_size=2, guard=bad, **SHORT)
    order = [next(made).task.index]
    assert len(read) < 8
    order += [one.task.index for one in made]
    assert sorted(order) == list(range(12))
    assert order.index(0) < 9  # what failed does not wait for the rest
    assert len(passes) == 1


def test_a_model_that_ends_at_once_is_reported_and_kept(small):
    for one in spoken(small, TEXTS[:2], min_eos_p=0.0, retries=1):
        assert (len(one.audio), one.voice, one.passed, one.kept) == (0, None, False, 0)
        assert [attempt["measures"] for attempt in one.attempts] == [{"empty": 100.0}] * 2
        back = best_of.Spoken.of(one.task, one.arrays, json.loads(json.dumps(one.notes)))
        assert len(back.audio) == 0


def test_what_was_spoken_survives_a_file(small):
    (one,) = spoken(small, TEXTS[:1])
    back = best_of.Spoken.of(one.task, one.arrays, json.loads(json.dumps(one.notes)))
    assert back.voice == one.voice
    np.testing.assert_array_equal(back.audio, one.audio)
    assert json.loads(json.dumps(back.notes)) == json.loads(json.dumps(one.notes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guard": False, "best_of": 2}, "leave `guard` on"),
        ({"guard": False, "asr": print}, "leave `guard` on"),
        ({"best_of": 0}, "1 at least"),
        ({"retries": -1}, "1 at least"),
    ],
)
def test_choices_that_cannot_be_are_refused(small, options, message):
    with pytest.raises(ValueError, match=message):
        spoken(small, TEXTS[:1], **options)
