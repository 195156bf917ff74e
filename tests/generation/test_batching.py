"""A sample never depends on its neighbors: batches against solo runs, rows without speech, windows, caller's data."""

import copy

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

import bark_hf
from bark_hf.engine import decoding
from bark_hf.generation import stages as generation_stages
from bark_hf.generation.options import FineOptions, SamplingOptions, SemanticOptions
from bark_hf.sampling import filter_logits

TEXTS = [
    "Hello world, this is the music.",
    "the",
    "你好世界 привет",
    "a second text",
    "with [laughter]",
    "Hmm…",
    "song song song song",
    "Hello world " * 25,
]
PRESETS = ["made/short", None, "made/long", "made/uint16", None, "made/int32", "made/short", None]
SEEDS = [3, 1, 4, 15, 9, 2, 6, 5]
EOS, CODES, WIDTH = 200, 64, 257  # of the small goldens


# ------------------------------------------------------------------- the comparison: equal, or a draw on the very edge


def record(monkeypatch):
    """Lists every draw from here on: {its uniform number: (scores, id, watched probability)}, in order.

    A row's numbers are its own and appear once, so they tell which draw of a batch is which draw of a solo run."""
    draws = {}

    def recording(scores, options, uniforms, watched=None):
        ids, p = decoding_pick(scores, options, uniforms, watched)
        flat, numbers = scores.flatten(0, -2), uniforms.flatten().tolist()
        watched_p = [None] * len(numbers) if p is None else p.flatten().tolist()
        for row, (number, one, p_one) in enumerate(zip(numbers, ids.flatten().tolist(), watched_p, strict=True)):
            if number:  # 0 fills up the rows that run past their end
                draws[number] = (lambda flat=flat, row=row: flat[row], one, p_one)
        return ids, p

    decoding_pick = decoding.pick
    monkeypatch.setattr(decoding, "pick", recording)
    monkeypatch.setattr(generation_stages, "pick", recording)
    return draws


def edge_distance(scores, number, options) -> float:
    """How far the draw is from turning out otherwise: to the nearest CDF edge, or the greedy margin."""
    if options.greedy:
        top = scores.double().topk(2).values
        return float(top[0] - top[1])
    scores = filter_logits(scores.float(), options.top_k, options.top_p).double()
    scores = scores / options.temperature if options.temperature is not None else scores
    return float((scores.softmax(-1).cumsum(-1) - number).abs().min())


def assert_explained(alone: dict, together: dict, options, tolerance=1e-4, edge=1e-5):
    """Two runs whose tokens differ must differ by rounding only.

    Up to the first difference both prefixes are the same ids, so the scores recorded there are what replaying the
    prefix in each run gives: they must agree within `tolerance`, and the draw must lie on an edge. Else it fails."""
    min_eos_p = getattr(options, "min_eos_p", None)
    for number, (scores, one, p) in alone.items():
        if number not in together:
            continue
        other_scores, other, other_p = together[number]
        stop, other_stop = (min_eos_p is not None and q is not None and q >= min_eos_p for q in (p, other_p))
        if one == other and stop == other_stop:
            continue
        scores, other_scores = scores(), other_scores()
        worst = (scores - other_scores).abs().max().item()
        assert worst <= tolerance * max(1.0, scores.abs().max().item()), f"the logits differ by {worst}"
        distance = abs(p - min_eos_p) if one == other else edge_distance(scores, number, options)
        assert distance < edge, f"the draws differ ({one}, {other}) but are {distance} away from an edge"
        return
    raise AssertionError("the tokens differ although no draw does")


def assert_same_rows(alone, together, draws_alone, draws_together, options):
    for row, (one, other) in enumerate(zip(alone, together, strict=True)):
        if not torch.equal(one, other):
            assert_explained(draws_alone[row], draws_together, options)


def drawn(scores, number, options):
    return decoding.pick(scores[None], options, torch.tensor([number]).double())[0].item()


def test_the_comparison_refuses_real_differences():
    options = SamplingOptions(temperature=0.7)
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    number = 0.5
    one = drawn(scores, number, options)
    with pytest.raises(AssertionError, match="away from an edge"):  # same logits, another id: a wrong random stream
        assert_explained({number: (lambda: scores, one, None)}, {number: (lambda: scores, one + 1, None)}, options)
    with pytest.raises(AssertionError, match="logits differ"):  # other logits: a neighbor leaks in
        assert_explained({number: (lambda: scores, one, None)}, {number: (lambda: scores.flip(0), 3, None)}, options)
    with pytest.raises(AssertionError, match="no draw does"):  # same draws, other tokens: rows swapped
        assert_explained({number: (lambda: scores, one, None)}, {number: (lambda: scores, one, None)}, options)
    with pytest.raises(AssertionError, match="no draw does"):  # none of its numbers were used: another seed
        assert_explained({number: (lambda: scores, one, None)}, {0.25: (lambda: scores, one, None)}, options)


def test_the_comparison_refuses_a_wrong_greedy_choice_and_a_wrong_stop():
    greedy = SamplingOptions(do_sample=False)
    scores = torch.tensor([1.0, 0.99, 0.0])
    with pytest.raises(AssertionError, match="away from an edge"):
        assert_explained({0.5: (lambda: scores, 0, None)}, {0.5: (lambda: scores, 1, None)}, greedy)
    options = SemanticOptions(min_eos_p=0.2)
    with pytest.raises(AssertionError, match="away from an edge"):
        assert_explained({0.5: (lambda: scores, 0, 0.19)}, {0.5: (lambda: scores, 0, 0.21)}, options)


def test_the_comparison_accepts_rounding_on_an_edge_only():
    options = SamplingOptions(temperature=1.0)
    scores = torch.tensor([0.5, 0.5]).log()
    moved = scores + torch.tensor([3e-7, -3e-7])
    number = 0.5 + 1e-7
    assert (drawn(scores, number, options), drawn(moved, number, options)) == (1, 0)
    assert_explained({number: (lambda: scores, 1, None)}, {number: (lambda: moved, 0, None)}, options)
    tie = torch.tensor([1.0, 1.0 + 1e-6])
    assert_explained(
        {0.5: (lambda: tie, 1, None)}, {0.5: (lambda: tie.flip(0), 0, None)}, SamplingOptions(do_sample=False)
    )
    stop = {0.5: (lambda: scores, 0, 0.2 - 1e-8)}, {0.5: (lambda: scores, 0, 0.2 + 1e-8)}
    assert_explained(*stop, SemanticOptions(min_eos_p=0.2))


def test_the_comparison_refuses_another_seed_of_the_real_model(small, monkeypatch):
    draws = []
    for seed in (1, 2):
        with monkeypatch.context() as patch:
            draws.append(record(patch))
            small.model.generate_semantic(**small.processor("the"), seed=seed, max_new_tokens=20)
    with pytest.raises(AssertionError):
        assert_explained(*draws, SemanticOptions())


def test_the_comparison_refuses_a_model_that_looks_at_its_neighbors(small, monkeypatch):
    """A batch whose logits are those of other rows must not pass."""
    inputs = small.processor(["the", "Hello world, this is the music."])
    draws = []
    for leak in (False, True):
        with monkeypatch.context() as patch:
            draws.append(record(patch))
            processor = LogitsProcessorList([lambda ids, scores, leak=leak: scores.flip(0) if leak else scores])
            small.model.generate_semantic(
                **inputs, seed=1, max_new_tokens=20, logits_processor=processor, allow_early_stop=False
            )
    with pytest.raises(AssertionError, match="logits differ"):
        assert_explained(*draws, SemanticOptions())


# ----------------------------------------------------------------------------------------------- eight against eight


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_a_batch_of_eight_equals_eight_solo_runs(small, monkeypatch, both_steps, sampled):
    """Different texts, voices (or none), lengths and seeds; every stage on the same input, then the audio."""
    model, processor = small.model, small.processor
    keywords = {"do_sample": sampled}
    voices = [processor.voice(name) for name in PRESETS]
    stages = {
        "semantic": (
            lambda rows, voices, seed: model.generate_semantic(
                torch.stack(rows), history_prompt=voices, seed=seed, max_duration=0.8, **keywords
            ),
            SemanticOptions,
        ),
        "coarse": (
            lambda rows, voices, seed: model.generate_coarse(rows, history_prompt=voices, seed=seed, **keywords),
            SamplingOptions,
        ),
        "fine": (
            lambda rows, voices, seed: model.generate_fine(rows, history_prompt=voices, seed=seed, **keywords),
            FineOptions,
        ),
    }
    rows = list(processor(TEXTS)["input_ids"])
    for name, (run, options_class) in stages.items():
        defaults = {"temperature": 0.5 if name == "fine" else 0.7}
        options = options_class(do_sample=sampled, **defaults)
        with monkeypatch.context() as patch:
            together_draws = record(patch)
            together = run(rows, voices, SEEDS)
        alone, alone_draws = [], []
        for row, voice, seed in zip(rows, voices, SEEDS, strict=True):
            with monkeypatch.context() as patch:
                alone_draws.append(record(patch))
                alone += run([row], [voice], [seed])
        assert_same_rows(alone, together, alone_draws, together_draws, options)
        assert len({tuple(one.flatten().tolist()) for one in together}) > 5, name
        rows = alone
    assert len({row.shape for row in rows}) > 1  # different lengths were in it
    for one, other in zip(model.decode_audio(rows), (model.decode_audio([row])[0] for row in rows), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "keywords",
    [{"do_sample": False}, {"semantic_temperature": 0.9, "coarse_top_k": 20, "top_p": 0.9, "fine_temperature": 0.7}],
    ids=["greedy", "sampled"],
)
def test_generate_of_a_batch_equals_generate_alone_on_committed_seeds(small, keywords):
    inputs = small.processor(TEXTS, voice_preset=PRESETS)
    run = {"max_duration": 1.0, "return_dict_in_generate": True, **keywords}
    together = small.model.generate(**inputs, seed=SEEDS, **run)
    for row, (text, preset, seed) in enumerate(zip(TEXTS, PRESETS, SEEDS, strict=True)):
        alone = small.model.generate(**small.processor(text, voice_preset=preset), seed=seed, **run)
        assert torch.equal(together.semantic_tokens[row], alone.semantic_tokens[0])
        assert torch.equal(together.coarse_codes[row], alone.coarse_codes[0])
        assert torch.equal(together.fine_codes[row], alone.fine_codes[0])
        length = int(together.audio_lengths[row])
        assert length == alone.audio.shape[1] == 320 * alone.fine_codes[0].shape[1]
        torch.testing.assert_close(together.audio[row, :length], alone.audio[0], atol=1e-5, rtol=0)
        assert (together.audio[row, length:] == 0).all()


def test_permuting_the_batch_permutes_the_results(small):
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    run = {"max_duration": 0.6, "return_dict_in_generate": True}
    first = small.model.generate(**small.processor(TEXTS, voice_preset=PRESETS), seed=SEEDS, **run)
    texts, presets, seeds = ([given[i] for i in order] for given in (TEXTS, PRESETS, SEEDS))
    second = small.model.generate(**small.processor(texts, voice_preset=presets), seed=seeds, **run)
    assert second.audio_lengths.tolist() == first.audio_lengths[order].tolist()
    for row, old in enumerate(order):
        assert torch.equal(second.semantic_tokens[row], first.semantic_tokens[old])
        assert torch.equal(second.fine_codes[row], first.fine_codes[old])


def test_a_batch_of_one_equals_one_dimensional_ids(small):
    inputs = small.processor("Hello world", voice_preset="made/short")
    run = {"seed": 1, "max_new_tokens": 9}
    audio = small.model.generate(**inputs, **run)
    flat = small.model.generate(
        inputs["input_ids"][0], inputs["history_prompt"], attention_mask=inputs["attention_mask"][0], **run
    )
    assert audio.shape == flat.shape
    assert torch.equal(audio, flat)


def test_one_voice_for_all_equals_a_list_of_it(small):
    voice = small.processor.voice("made/int32")
    inputs = small.processor(TEXTS[:3])
    one = small.model.generate_semantic(**inputs, history_prompt=voice, seed=1, max_new_tokens=9)
    many = small.model.generate_semantic(**inputs, history_prompt=[voice] * 3, seed=1, max_new_tokens=9)
    assert all(map(torch.equal, one, many))


# ------------------------------------------------------------------------------------------------- rows without speech


def ends_at_once(rows):
    """A logits processor that makes EOS certain at the first step of the given rows."""

    def process(ids, scores):
        scores = scores.clone()
        if ids.shape[1] == 0 and scores.shape[1] == 248:
            scores[rows] = -torch.inf
            scores[rows, EOS] = 0.0
        return scores

    return LogitsProcessorList([process])


def test_a_row_that_ends_at_once_is_empty_and_warned_of_and_the_rest_is_intact(small):
    inputs = small.processor(TEXTS[:3], voice_preset=PRESETS[:3])
    run = {"seed": 1, "max_new_tokens": 12, "return_dict_in_generate": True}
    whole = small.model.generate(**inputs, **run)
    with pytest.warns(UserWarning, match=r"text \[1\]"):
        out = small.model.generate(**inputs, logits_processor=ends_at_once([1]), **run)
    assert [tuple(codes.shape) for codes in (out.coarse_codes[1], out.fine_codes[1])] == [(2, 0), (8, 0)]
    assert out.semantic_tokens[1].shape == (0,)
    assert out.audio_lengths[1] == 0
    assert (out.audio[1] == 0).all()
    for row in (0, 2):
        assert torch.equal(out.fine_codes[row], whole.fine_codes[row])
    with pytest.raises(ValueError, match="voice"):
        out.voice(1)


def test_all_rows_may_end_at_once(small):
    inputs = small.processor(TEXTS[:2])
    with pytest.warns(UserWarning, match=r"text \[0, 1\]"):
        audio, lengths = small.model.generate(**inputs, min_eos_p=0.0, seed=1, return_output_lengths=True)
    assert audio.shape == (2, 0)
    assert lengths.tolist() == [0, 0]
    assert audio.dtype == torch.float32


def test_stages_pass_empty_rows_through(small):
    model = small.model
    semantic = [torch.zeros(0, dtype=torch.long), torch.tensor([1, 2, 3])]
    coarse = model.generate_coarse(semantic, seed=[8, 1])
    assert [one.shape for one in coarse] == [(2, 0), (2, 4)]
    assert torch.equal(coarse[1], model.generate_coarse(semantic[1:], seed=[1])[0])
    fine = model.generate_fine(coarse, seed=[8, 1])
    assert [one.shape for one in fine] == [(8, 0), (8, 4)]
    assert [wave.shape for wave in model.decode_audio(fine)] == [(0,), (4 * 320,)]
    assert model.decode_audio(fine[:1])[0].shape == (0,)


# ------------------------------------------------------------------------------------------------- windows and lengths


def semantic_rows(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 200, (length,), generator=generator) for length in lengths]


def test_coarse_rows_of_any_length_are_what_they_are_alone(small):
    """Rows end in the middle of their neighbors' windows; histories and the sliding window are on and off."""
    rows = semantic_rows(1, 2, 11, 19, 20, 21, 90, 230)
    voices = [None, small.processor.voice("made/long"), None, small.processor.voice("made/short")] * 2
    together = small.model.generate_coarse(rows, history_prompt=voices, seed=SEEDS)
    for i, row in enumerate(rows):
        alone = small.model.generate_coarse([row], history_prompt=[voices[i]], seed=[SEEDS[i]])[0]
        assert torch.equal(together[i], alone)
        assert together[i].shape == (2, int(len(row) * 75 / 49.9))


@pytest.mark.parametrize("window", [1, 7, 60])
def test_codebook_parity_is_global_in_windows_of_any_length(small, window):
    """transformers counts parity from the window's start: an odd window swaps codebooks; odd steps may draw pads."""
    seen = []

    def watch(ids, scores):
        legal = torch.isfinite(scores)
        first = 200 + ids.shape[1] % 2 * CODES
        assert legal[:, first : first + CODES].all()
        assert legal.sum() == len(scores) * CODES
        seen.append(ids.shape[1])
        return scores

    rows = semantic_rows(15, 9)
    codes = small.model.generate_coarse(
        rows, seed=1, temperature=5.0, sliding_window_len=window, logits_processor=LogitsProcessorList([watch])
    )
    assert seen == list(range(44))
    assert [one.shape for one in codes] == [(2, 22), (2, 13)]
    assert all(0 <= one.min() <= one.max() < CODES for one in codes)
    alone = small.model.generate_coarse(rows[1:], seed=2, temperature=5.0, sliding_window_len=window)
    assert torch.equal(codes[1], alone[0])


@pytest.mark.parametrize(("limit", "frames"), [(1, 0), (2, 1), (9, 4), (10, 5), (1000, 22)])
def test_coarse_max_new_tokens_cuts_to_whole_frames(small, limit, frames):
    rows = semantic_rows(15)
    whole = small.model.generate_coarse(rows, do_sample=False)[0]
    assert torch.equal(small.model.generate_coarse(rows, do_sample=False, max_new_tokens=limit)[0], whole[:, :frames])


def test_fine_rows_of_several_windows_go_together_with_short_ones(small):
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(0, CODES, (2, length), generator=generator) for length in (1, 1030, 40, 1300)]
    voices = [None, small.processor.voice("made/long"), small.processor.voice("made/short"), None]
    together = small.model.generate_fine(rows, history_prompt=voices, seed=SEEDS[:4])
    for i, row in enumerate(rows):
        alone = small.model.generate_fine([row], history_prompt=[voices[i]], seed=[SEEDS[i]])[0]
        assert torch.equal(together[i], alone)
        assert together[i].shape == (8, row.shape[1])
        assert torch.equal(together[i][:2], row)
        assert 0 <= together[i].min() <= together[i].max() < CODES  # never the pad


def test_codec_batches_equal_solo_decodes_at_every_short_length(small):
    """The LSTM and the reflecting convolution would both see a pad; one frame is less than the reflection needs."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, CODES, (8, length), generator=generator) for length in [*range(1, 9), 3, 30, 1, 30]]
    together = small.model.decode_audio(rows)
    for row, wave in zip(rows, together, strict=True):
        assert wave.shape == (320 * row.shape[1],)
        assert wave.dtype == torch.float32
        torch.testing.assert_close(wave, small.model.decode_audio([row])[0], atol=1e-6, rtol=0)


def test_stacked_tensors_are_batches(small):
    codes = torch.randint(0, CODES, (3, 2, 5))
    assert all(
        map(torch.equal, small.model.generate_fine(codes, seed=1), small.model.generate_fine(list(codes), seed=1))
    )
    assert torch.equal(small.model.generate_fine(codes[0], seed=1)[0], small.model.generate_fine(codes, seed=1)[0])


# --------------------------------------------------------------------------------------------------- the caller's data


def test_callers_tensors_and_dicts_are_not_changed(small):
    """transformers pads and offsets the caller's ids and voices in place."""
    model = small.model
    inputs = dict(small.processor(TEXTS[:2], voice_preset=PRESETS[:2]))
    before = copy.deepcopy(inputs)
    out = model.generate(**inputs, seed=1, max_new_tokens=12, return_dict_in_generate=True)
    tokens = {"semantic": out.semantic_tokens, "coarse": out.coarse_codes, "fine": out.fine_codes}
    kept = copy.deepcopy(tokens)
    model.generate_semantic(**inputs, seed=1, max_new_tokens=3)
    model.generate_coarse(tokens["semantic"], history_prompt=inputs["history_prompt"], seed=1)
    model.generate_fine(tokens["coarse"], history_prompt=inputs["history_prompt"], seed=1)
    model.decode_audio(tokens["fine"])
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(inputs[name], before[name])
        assert inputs[name].dtype == before[name].dtype
    assert inputs.keys() == before.keys()
    assert len(inputs["history_prompt"]) == 2
    assert inputs["history_prompt"][0].keys() == before["history_prompt"][0].keys()
    for key, array in inputs["history_prompt"][0].items():
        assert torch.equal(array, before["history_prompt"][0][key])
    assert all(torch.equal(a, b) for name in tokens for a, b in zip(tokens[name], kept[name], strict=True))


def test_callers_options_are_not_changed(small):
    seeds, config = [4, 2], small.model.generation_config.to_dict()
    caller = bark_hf.BarkGenerationConfig(semantic_config={"temperature": 0.4})
    before = caller.to_dict()
    small.model.generate_semantic(
        **small.processor(TEXTS[:2]), seed=seeds, generation_config=caller, max_new_tokens=2, top_k=7
    )
    assert seeds == [4, 2]
    assert caller.to_dict() == before
    assert small.model.generation_config.to_dict() == config


# -------------------------------------------------------------------------------------- logits processors and progress


class Forbid:
    """Forbids one id, and keeps what it saw."""

    def __init__(self, *ids):
        self.ids, self.seen = list(ids), []

    def __call__(self, input_ids, scores):
        self.seen.append((input_ids.clone(), torch.isfinite(scores)))
        scores = scores.clone()
        scores[:, self.ids] = -torch.inf
        return scores


def test_semantic_logits_processor_sees_ids_and_legal_scores_and_is_obeyed(small):
    inputs = small.processor(TEXTS[:3])
    plain = small.model.generate_semantic(**inputs, do_sample=False, max_new_tokens=8, allow_early_stop=False)
    forbidden = plain[1][3].item()
    spy = Forbid(forbidden)
    tokens = small.model.generate_semantic(
        **inputs,
        do_sample=False,
        max_new_tokens=8,
        allow_early_stop=False,
        logits_processor=LogitsProcessorList([spy]),
    )
    assert forbidden not in torch.cat(tokens)
    assert len(spy.seen) == 8
    for step, (ids, legal) in enumerate(spy.seen):
        assert torch.equal(ids, torch.stack(tokens)[:, :step])
        assert ids.dtype == torch.long
        assert legal.shape == (3, 248)
        assert legal[:, :200].all()
        assert not legal[:, 200:].any()


def test_coarse_logits_processor_sees_the_ids_of_earlier_windows(small):
    rows = semantic_rows(20, 30)
    first = small.model.generate_coarse(rows, do_sample=False)
    spy = Forbid(200 + int(first[0][0, 1]), 200 + CODES + int(first[1][1, 2]))
    codes = small.model.generate_coarse(
        rows,
        history_prompt=[None, small.processor.voice("made/short")],
        seed=1,
        logits_processor=LogitsProcessorList([spy]),
    )
    assert int(first[0][0, 1]) not in torch.cat([one[0] for one in codes])
    assert int(first[1][1, 2]) not in torch.cat([one[1] for one in codes])
    ids = codes[1] + torch.tensor([[200], [200 + CODES]])
    assert len(spy.seen) == 90
    for step, (seen, legal) in enumerate(spy.seen):
        assert torch.equal(seen[-1], ids.t().flatten()[:step])  # the long row goes on when the short one is done
        assert len(seen) == (2 if step < 60 else 1)
        assert legal.sum(-1).tolist() == [CODES] * len(seen)


def test_fine_logits_processor_sees_a_frame_as_a_row(small):
    codes = [torch.randint(0, CODES, (2, 5))]
    first = small.model.generate_fine(codes, do_sample=False)[0]
    spy = Forbid(int(first[4, 2]))
    fine = small.model.generate_fine(codes, do_sample=False, logits_processor=LogitsProcessorList([spy]))[0]
    assert int(first[4, 2]) not in fine[2:]
    assert len(spy.seen) == 6
    for codebook, (ids, legal) in enumerate(spy.seen, start=2):
        assert ids.shape == (1024, codebook)
        assert torch.equal(ids[:5], fine.t()[:, :codebook])
        assert legal[:, :CODES].all()
        assert not legal[:, CODES:].any()


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("value", [-torch.inf, torch.nan, torch.inf])
def test_a_logits_processor_that_leaves_nothing_to_draw_is_an_error(small, sampled, value):
    """The draw would give an id past the legal ones, the argmax the first of them."""
    nothing = {
        "logits_processor": LogitsProcessorList([lambda ids, scores: torch.full_like(scores, value)]),
        "do_sample": sampled,
    }
    with pytest.raises(ValueError, match="left no id to draw"):
        small.model.generate_semantic(**small.processor("the"), **nothing)
    with pytest.raises(ValueError, match="200 to 263"):
        small.model.generate_coarse([torch.arange(3)], **nothing)
    with pytest.raises(ValueError, match="0 to 63"):
        small.model.generate_fine([torch.zeros(2, 3, dtype=torch.long)], **nothing)


def test_what_progress_gets_may_be_kept_and_changed(small):
    kept = []
    inputs = small.processor(TEXTS[:2])
    wanted = small.model.generate_semantic(**inputs, seed=1, max_new_tokens=9)
    run = {"seed": 1, "max_new_tokens": 9}
    small.model.generate_semantic(**inputs, **run, progress=lambda one: kept.append((one.ids, one.ids.clone())))
    assert all(torch.equal(ids, then) for ids, then in kept)
    spoilt = small.model.generate_semantic(**inputs, **run, progress=lambda one: one.ids.zero_())
    assert all(map(torch.equal, spoilt, wanted))


def test_progress_rises_in_every_stage(small):
    told = []
    small.model.generate(**small.processor(TEXTS[:2]), seed=1, max_new_tokens=25, progress=told.append)
    assert all(isinstance(one, bark_hf.Progress) for one in told)
    stages = [one.stage for one in told]
    assert list(dict.fromkeys(stages)) == ["semantic", "coarse", "fine", "codec"]
    for stage in set(stages):
        done = [one.done for one in told if one.stage == stage]
        totals = {one.total for one in told if one.stage == stage}
        assert done == list(range(1, len(done) + 1))
        assert len(totals) == 1
        assert done[-1] <= totals.pop()
    for one in told:
        assert one.ids is None or one.ids.shape == (2,)


def test_progress_of_a_single_stage(small):
    model = small.model
    runs = {
        "semantic": lambda put: model.generate_semantic(**small.processor("the"), max_new_tokens=3, progress=put),
        "coarse": lambda put: model.generate_coarse(semantic_rows(3), progress=put),
        "fine": lambda put: model.generate_fine([torch.zeros(2, 3, dtype=torch.long)], progress=put),
    }
    for stage, run in runs.items():
        told = []
        run(told.append)
        assert {one.stage for one in told} == {stage}


def test_progress_knows_the_duration_limit(small):
    told = []
    inputs = small.processor("the")
    small.model.generate_semantic(**inputs, max_duration=0.2, allow_early_stop=False, progress=told.append)
    assert told[-1].done == told[-1].total == 10


# ------------------------------------------------------------------------------------------------------------- results


def test_output_has_names_and_its_voices_make_a_round_trip(small, tmp_path):
    inputs = small.processor(TEXTS[:2], voice_preset=PRESETS[:2])
    run = {"seed": [7, 9], "max_new_tokens": 20, "allow_early_stop": False}
    out = small.model.generate(**inputs, return_dict_in_generate=True, **run)
    audio, lengths = small.model.generate(**inputs, return_output_lengths=True, **run)
    assert torch.equal(out.audio, audio)
    assert torch.equal(out.audio_lengths, lengths)
    assert torch.equal(out["audio"], out.audio)
    assert out.seeds == [7, 9]
    assert out.sampling_rate == 24_000
    assert out.audio.dtype == torch.float32
    for row in range(2):
        frames = 30
        assert out.semantic_tokens[row].shape == (20,)
        assert out.semantic_tokens[row].dtype == torch.long
        assert out.coarse_codes[row].shape == (2, frames)
        assert out.fine_codes[row].shape == (8, frames)
        assert torch.equal(out.fine_codes[row][:2], out.coarse_codes[row])
        assert out.audio_lengths[row] == 320 * frames
        voice = out.voice(row)
        voice.save(tmp_path / f"{row}.npz")
        again = bark_hf.Voice.load(tmp_path / f"{row}.npz")
        assert again == voice
        np.testing.assert_array_equal(again.fine_prompt, out.fine_codes[row].numpy())
        small.model.generate(**small.processor("the", voice_preset=again), seed=1, max_new_tokens=2)


@pytest.mark.parametrize("length", [1, 3, 5, 7, 9])
def test_results_too_short_for_a_voice_say_so(small, length):
    out = small.model.generate(
        **small.processor("the"), seed=1, max_new_tokens=length, allow_early_stop=False, return_dict_in_generate=True
    )
    with pytest.raises(ValueError, match=r"at least 2 semantic ids|same stretch"):
        out.voice(0)
