"""transformers' generation keywords over the cascade: rules, filters, stops, samples of a text, streamers, NumPy."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation import logits_process as rules
from transformers.generation import stopping_criteria as stops
from transformers.generation.stopping_criteria import MaxLengthCriteria

from bark_hf import BarkGenerationConfig, BarkModel
from bark_hf.generation import run as running
from bark_hf.generation.options import STAGES, all_options
from bark_hf.generation.run import Run

TEXTS = ["Hello world, this is the music.", "the", "with [laughter]"]
EOS, CODES = 200, 64  # of the small goldens
LONG = {"max_new_tokens": 30, "allow_early_stop": False}
RULES = {
    "repetition_penalty": (1.5, lambda v: rules.RepetitionPenaltyLogitsProcessor(v)),
    "no_repeat_ngram_size": (1, lambda v: rules.NoRepeatNGramLogitsProcessor(v)),
    "min_p": (0.6, lambda v: rules.MinPLogitsWarper(v)),
    "typical_p": (0.3, lambda v: rules.TypicalLogitsWarper(v)),
    "epsilon_cutoff": (0.03, lambda v: rules.EpsilonLogitsWarper(v)),
    "eta_cutoff": (0.5, lambda v: rules.EtaLogitsWarper(v)),
    "top_h": (0.2, lambda v: rules.TopHLogitsWarper(v)),
}
PENALTIES = ("repetition_penalty", "no_repeat_ngram_size")  # which a frame has no use for
NAMED = {
    "suppress_tokens": lambda first: list(range(first, first + 60, 2)),
    "begin_suppress_tokens": lambda first: list(range(first + 4, first + 64)),
    "bad_words_ids": lambda first: [
        [first + 57],
        [first + 62],
        *([first + i, first + j] for i in range(60) for j in range(60, 64)),
    ],
}


def semantic(small, **keywords):
    return small.model.generate_semantic(**small.processor(TEXTS), seed=3, **LONG, **keywords)


def coarse(small, **keywords):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 200, (length,), generator=generator) for length in (20, 30, 11)]
    return small.model.generate_coarse(rows, seed=3, **keywords)


def fine(small, **keywords):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, CODES, (2, length), generator=generator) for length in (7, 5)]
    return small.model.generate_fine(rows, seed=3, temperature=0.9, **keywords)


def same(one, other):
    return all(map(torch.equal, one, other))


# ---------------------------------------------------------------------------------------- the classes of transformers


@pytest.mark.parametrize(
    ("run", "name"),
    [(run, name) for run in (semantic, coarse, fine) for name in RULES if run is not fine or name not in PENALTIES],
)
def test_a_keyword_is_transformers_own_class(small, run, name):
    value, make = RULES[name]
    got = run(small, **{name: value})
    assert same(got, run(small, logits_processor=LogitsProcessorList([make(value)])))
    assert not same(got, run(small))


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(("run", "first"), [(semantic, 0), (coarse, 200)])
def test_named_ids_are_forbidden(small, run, first, name):
    ids = NAMED[name](first)
    make = {
        "suppress_tokens": rules.SuppressTokensLogitsProcessor,
        "begin_suppress_tokens": lambda named: rules.SuppressTokensAtBeginLogitsProcessor(named, 0),
        "bad_words_ids": rules.NoBadWordsLogitsProcessor,
    }[name]
    got = run(small, **{name: ids})
    assert same(got, run(small, logits_processor=LogitsProcessorList([make(ids)])))
    assert not same(got, run(small))


def test_suppressed_codes_are_in_no_codebook_of_the_fine_stage(small):
    codes = fine(small, suppress_tokens=list(range(0, CODES, 2)))
    assert all((one[2:] % 2 == 1).all() for one in codes)


def test_the_order_is_rules_then_the_callers_processor_then_filters(small):
    """A filter after the caller's own sees what that left; a penalty before it does not."""
    seen = []

    def own(ids, scores):
        seen.append(scores.isfinite().sum().item())
        scores = scores.clone()
        scores[:, 50:200] = -torch.inf
        return scores

    def own_then_typical(ids, scores):
        return rules.TypicalLogitsWarper(0.3)(ids, own(ids, scores))

    suppressed = [3, 4]
    got = semantic(small, suppress_tokens=suppressed, typical_p=0.3, logits_processor=LogitsProcessorList([own]))
    assert set(seen) == {3 * (200 - len(suppressed))}
    chain = LogitsProcessorList([rules.SuppressTokensLogitsProcessor(suppressed), own_then_typical])
    assert same(got, semantic(small, logits_processor=chain))


def test_argmax_needs_no_filters(small):
    """typical_p may drop the likeliest id, which transformers' greedy search would keep too."""
    plain = semantic(small, do_sample=False)
    assert same(semantic(small, do_sample=False, typical_p=0.1, epsilon_cutoff=0.5, min_p=1.0), plain)
    assert not same(semantic(small, do_sample=False, repetition_penalty=2.0), plain)


def test_a_row_depends_on_no_other_row(small):
    """Rows of other lengths, in two slots, under every rule: each is what it is alone."""
    keywords = {
        "semantic_repetition_penalty": 1.3,
        "semantic_no_repeat_ngram_size": 2,
        "semantic_bad_words_ids": [[7], [3, 4]],
        "semantic_min_new_tokens": 6,
        "min_eos_p": 0.02,
        "semantic_suppress_tokens": [8],
        "begin_suppress_tokens": [9],
        "typical_p": 0.9,
        "eta_cutoff": 0.004,
        "coarse_repetition_penalty": 1.2,
        "coarse_min_p": 0.02,
        "coarse_no_repeat_ngram_size": 4,
        "fine_min_p": 0.05,
        "fine_top_h": 0.9,
        "max_new_tokens": 40,
        "return_dict_in_generate": True,
    }
    seeds = [5, 6, 7]
    together = small.model.generate(**small.processor(TEXTS), seed=seeds, batch_size=2, **keywords)
    assert len({len(row) for row in together.semantic_tokens}) > 1
    for i, text in enumerate(TEXTS):
        alone = small.model.generate(**small.processor(text), seed=seeds[i : i + 1], **keywords)
        assert torch.equal(together.semantic_tokens[i], alone.semantic_tokens[0])
        assert torch.equal(together.fine_codes[i], alone.fine_codes[0])


NEUTRAL = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "min_new_tokens": 0,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
}


@pytest.mark.parametrize("keywords", [{}, NEUTRAL, dict.fromkeys([*RULES, *NAMED, "max_time", "stopping_criteria"])])
def test_without_rules_there_is_no_processor(small, keywords):
    """A processor would have every head computed whole, and each row's ids copied at every step."""
    run = Run(small.model, all_options(small.model.generation_config, None, keywords))
    run.callbacks()
    assert run.processors == {"semantic": None, "coarse": None, "fine": None}
    assert not run.semantic_options.has_criteria


def test_none_is_harmless_for_every_keyword(small):
    names = {*vars(GenerationConfig()), *RULES, *NAMED, "stopping_criteria", "streamer", "assistant_model", "progress"}
    names = {name for name in names if not name.startswith("_")} - {"temperature", "min_eos_p"}
    names -= {"max_new_tokens"}  # in these None means "no limit"
    none = dict.fromkeys([*names, *(f"{stage}_{name}" for stage in STAGES for name in names)])
    inputs, run = small.processor("the"), {"seed": 1, "max_new_tokens": 3, "allow_early_stop": False}
    assert torch.equal(small.model.generate(**inputs, **run, **none), small.model.generate(**inputs, **run))
    own = dict.fromkeys(names)
    assert same(fine(small, **own), fine(small))
    assert same(coarse(small, **own), coarse(small))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"fine_repetition_penalty": 1.2}, "fine stage has no `repetition_penalty`.*one frame"),
        ({"fine_no_repeat_ngram_size": 2}, "fine stage has no `no_repeat_ngram_size`"),
        ({"fine_bad_words_ids": [[1]]}, "fine stage has no `bad_words_ids`.*suppress_tokens"),
        ({"fine_max_time": 1.0}, "fine stage has no `max_time`.*stop the semantic or the coarse stage"),
        ({"fine_stopping_criteria": print}, "fine stage has no `stopping_criteria`"),
        ({"coarse_min_new_tokens": 3}, "coarse stage has no `min_new_tokens`.*follows from the semantic ids"),
        ({"num_beams": 3}, "num_beams=3.*num_return_sequences.*model.semantic.generate"),
        ({"semantic_num_beams": 3}, "semantic_num_beams=3.*not implemented"),
        ({"prompt_lookup_num_tokens": 3}, "An assistant drafts"),
        ({"max_length": 30}, "max_length=30.*max_new_tokens"),
        ({"stop_strings": ["a"]}, "stop_strings.*stopping_criteria"),
        ({"guidance_scale": 2.0}, "guidance_scale.*logits_processor"),
        ({"suppress_tokens": [201]}, "`suppress_tokens` names id 201; the semantic stage's ids are 0 to 200"),
        ({"coarse_suppress_tokens": [5]}, "`suppress_tokens` names id 5; the coarse stage's ids are 200 to 327"),
        ({"fine_suppress_tokens": [64]}, "the fine stage's ids are 0 to 63"),
        ({"bad_words_ids": [[1, 300]]}, "`bad_words_ids` names id 300"),
        ({"bad_words_ids": [1]}, "list of lists"),
        ({"bad_words_ids": [[]]}, "list of lists"),
        ({"suppress_tokens": 3}, "list of ids"),
        ({"suppress_tokens": [1.5]}, "list of ids"),
        ({"repetition_penalty": 0}, "above 0"),
        ({"min_p": 1.5}, "0 to 1"),
        ({"typical_p": 0.0}, "above 0"),
        ({"epsilon_cutoff": 1.0}, "below 1"),
        ({"max_time": -1}, "seconds above 0"),
        ({"stopping_criteria": 3}, "StoppingCriteriaList"),
        ({"stopping_criteria": [3]}, "StoppingCriteriaList"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, r"min_new_tokens` \(9\) must be at most `max_new_tokens` \(3\)"),
        ({"num_return_sequences": 0}, "at least 1"),
        ({"num_return_sequences": 1.5}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(small, keywords, message):
    with pytest.raises(ValueError, match=message):
        small.model.generate(torch.tensor([[5, 6]]), **keywords)


def test_a_rule_that_leaves_no_id_is_an_error(small):
    with pytest.raises(ValueError, match="keywords that forbid ids, left no id"):
        semantic(small, suppress_tokens=list(range(200)))


# ----------------------------------------------------------------------------------------------- generation configs


def test_a_plain_generation_config_carries_the_rules(small):
    config = GenerationConfig(
        repetition_penalty=1.3, typical_p=0.9, bad_words_ids=[[4]], min_new_tokens=5, max_new_tokens=20
    )
    semantic_options, coarse_options, fine_options = all_options(small.model.generation_config, config, {})
    assert (semantic_options.repetition_penalty, coarse_options.repetition_penalty) == (1.3, 1.3)
    assert (semantic_options.bad_words_ids, coarse_options.bad_words_ids) == ([[4]], None)
    assert (semantic_options.min_new_tokens, fine_options.typical_p) == (5, None)
    inputs = small.processor("the")
    keywords = {"repetition_penalty": 1.3, "typical_p": 0.9, "bad_words_ids": [[4]], "min_new_tokens": 5}
    wanted = small.model.generate(**inputs, seed=2, max_new_tokens=20, **keywords)
    assert torch.equal(small.model.generate(**inputs, seed=2, generation_config=config), wanted)


def test_a_bark_generation_config_carries_the_rules_into_files_and_models(small, tmp_path):
    config = copy.deepcopy(small.model.generation_config)
    config.semantic_config.repetition_penalty = 1.3
    config.coarse_acoustics_config.no_repeat_ngram_size = 3
    config.fine_acoustics_config.min_p = 0.1
    config.num_return_sequences = 2
    config.save_pretrained(tmp_path)
    again = BarkGenerationConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    model = BarkModel.from_pretrained(small.checkpoint, generation_config=again)
    inputs = small.processor("the")
    keywords = {"semantic_repetition_penalty": 1.3, "coarse_no_repeat_ngram_size": 3, "fine_min_p": 0.1}
    run = {"seed": 2, "max_new_tokens": 20}
    wanted = small.model.generate(**inputs, **run, **keywords, num_return_sequences=2)
    assert torch.equal(model.generate(**inputs, **run), wanted)
    assert torch.equal(small.model.generate(**inputs, **run, generation_config=again), wanted)
    off = dict.fromkeys(keywords)  # None is off
    plain = small.model.generate(**inputs, **run)
    assert torch.equal(model.generate(**inputs, **run, **off, num_return_sequences=1), plain)
    section = BarkGenerationConfig(semantic_config={"repetition_penalty": None})
    assert all_options(config, section, {})[0].repetition_penalty is None


def test_rules_that_nobody_set_are_not_written_to_files():
    assert not {*RULES, *NAMED, "max_time"} & BarkGenerationConfig().to_dict()["semantic_config"].keys()


def test_values_that_transformers_fills_in_are_no_rules():
    """Its older files list every field of a stage."""
    stage = {"repetition_penalty": 1.0, "typical_p": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "max_time": None}
    config = BarkGenerationConfig.from_dict({"semantic_config": stage, "num_return_sequences": 1})
    assert config.semantic_config.given() == {}


@pytest.mark.parametrize("value", ["hot", [1], True])
def test_rules_in_configs_are_checked(value):
    with pytest.raises(ValueError, match="repetition_penalty"):
        BarkGenerationConfig(semantic_config={"repetition_penalty": value})


@pytest.mark.parametrize(
    ("set_it", "message"),
    [
        (lambda config: setattr(config, "do_sample", False), r"model.generation_config` sets `do_sample` \(False\)"),
        (lambda config: setattr(config, "max_new_tokens", 9), "`max_new_tokens`"),
        (lambda config: setattr(config, "temprature", 0.3), "`temprature`"),
        (lambda config: setattr(config.semantic_config, "num_beams", 4), "`semantic_config.num_beams`.*A beam"),
        (
            lambda config: setattr(config.fine_acoustics_config, "repetition_penalty", 2.0),
            "`fine_acoustics_config.rep",
        ),
    ],
)
def test_what_nobody_reads_in_the_models_generation_config_is_an_error(small, set_it, message):
    """It was ignored in silence: `model.generation_config.do_sample = False` sampled on."""
    model = copy.copy(small.model)
    model.generation_config = copy.deepcopy(small.model.generation_config)
    model.generate_semantic(torch.tensor([[5]]), max_new_tokens=1, allow_early_stop=False)
    set_it(model.generation_config)
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[5]]))
    if "model." not in message:
        return
    with pytest.raises(ValueError, match="`generation_config` sets"):
        small.model.generate(torch.tensor([[5]]), generation_config=model.generation_config)


def test_a_plain_config_in_place_of_the_models_is_an_error(small):
    model = copy.copy(small.model)
    model.generation_config = GenerationConfig(do_sample=False)
    with pytest.raises(TypeError, match=r"must be a BarkGenerationConfig.*got GenerationConfig"):
        model.generate(torch.tensor([[5]]))


def test_numpy_scalars_are_numbers(small):
    """They were refused, or overflowed: np.int64 has no room for 2**63."""
    inputs = small.processor("the")
    numpy = {
        "semantic_top_k": np.int64(50),
        "temperature": np.float32(0.5),
        "fine_temperature": np.float64(0.5),
        "do_sample": np.True_,
        "max_new_tokens": np.int16(8),
        "semantic_suppress_tokens": list(np.arange(3)),
        "num_beams": np.int64(1),
    }
    plain = {**{name: value.item() for name, value in numpy.items() if isinstance(value, np.generic)}}
    plain["semantic_suppress_tokens"] = [0, 1, 2]
    wanted = small.model.generate(**inputs, seed=4, batch_size=1, **plain)
    assert torch.equal(small.model.generate(**inputs, seed=np.int64(4), batch_size=np.int32(1), **numpy), wanted)
    many = small.model.generate_many(["the"], np.int64(2), processor=small.processor, seed=np.int64(4), **numpy)
    assert torch.equal(next(many)[1].audio, wanted)
    pieces = small.model.stream(**inputs, seed=np.uint8(4), lookahead=np.float32(0.5), overlap=np.int64(1), **numpy)
    assert sum(map(len, pieces)) == wanted.shape[1]
    config = BarkGenerationConfig(semantic_config={"top_k": np.int64(50)}, sample_rate=np.int64(24_000))
    config.coarse_acoustics_config.temperature = np.float32(0.5)
    config.validate()
    assert '"top_k": 50' in config.to_json_string()
    with pytest.raises(ValueError, match="top_k"):
        small.model.generate(**inputs, semantic_top_k=np.float32(1.5))


# ------------------------------------------------------------------------------------------------------------- stops


def test_min_new_tokens_forbids_eos(small):
    inputs = small.processor(TEXTS)
    eager = LogitsProcessorList([lambda ids, scores: scores.index_fill(1, torch.tensor([EOS]), 30.0)])
    run = {"seed": 1, "logits_processor": None, "max_new_tokens": 20}

    def boosted(ids, scores):  # EOS is all but certain, where it is legal
        return torch.where(scores[:, EOS:].isfinite().any(), eager(ids, scores), scores)

    def ends(**keywords):
        return [len(ids) for ids in small.model.generate_semantic(**inputs, **{**run, **keywords})]

    own = LogitsProcessorList([boosted])
    with pytest.warns(UserWarning, match="ended at once"):
        assert ends(logits_processor=own) == [0, 0, 0]
    assert ends(logits_processor=own, min_new_tokens=7) == [7, 7, 7]
    assert ends(logits_processor=own, min_new_tokens=7, do_sample=False) == [7, 7, 7]


@pytest.mark.parametrize("every", [1, 16])
@pytest.mark.parametrize("sampled", [True, False])
def test_min_new_tokens_defeats_min_eos_p(small, monkeypatch, every, sampled):
    """A forbidden EOS has the probability 0, which still reaches `min_eos_p=0`."""
    monkeypatch.setattr(Run, "look_every", every)
    run = {"seed": 1, "max_new_tokens": 30, "min_eos_p": 0.0, "do_sample": sampled}
    rows = small.model.generate_semantic(**small.processor(TEXTS), min_new_tokens=11, **run)
    assert [len(ids) for ids in rows] == [11, 11, 11]
    assert all((ids < EOS).all() for ids in rows)


class Clock:
    """Each look at it takes a second."""

    def __init__(self):
        self.seconds = 0

    def time(self):
        self.seconds += 1
        return self.seconds


def test_max_time_ends_a_stage_and_keeps_what_exists(small, monkeypatch):
    monkeypatch.setattr(stops, "time", Clock())
    run = {"seed": 1, "max_new_tokens": 40, "allow_early_stop": False, "return_dict_in_generate": True}
    whole = small.model.generate(**small.processor("the"), **run)
    out = small.model.generate(**small.processor("the"), **run, max_time=9, coarse_max_time=20.0)
    assert torch.equal(out.semantic_tokens[0], whole.semantic_tokens[0][:10])
    assert out.coarse_codes[0].shape == (2, 10)  # 21 ids: whole frames are kept
    assert out.audio.shape == (1, 10 * 320)


def test_each_rows_clock_starts_with_it(small, monkeypatch):
    """Two slots for three rows: the third's time does not run while it waits."""
    monkeypatch.setattr(stops, "time", Clock())
    rows = small.model.generate(
        **small.processor(TEXTS),
        seed=1,
        batch_size=1,
        max_time=9,
        allow_early_stop=False,
        return_dict_in_generate=True,
    ).semantic_tokens
    assert [len(ids) for ids in rows] == [10, 10, 10]


def test_stopping_criteria_see_one_rows_ids_and_keep_the_last(small):
    seen = []

    def criterion(ids, scores):
        assert scores is None
        seen.append(ids.clone())
        return ids[:, -1] < 60

    rows = semantic(small, stopping_criteria=StoppingCriteriaList([criterion]))
    plain = semantic(small)
    for row, whole in zip(rows, plain, strict=True):
        assert (row[:-1] >= 60).all()
        assert row[-1] < 60 or len(row) == len(whole)
        assert torch.equal(row, whole[: len(row)])
    assert {len(one) for one in seen} == {1}
    assert min(map(len, rows)) < 30
    assert same(semantic(small, stopping_criteria=[criterion]), rows)
    assert same(semantic(small, stopping_criteria=criterion), rows)


def test_criteria_are_asked_after_each_id_where_the_loop_looks_rarely(small, monkeypatch):
    """On a GPU it takes 16 steps between two looks at the ids."""
    monkeypatch.setattr(Run, "look_every", 16)
    assert [len(ids) for ids in semantic(small, stopping_criteria=MaxLengthCriteria(5))] == [5, 5, 5]
    assert [one.shape[1] for one in coarse(small, stopping_criteria=MaxLengthCriteria(7))] == [3, 3, 3]


def test_coarse_criteria_leave_whole_frames(small):
    whole = coarse(small)
    for limit in (1, 2, 31):
        cut = coarse(small, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(limit)]))
        for row, other in zip(cut, whole, strict=True):
            assert torch.equal(row, other[:, : limit // 2])


@pytest.mark.parametrize("overlap", [None, 0.2])
@pytest.mark.parametrize(("lookahead", "frames", "window"), [(None, 1060, 60), (None, 1024, 64), (0.2, 50, 60)])
def test_a_stream_that_is_stopped_ends_where_generate_does(small, overlap, lookahead, frames, window):
    """Fine windows and look-aheads waited for codes that never came. The stop is within a frame, behind a window."""
    run = {"coarse_stopping_criteria": MaxLengthCriteria(2 * frames + 1), "max_new_tokens": min(767, frames)}
    run["sliding_window_len"] = window
    run |= {"seed": 3, "allow_early_stop": False, "max_coarse_history": 60}
    inputs = small.processor("the")
    wanted = small.model.generate(**inputs, **run)[0].numpy()
    assert len(wanted) == 320 * frames
    got = np.concatenate(list(small.model.stream(**inputs, **run, overlap=overlap, lookahead=lookahead)))
    assert len(got) == len(wanted)
    if overlap is None and lookahead is None:
        np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("overlap", [None, 0.2])
def test_a_stream_cut_by_coarse_max_new_tokens_speaks_all_of_it(small, overlap):
    """With an overlap the frames of the last look-ahead were lost."""
    run = {"seed": 3, "coarse_max_new_tokens": 100, "max_new_tokens": 300, "allow_early_stop": False}
    pieces = small.model.stream(**small.processor("the"), **run, overlap=overlap, lookahead=0.2)
    assert sum(map(len, pieces)) == 50 * 320


# ------------------------------------------------------------------------------------------------ samples of a text


def test_num_return_sequences_makes_the_rows_that_single_calls_make(small):
    run = {"max_new_tokens": 9, "allow_early_stop": False, "return_dict_in_generate": True}
    inputs = small.processor(TEXTS[:2], voice_preset=["made/short", None])
    out = small.model.generate(**inputs, seed=7, num_return_sequences=3, batch_size=4, **run)
    assert out.seeds == [7, 8, 9, 10, 11, 12]
    assert out.audio.shape[0] == len(out.semantic_tokens) == 6
    prefixed = small.model.generate(**inputs, seed=7, semantic_num_return_sequences=3, **run)
    assert torch.equal(prefixed.audio, out.audio)
    for row, seed in enumerate(out.seeds):
        text, voice = ((TEXTS[0], "made/short"), (TEXTS[1], None))[row // 3]
        alone = small.model.generate(**small.processor(text, voice_preset=voice), seed=seed, **run)
        assert torch.equal(out.fine_codes[row], alone.fine_codes[0])
    for seeds, rows in (([7, 20], [7, 8, 9, 20, 21, 22]), ([1, 1, 2, 3, 5, 8], [1, 1, 2, 3, 5, 8])):
        assert small.model.generate(**inputs, seed=seeds, num_return_sequences=3, **run).seeds == rows
    with pytest.raises(ValueError, match="3 seeds for 6 rows"):
        small.model.generate(**inputs, seed=[1, 2, 3], num_return_sequences=3, **run)
    config = GenerationConfig(num_return_sequences=2, do_sample=True)
    assert small.model.generate(**inputs, seed=0, generation_config=config, **run).seeds == [0, 1, 2, 3]


def test_single_stages_make_several_samples(small):
    model, rows = small.model, [torch.arange(9), torch.arange(5)]
    got = model.generate_coarse(rows, seed=[4, 9], num_return_sequences=2)
    assert same(got, model.generate_coarse([rows[0], rows[0], rows[1], rows[1]], seed=[4, 5, 9, 10]))
    again = model.generate_fine(got[1:3], seed=1, num_return_sequences=2)
    assert same(again, model.generate_fine([got[1], got[1], got[2], got[2]], seed=1))
    ids = model.generate_semantic(**small.processor("the"), seed=1, num_return_sequences=2, **LONG)
    assert not torch.equal(*ids)


def test_one_sample_functions_refuse_several(small):
    inputs, config = small.processor("the"), GenerationConfig(num_return_sequences=2, do_sample=True)
    for keywords in ({"num_return_sequences": 2}, {"generation_config": config}):
        with pytest.raises(ValueError, match="num_return_sequences"):
            small.model.stream(**inputs, **keywords)
        with pytest.raises(ValueError, match="num_return_sequences"):
            small.model.generate_many(["the"], processor=small.processor, **keywords)
    assert len(list(small.model.stream(**inputs, num_return_sequences=1, max_new_tokens=2, allow_early_stop=False)))


# --------------------------------------------------------------------------------------------------------- streamers


class Numbers:
    """A stand-in for a tokenizer: ids as words."""

    def decode(self, ids, **keywords):
        return "".join(f"{int(one)} " for one in np.atleast_1d(ids))


class Kept(list):
    """A list, false while it is empty: the model must not ask whether a streamer is true."""

    ended = 0

    def put(self, value):
        assert not self.ended
        self.append(value)

    def end(self):
        self.ended += 1


def spoken(text, small):
    """A text's ids without padding."""
    inputs = small.processor(text)
    return inputs["input_ids"][inputs["attention_mask"].bool()].tolist()


def test_a_text_streamer_prints_ids_as_they_come(small, capsys):
    """A stock `TextStreamer` died on `Progress` tuples."""
    inputs = small.processor("the")
    out = small.model.generate(
        **inputs, seed=1, streamer=TextStreamer(Numbers(), skip_prompt=True), return_dict_in_generate=True, **LONG
    )
    assert capsys.readouterr().out.split() == [str(one) for one in out.semantic_tokens[0].tolist()]


def test_a_text_iterator_streamer_ends_with_the_stage(small):
    streamer = TextIteratorStreamer(Numbers(), timeout=0.0)
    ids = small.model.generate_semantic(**small.processor("the"), seed=1, streamer=streamer, **LONG)[0]
    assert [int(word) for word in "".join(streamer).split()] == [*spoken("the", small), *ids.tolist()]


@pytest.mark.parametrize("every", [1, 16])
def test_a_streamer_gets_the_prompt_the_ids_and_an_end(small, monkeypatch, every):
    monkeypatch.setattr(running, "LOOK_EVERY", every)
    streamer = Kept()
    inputs = small.processor("the")
    out = small.model.generate(
        **inputs, seed=2, max_new_tokens=60, streamer=streamer, return_dict_in_generate=True
    )  # it may stop early: what the streamer got is what the result holds
    assert streamer.ended == 1
    assert streamer[0].tolist() == [spoken("the", small)]
    assert all(one.shape == (1,) and one.dtype == torch.long for one in streamer[1:])
    assert torch.equal(torch.cat(streamer[1:]), out.semantic_tokens[0])


@pytest.mark.parametrize("overlap", [None, 0.2])
def test_a_stream_has_a_streamer_too(small, overlap):
    streamer = Kept()
    run = {"seed": 2, **LONG}
    list(small.model.stream(**small.processor("the"), streamer=streamer, overlap=overlap, **run))
    (wanted,) = small.model.generate_semantic(**small.processor("the"), **run)
    assert streamer.ended == 1
    assert torch.equal(torch.cat(streamer[1:]), wanted)


def test_the_coarse_stage_alone_streams_its_own_ids(small):
    streamer, ids = Kept(), torch.arange(25)
    (codes,) = small.model.generate_coarse([ids], seed=2, streamer=streamer)
    assert torch.equal(streamer[0], ids[None])
    assert torch.equal(torch.cat(streamer[1:]), small.model._vocabulary().flatten_codes(codes))
    assert streamer.ended == 1


def test_streamers_and_results_do_not_share_memory(small):
    class Spoiler(Kept):
        def put(self, value):
            value.zero_()

    inputs = small.processor("the")
    before = inputs["input_ids"].clone()
    (ids,) = small.model.generate_semantic(**inputs, seed=2, streamer=Spoiler(), **LONG)
    assert torch.equal(ids, small.model.generate_semantic(**inputs, seed=2, **LONG)[0])
    assert torch.equal(inputs["input_ids"], before)


def test_a_streamer_follows_one_row(small):
    with pytest.raises(ValueError, match=r"one row, got 3.*`progress`"):
        semantic(small, streamer=Kept())
    with pytest.raises(ValueError, match=r"one row, got 2"):
        small.model.generate(**small.processor("the"), num_return_sequences=2, streamer=Kept())
    with pytest.raises(ValueError, match=r"fine stage has no `streamer`.*`progress`"):
        fine(small, streamer=Kept())
    with pytest.raises(ValueError, match=r"`streamer=.*one text.*`progress`"):
        small.model.generate_many(["the"], processor=small.processor, streamer=Kept())
    with pytest.raises(TypeError, match=r"`put` and `end`.*`progress`"):
        small.model.generate(**small.processor("the"), streamer=print)
