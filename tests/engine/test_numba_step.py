"""Steps compiled by numba: what the forward computes, for every type of weight; else torch's."""

import copy
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import bark_hf
from bark_hf.configuration_bark import BarkSemanticConfig
from bark_hf.engine import numba_step as compiled_step
from bark_hf.engine import step as fast_step_module
from bark_hf.engine.decoding import DecodeSession
from bark_hf.engine.int8 import Int8Linear, quantize_linears
from bark_hf.engine.step import fast_step
from bark_hf.modeling_bark import BarkSemanticModel

numba = pytest.importorskip("numba")


def made_stage(bias=True):
    sizes = {"num_layers": 2, "num_heads": 3, "hidden_size": 30, "block_size": 64}
    model = BarkSemanticModel(BarkSemanticConfig(**sizes, input_vocab_size=41, output_vocab_size=39, bias=bias)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return model


def as_it_is_meant(model):
    """The stage in float32, with int8 weights as the numbers that they stand for."""
    model = copy.deepcopy(model).float()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Int8Linear):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            with torch.no_grad():
                plain.weight.copy_(layer.weight * layer.scales[:, None])
                if layer.bias is not None:
                    plain.bias.copy_(layer.bias)
            model.set_submodule(name, plain)
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lengths", [(9,), (9, 9), (9, 4, 7), (3, 9, 9, 2, 8, 5), (5,) * 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_compiled_step_is_the_forward(dtype, lengths, bias):
    """For a row, for four at once and the rest, for rows of several lengths, and for more than it takes."""
    model = made_stage(bias)
    if dtype == torch.int8:
        quantize_linears(model)
    model.to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    ids = torch.randint(0, 40, (len(lengths), 12))
    exact = as_it_is_meant(model)
    for legal in (None, (7, 30)):
        with torch.no_grad():
            fast = fast_step(model)
            assert fast is not None
            assert fast.compiled is not None
            session = DecodeSession(model, len(lengths), 64, fast.cache_dtype(len(lengths)))
            session.fast = fast
            session.fast.compiled_rows = 8  # matrix units, where there are any, would take several
            session.prefill(0, [{"input_ids": row[:n]} for row, n in zip(ids, lengths, strict=True)], legal)
            made = [session.step(torch.stack([row[n + i] for row, n in zip(ids, lengths, strict=True)]), legal)
                    for i in range(3)]  # fmt: skip
            wanted = [exact(row[None, : n + 3]).logits[0, n:, slice(*legal or (None,))]
                      for row, n in zip(ids, lengths, strict=True)]  # fmt: skip
        close = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.int8: 0.04}[dtype]
        made, wanted = torch.stack(made, dim=1).float(), torch.stack(wanted)
        assert made.shape == wanted.shape
        assert (made - wanted).norm() <= close * wanted.norm()


def test_a_compiled_step_is_the_same_with_any_number_of_threads_and_leaves_numbas_alone():
    model, ids = made_stage(), torch.randint(0, 40, (12,))
    before, made = numba.get_num_threads(), []
    for threads in (1, 2):
        session = DecodeSession(model, 1, 64)
        with torch.no_grad():
            session.fast = fast_step(model)
            session.prefill(0, [{"input_ids": ids[:9]}], None)
            torch.set_num_threads(threads)
            try:
                made.append(torch.stack([session.step(ids[i : i + 1], None) for i in (9, 10, 11)]))
            finally:
                torch.set_num_threads(1)
        assert numba.get_num_threads() == before
    assert torch.equal(*made)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_compiled_step_keeps_infinities_and_nans(number):
    """Sums in any order must not become leave to ignore what is no number: a broken checkpoint has to show."""
    model, ids = made_stage(), torch.randint(0, 40, (12,))
    with torch.no_grad():
        session = DecodeSession(model, 1, 64)
        session.fast = fast_step(model)
        session.prefill(0, [{"input_ids": ids[:9]}], None)
        assert session.step(ids[9:10], None).isfinite().all()
        model.layers[0].mlp.in_proj.weight[3, 5] = number  # read where it lies, after all earlier positions
        assert not session.step(ids[10:11], None).isfinite().any()


@pytest.mark.parametrize("why", ["absent", "off", "forked", "autocast", "float16", "hook", "adapter"])
def test_where_numba_cannot_take_a_step_torch_does(monkeypatch, why):
    model = made_stage()
    if why == "absent":
        monkeypatch.setattr(compiled_step, "numba", None)  # or made for another numpy: its import fails
    elif why == "off":
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    elif why == "forked":
        monkeypatch.setattr(fast_step_module, "PROCESS", -1)
    elif why == "float16":
        model.half()
    elif why == "hook":
        model.layers[1].mlp.in_proj.register_forward_hook(lambda *_: None)
        assert fast_step(model) is None
        return
    elif why == "adapter":
        model.layers[1].mlp.in_proj.__class__ = type("Adapted", (nn.Linear,), {})
    with torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"):
        assert fast_step(model).compiled is None
    monkeypatch.undo()
    assert fast_step(made_stage()).compiled is not None


def test_keys_and_values_are_rounded_for_int8_steps_alone(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    model = made_stage()
    assert fast_step(model).cache_dtype(1) is None
    quantize_linears(model)
    assert fast_step(model).cache_dtype(8) is torch.bfloat16
    assert fast_step(model).cache_dtype(9) is None  # torch takes some of the steps
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert fast_step(model).cache_dtype(1) is None


def test_int8_texts_speak_in_a_batch_as_alone(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)  # matrix units would take a batch's steps
    model, processor = bark_hf.nano()
    model.quantize_int8()
    texts, voices = ["Hello.", "Where were you all that time?"], ["en_speaker_slt", "en_speaker_rms"]
    both = model.generate(**processor(texts, voice_preset=voices), seed=[1, 2], return_dict_in_generate=True)
    for i, (text, voice) in enumerate(zip(texts, voices, strict=True)):
        alone = model.generate(**processor(text, voice_preset=voice), seed=1 + i, return_dict_in_generate=True)
        assert torch.equal(alone.semantic_tokens[0], both.semantic_tokens[i])
        assert torch.equal(alone.fine_codes[0], both.fine_codes[i])


def test_numba_is_imported_when_needed_and_leaves_torchs_threads():
    """Its first use starts OpenMP's threads, as many as it has cores; a fresh process, as it does so once."""
    code = (
        "import sys, torch, bark_hf; from bark_hf.engine import step as fast_step\n"
        "from bark_hf.modeling_bark import BarkSemanticModel as Model, BarkSemanticConfig as Config\n"
        "model = Model(Config(num_layers=1, num_heads=1, hidden_size=8, block_size=8, input_vocab_size=9,"
        " output_vocab_size=9)).eval()\n"
        "find, fast_step.find_spec = fast_step.find_spec, lambda name: None\n"
        "assert fast_step.fast_step(model).compiled is None and 'numba' not in sys.modules\n"
        "fast_step.find_spec = find; torch.set_num_threads(1)\n"
        "assert fast_step.fast_step(model).compiled is not None and torch.get_num_threads() == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("units", "dtype", "rows"), [(True, torch.float32, 8), (True, torch.bfloat16, 1),
                                                      (False, torch.bfloat16, 8)])  # fmt: skip
def test_matrix_units_take_several_rows(monkeypatch, units, dtype, rows):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units}, raising=False)
    assert fast_step(made_stage().to(dtype)).compiled_rows == rows


# ---------------------------------------------------------------------------------------------------- numba's failures


@pytest.fixture
def numba_may_fail(monkeypatch):
    """Undoes what a failure leaves behind for the rest of the process."""
    monkeypatch.setattr(fast_step_module, "_numba_failed", threading.Event())


def steps_of(model, rows=1):
    """The logits of three steps, as a run makes them."""
    ids = torch.arange(12 * rows).view(rows, 12) % 39
    with torch.no_grad():
        fast = fast_step(model)
        session = DecodeSession(model, rows, 64, fast.cache_dtype(rows))
        session.fast = fast
        session.prefill(0, [{"input_ids": row[:9]} for row in ids], None)
        return torch.stack([session.step(ids[:, i], None) for i in (9, 10, 11)])


@pytest.mark.parametrize("where", ["_through_block", "_multiply"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_step_that_numba_cannot_compile_is_torchs(monkeypatch, numba_may_fail, dtype, where):
    """Numba compiles, writes and reads its files at the first call: a full disk and damaged files show only there. The
    step may then be half done, and keys and values may lie in a type that torch's step does not take."""
    model = made_stage()
    if dtype == torch.int8:
        quantize_linears(model)
    model.to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    with monkeypatch.context() as patch:
        patch.setattr(fast_step_module, "_compiled_step", lambda model: None)
        wanted = steps_of(model)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled_step, where, full)
    with pytest.warns(UserWarning, match=r"numba failed \(OSError.*No space.*NUMBA_CACHE_DIR") as caught:
        made = steps_of(model)
    assert len(caught) == 1
    assert (made - wanted).float().norm() <= (1e-6 if dtype == torch.float32 else 0.04) * wanted.float().norm()
    assert fast_step(model).compiled is None  # nothing is tried, and nothing said, again
    assert torch.equal(steps_of(model), wanted)


@pytest.mark.parametrize(
    ("error", "place"), [(ValueError("No threading layer could be loaded."), "get_num_threads"), (OSError(), "config")]
)
def test_a_numba_that_does_not_start_is_done_without(monkeypatch, numba_may_fail, error, place):
    class Broken:
        config = numba.config

        def __getattribute__(self, name):
            if name == place:
                raise error
            return super().__getattribute__(name)

    monkeypatch.setattr(compiled_step, "numba", Broken())
    with pytest.warns(UserWarning, match=type(error).__name__):
        assert fast_step(made_stage()).compiled is None
    assert fast_step(made_stage()).compiled is None


def test_numbas_workqueue_layer_is_not_used():
    """A second thread in it ends the process by SIGABRT, with no exception to catch. In a process of its own, as numba
    chooses its layer once."""
    code = (
        "import torch, warnings, bark_hf\n"
        "from bark_hf.engine.step import fast_step\n"
        "from bark_hf.modeling_bark import BarkSemanticModel as Model, BarkSemanticConfig as Config\n"
        "model = Model(Config(num_layers=1, num_heads=1, hidden_size=8, block_size=8, input_vocab_size=9,"
        " output_vocab_size=9)).eval()\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    assert fast_step(model).compiled is None and fast_step(model).compiled is None\n"
        "assert len(caught) == 1 and 'workqueue' in str(caught[0].message), caught\n"
    )
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
