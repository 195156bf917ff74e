"""Filters, draws, random streams and stops: each against the original's probabilities or a case built by hand."""

import copy
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LogitsProcessorList, set_seed

from bark_hf import sampling
from bark_hf.engine import decoding
from bark_hf.engine.decoding import choose, pick
from bark_hf.generation.options import FineOptions, SamplingOptions, SemanticOptions
from bark_hf.sampling import MAX_SEED, draw, filter_logits, probabilities, random_stream, row_seeds, uniforms

DRAWS = 20_000


def logits_of(*probs):
    return torch.tensor(probs).log()


def kept(logits, **filters):
    return torch.isfinite(filter_logits(logits, **filters)).nonzero().flatten().tolist()


# ------------------------------------------------------------------------------------------------------ filters


@pytest.mark.parametrize(
    ("top_p", "wanted"),
    [
        (0.5, [0, 1]),
        (0.39, [0]),
        (0.71, [0, 1, 2]),
        (1e-9, [0]),
        (0.95, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
        (None, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_id_that_crosses_it_and_at_least_one(top_p, wanted):
    assert kept(logits_of(0.4, 0.3, 0.2, 0.1), top_p=top_p) == wanted


def test_top_p_is_a_strict_threshold_on_the_mass_before():
    """0.5 of 0.5 + 0.25 + 0.25: the mass before the second id does not exceed 0.5, so it stays."""
    assert kept(logits_of(0.5, 0.25, 0.125, 0.125), top_p=0.5) == [0, 1]
    assert kept(logits_of(0.5, 0.25, 0.125, 0.125), top_p=0.75) == [0, 1, 2]


def test_top_p_follows_likelihood_not_position():
    assert kept(logits_of(0.1, 0.3, 0.2, 0.4), top_p=0.5) == [1, 3]


@pytest.mark.parametrize(
    ("top_k", "wanted"),
    [
        (1, [2]),
        (2, [0, 2, 3]),
        (3, [0, 2, 3]),
        (4, [0, 1, 2, 3, 4]),
        (99, [0, 1, 2, 3, 4]),
        (None, [0, 1, 2, 3, 4]),
        (0, [0, 1, 2, 3, 4]),
    ],
)
def test_top_k_keeps_ties_with_the_kth(top_k, wanted):
    assert kept(torch.tensor([2.0, 1.0, 3.0, 2.0, 1.0]), top_k=top_k) == wanted


def test_top_p_comes_before_top_k():
    """top-k first would renormalize 0.35 + 0.3 to 0.54 + 0.46, and top-p 0.5 would then drop the second id."""
    logits = logits_of(0.35, 0.3, 0.2, 0.15)
    assert kept(logits, top_k=2, top_p=0.5) == [0, 1]
    assert kept(filter_logits(logits, top_k=2), top_p=0.5) == [0]


def test_filters_act_before_the_temperature():
    """A temperature of 0.25 first gives 0.83, 0.16, ...; top-p 0.7 would then keep one id instead of three."""
    logits = logits_of(0.45, 0.3, 0.25)
    assert (probabilities(logits, temperature=0.25, top_p=0.7) > 0).tolist() == [True, True, False]
    assert kept(logits / 0.25, top_p=0.7) == [0]


def test_filters_work_on_every_row_and_leave_the_input_alone():
    logits = torch.randn(3, 5, 40)
    before = logits.clone()
    together = probabilities(logits, 0.8, 10, 0.7)
    alone = torch.stack([probabilities(row, 0.8, 10, 0.7) for row in logits.flatten(0, 1)]).view_as(logits)
    torch.testing.assert_close(together, alone)
    assert torch.equal(logits, before)


# ------------------------------------------------------------------------------------------------ drawn frequencies


def merged(counts, expected):
    """Bins whose expected count is under 5 go together, into the smallest other bin if need be."""
    order = np.argsort(expected)
    counts, expected = counts[order], expected[order]
    small = max(1, int(np.searchsorted(np.cumsum(expected), 5)) + 1, int((expected < 5).sum()))
    bins = np.maximum(np.arange(len(expected)) - small + 1, 0)
    return np.bincount(bins, counts), np.bincount(bins, expected)


def p_value(ids, probs):
    """The chance of frequencies that far from `probs`; ids of probability 0 must not be among them."""
    probs = np.asarray(probs, dtype=np.float64)
    counts = np.bincount(ids.numpy(), minlength=len(probs))
    assert counts[probs == 0].sum() == 0
    expected = probs[probs > 0] / probs.sum() * counts.sum()
    if len(expected) == 1:
        return 1.0
    return chisquare(*merged(counts[probs > 0], expected)).pvalue


def golden_case(small, case):
    legal = small.manifest["constants"]["semantic_vocab_size"] + case.get("allow_early_stop", True)
    filters = {"top_k": case.get("top_k"), "top_p": case.get("top_p")}
    return torch.from_numpy(small.arrays["probs/logits"])[:legal], filters, small.arrays[case["key"]]


def drawn(logits, temperature, filters, seed=1):
    noise = uniforms(random_stream(seed, "semantic"), DRAWS)
    options = SamplingOptions(temperature=temperature, **filters)
    return pick(logits.expand(DRAWS, -1), options, noise)[0]


@pytest.mark.parametrize("index", range(8))
def test_drawn_frequencies_match_the_originals_probabilities(small, index):
    case = small.cases("probs")[index]
    logits, filters, probs = golden_case(small, case)
    assert p_value(drawn(logits, case["temp"], filters), probs) > 1e-3


def test_the_frequency_test_rejects_other_temperatures_and_filters(small):
    """The test above can fail: each wrong setting is refused by it, or draws what has probability 0."""
    logits, filters, probs = golden_case(small, small.cases("probs")[0])
    assert filters == {"top_k": None, "top_p": None}
    for temperature in (0.65, 0.75, 1.0):
        assert p_value(drawn(logits, temperature, {}), probs) < 1e-6
    _, _, nucleus = golden_case(small, small.cases("probs")[3])
    assert p_value(drawn(logits, 0.7, {"top_p": 0.8}), nucleus) < 1e-6
    with pytest.raises(AssertionError):
        p_value(drawn(logits, 0.7, {}), nucleus)


def test_ids_of_probability_zero_are_never_drawn():
    """Both ends of the uniform range, where a cumulative sum is flat or rounds up to its total."""
    probs = torch.tensor([[0.0, 0.0, 0.1, 0.0, 0.2, 0.7, 0.0, 0.0]])
    edges = torch.tensor([0.0, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(probs.expand(4, -1), edges).tolist() == [2, 2, 5, 5]
    single = torch.zeros(4, 1000)
    single[:, 700] = 1.0
    assert draw(single, edges).tolist() == [700] * 4


def test_uniforms_at_the_ends_stay_inside_any_distribution():
    probs = torch.randn(50, 10_001).mul(3).softmax(-1)
    assert draw(probs, torch.full((50,), 1 - 2.0**-53, dtype=torch.float64)).max() <= 10_000
    assert torch.equal(draw(probs, torch.zeros(50, dtype=torch.float64)), torch.zeros(50, dtype=torch.long))


def test_a_draw_inverts_the_cumulative_distribution():
    probs = torch.tensor([0.25, 0.25, 0.5]).expand(6, -1)
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.4999, 0.5, 0.9999], dtype=torch.float64)
    assert draw(probs, numbers).tolist() == [0, 0, 1, 1, 2, 2]


# --------------------------------------------------------------------------------------------------- random streams


def test_streams_repeat_and_differ_by_seed_and_stage():
    first = {
        (seed, stage): uniforms(random_stream(seed, stage), 100)
        for seed in (0, 1, 2, 2**32, MAX_SEED)
        for stage in ("semantic", "coarse", "fine")
    }
    for (seed, stage), numbers in first.items():
        assert torch.equal(numbers, uniforms(random_stream(seed, stage), 100))
        assert numbers.dtype == torch.float64
        assert 0 <= numbers.min() <= numbers.max() < 1
    assert len({tuple(numbers.tolist()) for numbers in first.values()}) == len(first)


def test_streams_of_neighboring_seeds_are_uncorrelated():
    streams = torch.stack([uniforms(random_stream(seed, "fine"), 4000) for seed in range(8)])
    correlations = torch.corrcoef(streams) - torch.eye(8)
    assert correlations.abs().max() < 0.07  # 4.4 standard deviations of 4000 numbers


def test_a_longer_stream_begins_with_the_shorter_one():
    """Otherwise a row's draws would depend on how many its neighbors need."""
    assert torch.equal(uniforms(random_stream(3, "coarse"), 50), uniforms(random_stream(3, "coarse"), 900)[:50])


def test_row_seeds_rules():
    assert row_seeds(3, 5) == [5, 6, 7]
    assert row_seeds(3, [9, 0, 9]) == [9, 0, 9]
    assert row_seeds(2, (np.int64(4), 2)) == [4, 2]
    assert row_seeds(2, np.int64(4)) == [4, 5]
    assert row_seeds(2, MAX_SEED) == [MAX_SEED, 0]
    a, b = (row_seeds(4, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert a == b
    assert len(set(a)) == 4


@pytest.mark.parametrize(
    "seed", [-1, 2**63, 1.0, "1", True, [1], [1, 2, 3], [1, None], [1, -1], [True, 1], {}, torch.tensor(1)]
)
def test_row_seeds_refuses(seed):
    with pytest.raises(ValueError, match="seed"):
        row_seeds(2, seed)


def test_seed_and_generator_together_are_an_error():
    with pytest.raises(ValueError, match="not both"):
        row_seeds(1, 1, torch.Generator())


def test_generator_must_be_a_generator():
    with pytest.raises(TypeError, match="generator"):
        row_seeds(1, None, "cpu")


# ------------------------------------------------------------------------------------------------- stops and limits


def first_step(logits, options, number=0.5, eos=None, min_eos_p=None):
    options = SemanticOptions(**{**asdict(options), "min_eos_p": min_eos_p})
    return choose(logits[None], 0, options, torch.tensor([number]).double(), eos)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=None),
        SamplingOptions(temperature=0.6),
        SamplingOptions(temperature=1.4, top_k=3),
        SamplingOptions(temperature=0.8, top_p=0.75),
    ],
)
def test_min_eos_p_stops_exactly_where_the_drawn_distribution_reaches_it(options):
    """transformers measures p(EOS) before the filters and with `>`; the original after them and with `>=`."""
    logits = logits_of(0.4, 0.25, 0.05, 0.05, 0.25)
    p = probabilities(logits, options.temperature, options.top_k, options.top_p)[4].numpy()
    for threshold, stops in (
        (p, True),
        (np.nextafter(p, np.float32(0)), True),
        (np.nextafter(p, np.float32(1)), False),
    ):
        step = first_step(logits, options, number=0.1, eos=4, min_eos_p=float(threshold))
        assert step.ids.item() == 0  # not EOS: only the probability stops
        assert step.stopped.item() is stops


def test_min_eos_p_is_measured_after_filters_and_temperature():
    logits = logits_of(0.5, 0.1, 0.1, 0.1, 0.2)
    plain = logits.softmax(-1)[4].item()
    cold = probabilities(logits, 0.5)[4].item()
    nucleus = probabilities(logits, None, None, 0.55)[4].item()
    assert cold < plain < nucleus
    cases = ((SamplingOptions(temperature=0.5), cold), (SamplingOptions(temperature=None, top_p=0.55), nucleus))
    for options, p in cases:
        between = (plain + p) / 2
        assert first_step(logits, options, 0.1, eos=4, min_eos_p=between).stopped.item() is (p > between)


def test_drawn_eos_stops_without_a_threshold():
    logits = logits_of(0.5, 0.5)
    for number, stops in ((0.25, False), (0.75, True)):
        assert first_step(logits, SamplingOptions(temperature=None), number, eos=1).stopped.item() is stops


def test_greedy_p_of_eos_is_zero_or_one():
    """As at temperature 1e-6: a p(EOS) of 0.4 that is not the largest does not stop greedy decoding."""
    options = SamplingOptions(do_sample=False)
    assert not first_step(logits_of(0.6, 0.4), options, eos=1, min_eos_p=0.2).stopped
    assert first_step(logits_of(0.4, 0.6), options, eos=1, min_eos_p=0.2).stopped


def test_the_result_ends_before_the_id_that_stopped(small):
    """p(EOS) is forced to 0.3 at step 5 and 0 elsewhere: five ids, with `min_eos_p` at most 0.3 only."""
    eos = small.manifest["constants"]["semantic_pad_token"]

    def at_step_five(ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        scores[:, 7] = np.log(0.7)
        if ids.shape[1] == 5:
            scores[:, eos] = np.log(0.3)
        return scores

    options = {"temperature": 1.0, "max_new_tokens": 9, "logits_processor": LogitsProcessorList([at_step_five])}
    inputs = small.processor("Hello world")
    seeds = [s for s in range(40) if uniforms(random_stream(s, "semantic"), 6)[5] < 0.6]  # these draw 7 there
    for threshold, length in ((0.29, 5), (0.31, 9), (None, 9)):
        tokens = small.model.generate_semantic(**inputs, seed=seeds[:1], min_eos_p=threshold, **options)[0]
        assert tokens.tolist() == [7] * length
    drawn_eos = [s for s in range(40) if uniforms(random_stream(s, "semantic"), 6)[5] > 0.75][:1]
    tokens = small.model.generate_semantic(**inputs, seed=drawn_eos, min_eos_p=None, **options)[0]
    assert tokens.tolist() == [7] * 5


def test_without_early_stop_eos_is_neither_drawn_nor_a_reason_to_stop(small):
    eos = small.manifest["constants"]["semantic_pad_token"]

    def likes_eos(ids, scores):
        assert torch.isinf(scores[:, eos:]).all()
        scores = scores.clone()
        scores[:, eos] = 50.0
        return scores

    tokens = small.model.generate_semantic(
        **small.processor("Hello world"),
        allow_early_stop=False,
        max_new_tokens=60,
        min_eos_p=0.0,
        seed=0,
        logits_processor=LogitsProcessorList([likes_eos]),
    )[0]
    assert len(tokens) == 60
    assert tokens.max() < eos


def test_ten_seconds_are_499_ids(small):
    inputs = small.processor("Hello world")
    tokens = small.model.generate_semantic(**inputs, allow_early_stop=False, max_duration=10.0, do_sample=False)[0]
    assert len(tokens) == 499


def test_the_shorter_of_both_limits_holds(small):
    inputs = small.processor("Hello world")
    limits = {"max_duration": 0.5, "max_new_tokens": 7}
    assert len(small.model.generate_semantic(**inputs, allow_early_stop=False, seed=0, **limits)[0]) == 7
    limits = {"max_duration": 0.5, "max_new_tokens": 700}
    assert len(small.model.generate_semantic(**inputs, allow_early_stop=False, seed=0, **limits)[0]) == 25


# --------------------------------------------------------------------------------------------------- temperatures


def test_greedy_is_the_limit_of_temperature_zero():
    logits = torch.randn(200, 64)
    noise = torch.rand(200, dtype=torch.float64)
    greedy = logits.argmax(-1)
    for options in (
        SamplingOptions(do_sample=False),
        SamplingOptions(temperature=0),
        SamplingOptions(temperature=1e-6),
    ):
        assert torch.equal(pick(logits, options, noise)[0], greedy)


@pytest.mark.parametrize("temperature", [1e-7, 1e-38, 1e-45, 5e-324])
def test_tiny_temperatures_do_not_overflow(temperature):
    """logits / 1e-38 is infinite and its softmax NaN, which an inverse CDF turns into an id past the end."""
    logits = torch.tensor([[1.0, 30.0, 2.0]])
    assert pick(logits, SamplingOptions(temperature=temperature), torch.tensor([0.9]).double())[0].item() == 1


@pytest.mark.parametrize("temperature", [float("inf"), float("nan"), 1e308, -0.1])
def test_temperatures_that_are_no_number_to_divide_by_are_refused(temperature):
    """-inf / inf is NaN."""
    with pytest.raises(ValueError, match="temperature"):
        SamplingOptions(temperature=temperature)


def test_temperature_none_is_off_for_the_causal_stages_and_argmax_for_fine():
    logits, noise = torch.zeros(1000, 2), torch.rand(1000, dtype=torch.float64)
    assert 300 < pick(logits, SemanticOptions(temperature=None), noise)[0].sum() < 700
    assert pick(logits, FineOptions(temperature=None), noise)[0].sum() == 0


def test_fine_temperature_one_samples(small):
    """transformers takes a fine temperature of 1.0 (and None) for argmax, and crashes at 0."""
    codes = [torch.randint(0, 64, (2, 30))]
    argmax = small.model.generate_fine(codes, do_sample=False)[0]
    assert torch.equal(small.model.generate_fine(codes, temperature=None, seed=1)[0], argmax)
    assert torch.equal(small.model.generate_fine(codes, temperature=0, seed=1)[0], argmax)
    sampled = small.model.generate_fine(codes, temperature=1.0, seed=1)[0]
    assert not torch.equal(sampled, argmax)
    assert torch.equal(sampled, small.model.generate_fine(codes, temperature=1.0, seed=1)[0])
    assert torch.equal(sampled[:2], codes[0])


# ------------------------------------------------------------------------------------------------ seeds of generate

SHORT = {"max_new_tokens": 12, "allow_early_stop": False}


def test_generate_equals_the_three_stage_calls_with_its_seed(small):
    model = small.model
    inputs = small.processor(["Hello world", "this is the music"], voice_preset=["made/short", None])
    out = model.generate(**inputs, seed=11, return_dict_in_generate=True, **SHORT)
    semantic = model.generate_semantic(**inputs, seed=11, **SHORT)
    coarse = model.generate_coarse(semantic, history_prompt=inputs["history_prompt"], seed=11)
    fine = model.generate_fine(coarse, history_prompt=inputs["history_prompt"], seed=11)
    assert out.seeds == [11, 12]
    for whole, stages in ((out.semantic_tokens, semantic), (out.coarse_codes, coarse), (out.fine_codes, fine)):
        assert all(map(torch.equal, whole, stages))
    for wave, length, alone in zip(out.audio, out.audio_lengths, model.decode_audio(fine), strict=True):
        assert torch.equal(wave[:length], alone)


def test_global_seeds_make_unseeded_calls_repeat(small):
    inputs = small.processor("Hello world")
    runs = []
    for setter in (set_seed, torch.manual_seed, set_seed):
        setter(5)
        runs.append(small.model.generate_semantic(**inputs, **SHORT)[0])
    runs.append(small.model.generate_semantic(**inputs, **SHORT)[0])  # goes on from there
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[3])


def test_a_seeded_call_leaves_the_global_generator_alone(small):
    before = torch.get_rng_state()
    small.model.generate(**small.processor("Hello world"), seed=1, **SHORT)
    assert torch.equal(torch.get_rng_state(), before)


def test_generator_supplies_the_seeds(small):
    inputs = small.processor("Hello world")
    first, second = (
        small.model.generate(
            **inputs, generator=torch.Generator().manual_seed(3), return_dict_in_generate=True, **SHORT
        )
        for _ in range(2)
    )
    assert first.seeds == second.seeds == row_seeds(1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first.audio, second.audio)
    again = small.model.generate(**inputs, seed=first.seeds, **SHORT)
    assert torch.equal(first.audio, again)


def test_greedy_options_ignore_the_seed():
    options = SimpleNamespace(greedy=True)
    scores = torch.randn(20, 9)
    assert torch.equal(pick(scores, options, torch.zeros(20))[0], pick(scores, options, torch.rand(20))[0])


# ------------------------------------------------------------------------------------------- devices without float64


class NoFloat64(TorchDispatchMode):
    """Makes the meta device one that has no float64, as MPS, and that can be copied from."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        copied = function is torch.ops.aten._to_copy.default and args[0].is_meta
        if copied and kwargs.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor) and tensor.is_meta and tensor.dtype == torch.float64:
                raise TypeError(f"{function}: this device has no float64")
        return output


@pytest.mark.parametrize("options", [SemanticOptions(), SemanticOptions(do_sample=False), SemanticOptions(top_p=0.5)])
def test_nothing_in_float64_reaches_a_device_without_it(monkeypatch, options):
    """Apple's MPS: uniforms and cumulative sums in float64 failed there, in greedy runs too."""
    monkeypatch.setattr(sampling, "has_float64", lambda device: device.type == "cpu")
    noise, taken = torch.rand(4, dtype=torch.float64), []
    job = SimpleNamespace(
        drawn=0, noise=noise, legal=lambda draw: (0, 11), prompt=dict, take=lambda ids, _: taken.append(len(ids))
    )
    last, logits = torch.empty(2, dtype=torch.long, device="meta"), torch.empty(2, 11, device="meta")
    session = SimpleNamespace(model=None, step=lambda *_: logits, prefill=lambda *_: logits)
    with NoFloat64():
        decoding._start(session, 0, [job, job], last, options, 10, None)
        decoding._advance(session, 3, [job, job], last, options, 10, None, None)
        pick(torch.empty(2, 5, 11, device="meta"), options, torch.empty(2, 5, dtype=torch.float64))
        with pytest.raises(TypeError, match="no float64"):
            torch.empty(2, dtype=torch.float64).to("meta")
    assert taken == [1, 1, 3, 3]


def test_a_device_without_float64_samples_the_same(small, monkeypatch):
    inputs = small.processor(["Hello world", "the music"])
    options = {"seed": 3, "max_duration": 1.2}
    wanted = small.model.generate(**inputs, **options)
    monkeypatch.setattr(sampling, "has_float64", lambda device: monkeypatch.undo() or False)  # the CPU has it
    assert torch.equal(small.model.generate(**inputs, **options), wanted)
    assert [sampling.has_float64(torch.device(kind)) for kind in ("cpu", "cuda", "mps")] == [True, True, False]


# ---------------------------------------------------------------------------------------------------- broken networks


@pytest.mark.parametrize("options", [SamplingOptions(do_sample=False), SamplingOptions(temperature=0.7),
                                     SamplingOptions(top_k=3), SamplingOptions(top_p=0.5)])  # fmt: skip
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_give_no_id(options, value):
    scores = torch.randn(3, 2, 7)
    scores[1, 1, 4] = value
    ids, _ = pick(scores, options, torch.rand(3, 2).double())
    assert (ids == 7).nonzero().tolist() == [[1, 1]]
    scores[0] = -torch.inf
    assert (pick(scores, options, torch.rand(3, 2).double())[0] == 7).nonzero().tolist() == [[0, 0], [0, 1], [1, 1]]


def breaks(stage, value, calls):
    """Puts `value` into one logit of the last position from call number `calls` on."""
    count = 0

    def hook(head, inputs, logits):
        nonlocal count
        count += 1
        if count >= calls:
            logits = logits.clone()
            logits[-1, ..., 3] = value
            logits[-1, ..., 203 : 204 + CODEBOOK] = value
        return logits

    for head in getattr(stage, "lm_heads", None) or [stage.lm_head]:
        head.register_forward_hook(hook)


CODEBOOK = 64


@pytest.mark.parametrize("processor", [None, LogitsProcessorList([lambda ids, scores: scores])])
@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_network_that_gives_nan_is_named_with_its_stage_and_step(small, value, sampled, processor):
    """It sampled an id past the legal ones, which failed far behind as an index error, on CUDA for the whole process.
    Greedy it went on in silence."""
    options = {"do_sample": sampled, "logits_processor": processor} | ({"seed": 1} if sampled else {})
    inputs = small.processor(["Hello world", "the music"])
    model = copy.deepcopy(small.model)
    breaks(model.semantic, value, 5)
    with pytest.raises(RuntimeError, match=r"`semantic` gave NaN or infinite logits at step 5\b.*weights"):
        model.generate_semantic(**inputs, allow_early_stop=False, **options)
    breaks(model.coarse_acoustics, value, 8)
    with pytest.raises(RuntimeError, match=r"`coarse_acoustics` gave NaN or infinite logits at step 8\b"):
        model.generate_coarse([torch.arange(9), torch.arange(30)], **options)
    breaks(model.fine_acoustics, value, 3)
    with pytest.raises(RuntimeError, match=r"`fine_acoustics` gave NaN or infinite logits at codebook 4\b"):
        model.generate_fine([torch.zeros(2, 1024, dtype=torch.long)] * 2, **options)


@pytest.mark.parametrize("lookahead", [None, 0.3])
def test_a_stream_names_the_stage_that_gives_nan(small, lookahead):
    model = copy.deepcopy(small.model)
    breaks(model.fine_acoustics, torch.nan, 3)
    with pytest.raises(RuntimeError, match=r"`fine_acoustics` gave NaN or infinite logits at codebook 4\b"):
        list(model.stream(**small.processor("Hello"), seed=1, lookahead=lookahead, max_new_tokens=30))


def test_what_follows_the_end_of_a_text_may_be_nan(small):
    """Where EOS is looked for every few steps, a row runs on behind it."""
    model = SimpleNamespace(base_model_prefix="semantic")
    taken = []
    job = SimpleNamespace(drawn=2, legal=lambda draw: (0, 11), take=lambda ids, stopped: taken.append(ids.tolist()))
    draws = [decoding.Draws(torch.tensor([one]), torch.tensor([stops])) for one, stops in ((3, False), (10, True))]
    broken = decoding.Draws(torch.tensor([11]), torch.tensor([False]))
    decoding._take(model, [job], [*draws, broken])
    assert taken == [[3, 10, 11]]
    with pytest.raises(RuntimeError, match="step 4"):
        decoding._take(model, [job], [draws[0], broken, draws[1]])


def test_no_id_past_the_legal_ones_is_fed_to_the_network(small, monkeypatch):
    """On CUDA the embedding's assert would come before anybody looks at the ids, and end the process's CUDA."""
    model, fed, step = copy.deepcopy(small.model), [], decoding.DecodeSession.step
    breaks(model.coarse_acoustics, torch.nan, 2)
    monkeypatch.setattr(
        decoding.DecodeSession, "step", lambda self, ids, legal: fed.append(int(ids)) or step(self, ids, legal)
    )
    with pytest.raises(RuntimeError, match="step 2"):
        model.generate_coarse([torch.arange(30)], seed=1)
    assert len(fed) == 59
    assert max(fed) < 200 + 2 * CODEBOOK
