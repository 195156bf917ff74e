"""The decode engine: rows come and go, prefixes are kept, sessions are pooled, and every result is its solo run's."""

import copy
import gc
import pickle
import platform
import threading
import tracemalloc
import weakref

import accelerate
import pytest
import torch
from torch import nn

from bark_hf import BarkModel
from bark_hf.engine import decoding
from bark_hf.engine import int8 as quantization
from bark_hf.engine import step as fast_step_module
from bark_hf.engine.decoding import DecodeSession, SessionPool, _runs
from bark_hf.engine.int8 import FEW_ROWS, Int8Linear, quantize_linears
from bark_hf.engine.step import fast_step
from bark_hf.modeling_bark import BarkMLP

TEXTS = ["Hello world.", "the music", "Hello [laughs]", "a song ♪", "with [laughter]", "Hmm…", "the the the"]
PRESETS = ["made/short", None, "made/long", None, "made/uint16", "made/int32", None]
BRIEF = {"max_duration": 1.2}


def solo(small, i, seed):
    return small.model.generate(
        **small.processor(TEXTS[i], voice_preset=PRESETS[i]), seed=seed, return_dict_in_generate=True, **BRIEF
    )


def assert_same(one, other, row=0):
    for name in ("semantic_tokens", "coarse_codes", "fine_codes"):
        assert torch.equal(one[name][0], other[name][row]), name
    length = int(one.audio_lengths[0])
    assert length == int(other.audio_lengths[row])
    torch.testing.assert_close(one.audio[0, :length], other.audio[row, :length], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def alone(small):
    return [solo(small, i, 10 + i) for i in range(len(TEXTS))]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_generate_many_gives_every_text_its_solo_result(small, alone, batch_size):
    items = [small.processor(text, voice_preset=voice) for text, voice in zip(TEXTS, PRESETS, strict=True)]
    results = dict(small.model.generate_many(items, batch_size=batch_size, seed=10, **BRIEF))
    assert sorted(results) == list(range(len(TEXTS)))
    for i, result in results.items():
        assert_same(alone[i], result)
        assert result.seeds == [10 + i]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_more_rows_than_the_batch_size_give_the_same(small, alone, batch_size):
    out = small.model.generate(
        **small.processor(TEXTS, voice_preset=PRESETS),
        seed=10,
        batch_size=batch_size,
        return_dict_in_generate=True,
        **BRIEF,
    )
    for i, one in enumerate(alone):
        assert_same(one, out, i)


def test_generate_many_takes_texts_and_pairs_with_a_processor(small, alone):
    items = [TEXTS[1], (TEXTS[0], PRESETS[0])]
    results = dict(small.model.generate_many(items, processor=small.processor, seed=10, **BRIEF))
    assert results[1].seeds == [11]
    wanted = small.model.generate(**small.processor(TEXTS[1]), seed=10, return_dict_in_generate=True, **BRIEF)
    assert_same(wanted, results[0])


def test_generate_many_reads_its_input_only_as_rows_get_free(small):
    read = []

    def texts():
        for i in range(20):
            read.append(i)
            yield TEXTS[i % 7]

    results = small.model.generate_many(texts(), batch_size=2, processor=small.processor, seed=0, **BRIEF)
    assert read == []
    next(results)
    assert len(read) <= 6  # two rows in each causal stage, one finished, one that was asked for
    results.close()
    assert list(small.model.generate_many([], seed=0)) == []


@pytest.mark.parametrize(
    ("items", "options", "match"),
    [
        (["text"], {}, "processor"),
        ([5], {}, "processor gives"),
        ([{"input_ids": torch.ones(2, 3, dtype=torch.long)}], {}, "2 texts"),
        ([{"input_ids": torch.zeros(1, 3, dtype=torch.long)}], {}, "empty"),
        ([], {"batch_size": 0}, "batch_size"),
        ([], {"seed": -1}, "seed"),
        ([], {"seed": [3]}, "seed.*integer"),
    ],
)
def test_generate_many_refuses(small, items, options, match):
    with pytest.raises(ValueError, match=match):
        list(small.model.generate_many(items, **options))


@pytest.mark.parametrize("options", [{"temperatur": 1}, {"batch_size": 0}, {"seed": [3]}, {"logits_processor": 3}])
def test_generate_many_refuses_options_at_the_call(small, options):
    """Not where its first result is asked for."""
    with pytest.raises((TypeError, ValueError), match=r".{10}"):
        small.model.generate_many([], **options)


def test_generate_many_gives_a_text_without_speech_no_samples(small):
    """And no warning, which a test would raise: whoever retries or reports it sees that it is empty."""
    inputs = [small.processor(text) for text in TEXTS[:2]]
    results = dict(small.model.generate_many(inputs, seed=1, min_eos_p=0.0))
    assert [result.audio.shape for result in results.values()] == [(1, 0)] * 2


def test_a_growing_window_keeps_its_cache_and_a_shifting_one_is_prefilled(small, monkeypatch):
    """1 prompt while nothing is cut (BARK: semantic_idx <= 209 and at most 630 ids), then one a window."""
    prompts = []
    prefill = DecodeSession.prefill

    def counted(self, first, jobs, legal):
        prompts.append(len(jobs[0]["input_ids"]))
        return prefill(self, first, jobs, legal)

    monkeypatch.setattr(DecodeSession, "prefill", counted)
    semantic = torch.arange(300) % 200
    small.model.generate_coarse([semantic], do_sample=False)  # 900 ids: 15 windows of 60
    assert prompts == [257, *[257 + 630] * 4]


def test_rows_are_kept_dense_as_others_end(small, monkeypatch):
    counts = []
    step = DecodeSession.step
    monkeypatch.setattr(
        DecodeSession, "step", lambda self, ids, legal: counts.append(len(ids)) or step(self, ids, legal)
    )
    semantic = [torch.arange(n) for n in (3, 30, 8, 17)]
    codes = small.model.generate_coarse(semantic, seed=[1, 2, 3, 4])
    monkeypatch.undo()
    assert counts == sorted(counts, reverse=True)
    assert set(counts) == {4, 3, 2, 1}
    for i, one in enumerate(codes):
        assert torch.equal(one, small.model.generate_coarse(semantic[i : i + 1], seed=[i + 1])[0])


def test_runs_are_the_unbroken_ones():
    assert list(_runs([])) == []
    assert list(_runs([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 1), (7, 2)]


# ------------------------------------------------------------------------------------------------------------ sessions


def test_two_threads_on_one_model_give_their_solo_results(small, alone):
    results: dict[int, object] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: solo(small, i, 10 + i)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert_same(alone[i], results[i])


def test_sessions_are_kept_and_never_shared_copied_or_pickled(small):
    pool, model = SessionPool(), small.model.semantic
    with pool.session(model, 2, 300) as one, pool.session(model, 2, 300) as other:
        assert one is not other
    with pool.session(model, 2, 300) as again:
        assert again in (one, other)
    with pool.session(model, 3, 300) as wider:
        assert wider is not one
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert other._free == []
    pool.clear()
    with pool.session(model, 2, 300) as new:
        assert new is not one
        pool.clear()
    assert pool._free == []
    with pytest.raises(KeyError), pool.session(model, 2, 300):
        raise KeyError
    assert pool._free == []


def test_steps_of_fixed_shapes_give_the_same(small, alone):
    """What CUDA captures as graphs, run here without: padded rows, rounded lengths, rows that come and go."""
    model = copy.deepcopy(small.model)
    model.capture_steps()
    items = [small.processor(text, voice_preset=voice) for text, voice in zip(TEXTS, PRESETS, strict=True)]
    for batch_size in (1, 3):
        for i, result in model.generate_many(items, batch_size=batch_size, seed=10, **BRIEF):
            assert_same(alone[i], result)
    kept = [session for _, session in model.sessions._free]
    assert kept
    assert all(session.static.captured for session in kept)
    rows = {key[0] for session in kept for key in session.static.captured}
    assert rows == {1, 2, 3}  # 3 slots: buckets of 1, 2 and all
    model.capture_steps(False)
    assert model.sessions._free == []
    assert_same(alone[0], model.generate(**items[0], seed=10, return_dict_in_generate=True, **BRIEF))


def test_warmup_leaves_sessions_for_the_next_call(small):
    model = copy.deepcopy(small.model)
    assert model.warmup(2) > 0
    assert {session.cache.slots for _, session in model.sessions._free} == {1, 2}


def test_sessions_go_when_the_model_changes(small):
    model = copy.deepcopy(small.model)
    assert model.sessions._free == []
    inputs = small.processor("Hello")
    before = model.generate(**inputs, seed=1, **BRIEF)
    assert model.sessions._free
    model.to(torch.float64)
    assert model.sessions._free == []
    torch.testing.assert_close(model.to(torch.float32).generate(**inputs, seed=1, **BRIEF), before)


def test_a_session_does_not_keep_its_model_in_memory(small):
    """A stage that was replaced, by its fine-tuned one say, stayed as long as the composite."""
    model = copy.deepcopy(small.model)
    model.capture_steps()
    for static in (True, False):
        model.capture_steps(static)
        model.generate(**small.processor("Hello"), seed=1, **BRIEF)
        old = weakref.ref(model.semantic)
        model.semantic = copy.deepcopy(small.model.semantic)
        gc.collect()
        assert old() is None
    model.generate(**small.processor("Hello"), seed=1, **BRIEF)
    assert all(key[0]() is not None for key, _ in model.sessions._free), "caches of what has gone were dropped"


def test_calls_in_other_modes_share_no_session(small):
    """Caches made in inference mode cannot be written outside it, and those of autocast are bfloat16."""
    model, inputs = copy.deepcopy(small.model), small.processor("Hello")
    wanted = model.generate(**inputs, seed=1, **BRIEF)
    for mode in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        model.sessions.clear()
        with mode:
            model.generate(**inputs, seed=1, **BRIEF)
        torch.testing.assert_close(model.generate(**inputs, seed=1, **BRIEF), wanted)


# --------------------------------------------------------------------------------------------------------- fast steps


class Louder(nn.Embedding):
    def forward(self, ids):
        return 3 * super().forward(ids)


class Flipped(nn.LayerNorm):
    def forward(self, hidden):
        return super().forward(hidden).flip(-1)


def without_fast_steps(monkeypatch, call):
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "fast_step", lambda model: None)
        return call()


@pytest.mark.parametrize(
    ("place", "kind"),
    [("input_embeds_layer", Louder), ("position_embeds_layer", Louder), ("layernorm_final", Flipped)],
)
def test_steps_never_bypass_what_stands_for_an_embedding_or_a_norm(small, monkeypatch, place, kind):
    model = copy.deepcopy(small.model)
    getattr(model.semantic, place).__class__ = kind
    options = {"do_sample": False, "max_new_tokens": 30, "allow_early_stop": False}
    made = [
        model.generate_semantic(**small.processor("Hello"), **options)[0],
        without_fast_steps(monkeypatch, lambda: model.generate_semantic(**small.processor("Hello"), **options)[0]),
    ]
    assert fast_step(small.model.semantic) is not None
    assert fast_step(model.semantic) is None
    assert torch.equal(*made)
    assert not torch.equal(made[0], small.model.generate_semantic(**small.processor("Hello"), **options)[0])


def test_a_norm_inside_a_block_counts_too(small):
    model = copy.deepcopy(small.model)
    model.semantic.layers[1].layernorm_2.__class__ = Flipped
    assert fast_step(model.semantic) is None


def doubled(module):
    """Puts a forward on the instance, as accelerate, kernel libraries and users do."""
    plain = module.forward
    module.forward = lambda *args, **kwargs: _twice(plain(*args, **kwargs))


def _twice(output):
    if isinstance(output, torch.Tensor):
        return 2 * output
    if isinstance(output, tuple):
        return 2 * output[0], *output[1:]
    output.logits = 2 * output.logits
    return output


class Negated(BarkMLP):
    def forward(self, hidden_states):
        return -super().forward(hidden_states)


REPLACED = {
    "model": lambda model: doubled(model),
    "block": lambda model: doubled(model.layers[0]),
    "attention": lambda model: doubled(model.layers[1].attn),
    "mlp": lambda model: doubled(model.layers[0].mlp),
    "norm": lambda model: doubled(model.layernorm_final),
    "linear": lambda model: doubled(model.layers[1].mlp.in_proj),
    "head": lambda model: doubled(model.lm_head),
    "subclass": lambda model: setattr(model.layers[1].mlp, "__class__", Negated),
    "relu": lambda model: setattr(model.layers[0].mlp, "gelu", nn.ReLU()),
    "tanh": lambda model: setattr(model.layers[0].mlp, "gelu", nn.GELU("tanh")),
    "dropout": lambda model: setattr(model.layers[0].mlp, "dropout", nn.Hardtanh()),
    "hook": lambda model: model.layers[0].mlp.gelu.register_forward_hook(lambda _, inputs, output: 2 * output),
}


@pytest.mark.parametrize("what", REPLACED)
def test_steps_never_bypass_what_was_replaced(small, monkeypatch, both_steps, what):
    model = copy.deepcopy(small.model)
    REPLACED[what](model.semantic)
    ids = torch.randint(0, 40, (12,))

    def stepped():
        session = DecodeSession(model.semantic, 1, 64)
        session.fast = decoding.fast_step(model.semantic)
        session.prefill(0, [{"input_ids": ids[:9]}], None)
        return torch.stack([session.step(ids[i : i + 1], None)[0] for i in (9, 10, 11)])

    with torch.no_grad():
        made, wanted = stepped(), without_fast_steps(monkeypatch, stepped)
        plain = small.model.semantic(ids[None]).logits[0, 9:]
    torch.testing.assert_close(made, wanted)
    assert not torch.allclose(made, plain, atol=1e-3)


def test_a_single_dropout_in_training_mode_has_no_fast_step(small):
    """Monte Carlo dropout: the model is in evaluation mode, and each step of it drops something."""
    model = copy.deepcopy(small.model.semantic)
    assert fast_step(model) is not None
    model.layers[1].mlp.dropout.train()
    assert fast_step(model) is None


@pytest.fixture
def bfloat16_accelerator():
    accelerate.state.AcceleratorState._reset_state(True)  # of tests before, which may have another precision
    yield accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    accelerate.state.AcceleratorState._reset_state(True)


def test_a_stage_speaks_after_training_in_mixed_precision(small, monkeypatch, both_steps, bfloat16_accelerator):
    """`prepare`, which the Trainer calls, puts a forward with autocast inside on the instance; a step beside it met
    the bfloat16 cache in float32. The session of an earlier call is not the one for it."""
    model, inputs = copy.deepcopy(small.model), small.processor("Hello")
    before = model.generate(**inputs, seed=1, **BRIEF)
    for stage in (model.semantic, model.coarse_acoustics, model.fine_acoustics):
        bfloat16_accelerator.prepare(stage).eval()
    assert fast_step(model.semantic) is None
    speak = lambda: model.generate(**inputs, seed=1, **BRIEF)
    made = speak()
    assert len(made[0])
    assert torch.equal(made, without_fast_steps(monkeypatch, speak))
    for stage in (model.semantic, model.coarse_acoustics, model.fine_acoustics):
        bfloat16_accelerator.unwrap_model(stage, keep_fp32_wrapper=False)
    assert fast_step(model.semantic) is not None  # accelerate leaves the class's own forward on the instance
    torch.testing.assert_close(model.generate(**inputs, seed=1, **BRIEF), before)


def test_a_replaced_forward_of_the_fine_stage_gets_ids(small):
    """Not the sum of tables that our own forward takes."""
    model, seen = copy.deepcopy(small.model), []
    plain = model.fine_acoustics.forward
    model.fine_acoustics.forward = lambda *args, **kwargs: seen.append(kwargs.keys()) or plain(*args, **kwargs)
    options = {"seed": 1, "max_new_tokens": 5, "allow_early_stop": False}
    made = model.generate(**small.processor("Hello"), **options)
    assert len(seen) == 6
    assert all("input_ids" in names and "inputs_embeds" not in names for names in seen)
    torch.testing.assert_close(made, small.model.generate(**small.processor("Hello"), **options))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cpu", ["AMD EPYC", "Intel(R) Xeon(R)"])
def test_a_step_is_the_forward_on_every_cpu(small, monkeypatch, cpu, dtype, rows):
    """Each takes the kernels that are fastest there; here run on whatever CPU this is."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": cpu}, raising=False)
    monkeypatch.setattr(fast_step_module, "ONEDNN_FROM", 1)
    model = copy.deepcopy(small.model).coarse_acoustics.to(dtype)
    kernel = fast_step_module._product_for(model.lm_head.weight)
    assert kernel.__name__ == {
        ("AMD EPYC", torch.float32): "_onednn", ("Intel(R) Xeon(R)", torch.bfloat16): "_by_rows",
    }.get((cpu, dtype), "linear")  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        assert fast_step_module._product_for(model.lm_head.weight) is nn.functional.linear
    monkeypatch.setattr(fast_step_module, "_compiled_step", lambda model: None)
    legal, ids = (2, 20), torch.randint(0, 20, (rows, 12))
    with torch.no_grad():
        session = DecodeSession(model, rows, 64)
        session.fast = fast_step(model)
        session.prefill(0, [{"input_ids": row[:9]} for row in ids], legal)
        made = torch.stack([session.step(ids[:, i], legal) for i in (9, 10, 11)], dim=1)
        wanted = model(ids).logits[:, 9:, slice(*legal)]
    torch.testing.assert_close(made, wanted, **({} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.05}))


def test_hooks_on_heads_are_called(small):
    """A plain head is read by its weight; a hooked one must be called."""
    model, calls = copy.deepcopy(small.model), []
    for head in (model.semantic.lm_head, model.fine_acoustics.lm_heads[2]):
        head.register_forward_hook(lambda head, *_: calls.append(head))
    model.generate(**small.processor("Hello"), seed=1, max_new_tokens=5, allow_early_stop=False)
    assert calls == [*[model.semantic.lm_head] * 5, model.fine_acoustics.lm_heads[2]]


def test_nothing_leaks_over_a_thousand_calls(small):
    inputs = small.processor("Hello the music", voice_preset="made/short")

    def calls(count):
        for i in range(count):
            tokens = small.model.generate_semantic(**inputs, max_new_tokens=2, min_eos_p=None, seed=i)
            if not i % 10:
                small.model.generate_coarse([tokens[0][:1]], seed=i)
        gc.collect()

    calls(20)
    tracemalloc.start()
    calls(20)
    before = tracemalloc.get_traced_memory()[0]
    tensors = sum(type(one) is torch.Tensor for one in gc.get_objects())
    calls(1000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert sum(type(one) is torch.Tensor for one in gc.get_objects()) <= tensors
    assert grown < 100_000, f"{grown} bytes more after 1000 calls"


# ------------------------------------------------------------------------------------- networks, as engines use them


def test_logits_of_a_range_and_of_the_last_positions_are_those_of_all(small):
    ids = torch.randint(0, 300, (2, 40))
    with torch.no_grad():
        for model in (small.model.semantic, small.model.coarse_acoustics):
            whole = model(ids, use_cache=False).logits
            part = model(ids, use_cache=False, logits_to_keep=1, logits_range=(7, 50)).logits
            torch.testing.assert_close(part, whole[:, -1:, 7:50])
        codes = torch.randint(0, 64, (2, 100, 8))
        whole = small.model.fine_acoustics(4, codes).logits
        part = small.model.fine_acoustics(4, codes, logits_to_keep=30, logits_range=(0, 64)).logits
        torch.testing.assert_close(part, whole[:, -30:, :64])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_engine_gives_the_goldens_tokens_with_every_kernel(small, implementation):
    model = BarkModel.from_pretrained(small.checkpoint, attn_implementation=implementation)
    for case in [c for c in small.cases("coarse") if c["key"] in ("coarse/35", "coarse/38", "coarse/40")]:
        options = {name: case[name] for name in ("max_coarse_history", "sliding_window_len") if name in case}
        voice = small.processor.voice(case["preset"])
        codes = model.generate_coarse(
            [small.arrays[case["key"] + "/in"]], history_prompt=voice, do_sample=False, **options
        )
        assert torch.equal(codes[0], torch.from_numpy(small.arrays[case["key"] + "/out"]).long())


# ---------------------------------------------------------------------------------------------------------------- int8


def test_int8_layers_are_close_with_few_rows_and_with_many():
    torch.manual_seed(1)
    linear = nn.Linear(256, 384)
    quantized = Int8Linear(linear)
    for rows in (1, FEW_ROWS, FEW_ROWS + 1, 300):
        hidden = torch.randn(2, rows, 256)
        wanted, got = linear(hidden), quantized(hidden)
        assert (got - wanted).norm() / wanted.norm() < 0.02
        assert quantized(hidden.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS + 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_int8_sums_do_not_overflow(rows, sign):
    """At full range everywhere, where two products of 8 bits each are beyond 16 bits."""
    linear = nn.Linear(256, 8, bias=False)
    with torch.no_grad():
        linear.weight.fill_(sign)
        assert torch.allclose(Int8Linear(linear)(torch.ones(rows, 256)), torch.tensor(256.0 * sign), rtol=0.02)


@pytest.mark.parametrize("rows", [2, FEW_ROWS + 8])
def test_an_int8_layers_rows_are_what_they_are_beside_any_others(rows):
    """A loud one, such as a prompt's first position often is, would take the others' bits."""
    layer = Int8Linear(nn.Linear(64, 48))
    hidden = torch.randn(rows, 64)
    beside = torch.cat([hidden[:1], 1000 * hidden[1:]])
    assert torch.equal(layer(hidden)[0], layer(beside)[0])
    beside[1, 3] = torch.nan
    assert torch.equal(layer(hidden)[0], layer(beside)[0])
    assert layer(beside)[1].isnan().all()
    assert layer(torch.zeros(rows, 64)).equal(layer.bias.expand(rows, -1))


@pytest.mark.parametrize(("capability", "many"), [("avx512_vnni", "onednn"), ("avx2", "fbgemm")])
def test_onednn_multiplies_int8_only_where_it_does_not_overflow(monkeypatch, capability, many):
    """On an x86 without VNNI its products of many rows were 9 % off."""
    if not {"onednn", "fbgemm"} <= set(torch.backends.quantized.supported_engines):
        pytest.skip("this torch has only one of the two")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert quantization._engines() == ("fbgemm", many)


def test_an_int8_model_speaks_much_like_the_float_one(small):
    model = copy.deepcopy(small.model).quantize_int8()
    for part in (model.semantic, model.coarse_acoustics.layers, model.fine_acoustics.layers):
        assert not [m for m in part.modules() if type(m) is nn.Linear]
    ids = torch.randint(0, 300, (1, 300))
    with torch.no_grad():
        wanted, got = small.model.semantic(ids).logits, model.semantic(ids).logits
    assert torch.nn.functional.cosine_similarity(got, wanted, dim=-1).min() > 0.98
    assert len(model.generate(**small.processor("Hello"), seed=1, **BRIEF)[0])


@pytest.mark.parametrize(("capability", "dtype"), [("amx_bf16", torch.bfloat16), ("avx512_bf16", torch.float32)])
def test_what_is_not_int8_takes_the_type_that_the_cpu_computes_in(small, monkeypatch, capability, dtype):
    """bfloat16 attention of one position takes twice as long as float32's without AMX, or longer."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    model = copy.deepcopy(small.model).quantize_int8()
    assert {stage.dtype for stage in (model.semantic, model.coarse_acoustics, model.fine_acoustics)} == {dtype}


def test_an_int8_model_is_neither_saved_nor_made_elsewhere_than_on_a_cpu(small, tmp_path):
    model = copy.deepcopy(small.model).quantize_int8()
    with pytest.raises(TypeError, match="not saved"):
        model.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="CPUs"):
        BarkModel(small.model.config).to("meta").quantize_int8()
    assert quantize_linears(model.semantic.layers) == 0


def test_adapters_must_be_merged_before_int8(small):
    """Their small matrices would become int8 too, and what calls them reads weights that are no longer there."""
    model = copy.deepcopy(small.model)
    wrapped = nn.Module()
    wrapped.base_layer = model.coarse_acoustics.layers[0].attn.att_proj
    model.coarse_acoustics.layers[0].attn.att_proj = wrapped
    with pytest.raises(ValueError, match="merge"):
        model.quantize_int8()
    assert type(model.semantic.layers[0].attn.att_proj) is nn.Linear  # nothing was changed


def test_a_text_may_bring_its_own_seed(small):
    """(text, voice, seed) wins over the call's `seed`, and a text without one keeps its place's."""
    inputs = [("the music", None, 41), ("the music", None), ("the music", "made/short", None)]
    made = dict(small.model.generate_many(inputs, batch_size=2, processor=small.processor, seed=7, max_new_tokens=20))
    assert [made[i].seeds[0] for i in range(3)] == [41, 8, 9]
    alone = small.model.generate(
        **small.processor("the music"), seed=41, max_new_tokens=20, return_dict_in_generate=True
    )
    assert torch.equal(made[0].semantic_tokens[0], alone.semantic_tokens[0])


# --------------------------------------------------------------------------------------------- what surrounds a call


@pytest.fixture
def default_device():
    """Sets torch's default device to one that CPU tensors cannot be mixed with, as CUDA; undone after the test."""
    yield lambda: torch.set_default_device("meta")
    torch.set_default_device(None)


@pytest.mark.parametrize("int8", [False, True])
def test_the_default_device_is_not_where_tensors_of_the_cpu_are_made(small, both_steps, default_device, int8):
    """With `torch.set_default_device("cuda")`, as scripts do, they were made on the GPU and met those of the CPU."""
    model = copy.deepcopy(small.model)
    if int8:
        model.quantize_int8(torch.float32)
    texts, voices = TEXTS[:3], PRESETS[:3]
    inputs, one = small.processor(texts, voice_preset=voices), small.processor(texts[0], voice_preset=voices[0])

    def everything():
        made = [model.generate(**inputs, seed=1, return_output_lengths=True, **BRIEF)[0]]
        made += [model.generate(**one, seed=1, coarse_do_sample=False, **BRIEF)]
        for lookahead, overlap in ((0.2, 0.3), (None, None)):
            made += map(torch.from_numpy, model.stream(**one, seed=1, lookahead=lookahead, overlap=overlap, **BRIEF))
        results = model.generate_many([one, one], batch_size=2, seed=1, **BRIEF)
        return [*made, *(result.audio for _, result in results), *model.codec_model.encode_all([made[0][0]], 8)]

    wanted = everything()
    model.sessions.clear()
    default_device()
    made = everything()
    torch.set_default_device(None)
    for one, other in zip(made, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("first", [True, False])
def test_the_mode_may_change_between_two_results(small, first):
    """A cache made in inference mode cannot be written outside it."""
    inputs = small.processor(TEXTS[0], voice_preset=PRESETS[0])
    calls = [
        lambda: small.model.stream(**inputs, seed=3, overlap=0.3, lookahead=0.2, **BRIEF),
        lambda: (out.audio[0].numpy() for _, out in small.model.generate_many([inputs] * 3, 2, seed=3, **BRIEF)),
    ]
    for call in calls:
        wanted, made, results = list(call()), [], call()
        mode = first
        while True:
            with torch.inference_mode(mode):
                if (piece := next(results, None)) is None:
                    break
            made.append(piece)
            mode = not mode
        assert len(made) > 1
        for one, other in zip(made, wanted, strict=True):
            assert (one == other).all()


def test_results_in_inference_mode_may_be_changed_outside(small):
    with torch.inference_mode():
        ((_, out),) = small.model.generate_many([small.processor(TEXTS[0])], seed=3, **BRIEF)
    out.audio.mul_(0.5)
