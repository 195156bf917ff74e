"""The converter: what it writes, what it refuses and with which words, and that it never leaves half a folder."""

import gc
import hashlib
import importlib.machinery
import json
import os
import shutil
import sys
import types
import weakref
import zipfile

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import EncodecModel

import bark_hf
from bark_hf.convert import checkpoint, convert_checkpoint, convert_voice_presets, suno
from bark_hf.convert.encodec import read_codec

STAGES = {"semantic": "text", "coarse_acoustics": "coarse", "fine_acoustics": "fine"}


def convert(small, output, **changed):
    return convert_checkpoint(**{**small.sources, "generation_config": small.constants, **changed}, output=output)


def refused(small, tmp_path, match, **changed):
    """The conversion fails with one sentence and leaves neither the output nor its hidden working folder."""
    parent = tmp_path / "parent"
    parent.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=match) as caught:
        convert(small, parent / "checkpoint", **changed)
    assert "\n" not in str(caught.value)
    assert list(parent.iterdir()) == []
    return str(caught.value)


def original(small, name):
    """One of the goldens' files as the original would load it."""
    return suno.load_pickle(small.sources[name])


def resaved(small, tmp_path, name, model=None, args=None):
    """A copy of a golden checkpoint with some weights or arguments changed; None removes one."""
    data = original(small, name)
    for part, changes in (("model", model), ("model_args", args)):
        data[part] = {k: v for k, v in {**data[part], **(changes or {})}.items() if v is not None}
    path = tmp_path / f"changed-{name}.pt"
    torch.save(data, path)
    return path


def made_up(path, vocab, *, fine=False, bias=False, width=4, old=False):
    """Writes a random one-layer checkpoint in the original's format. old: `_orig_mod.` names and mask buffers."""
    inputs, outputs = vocab
    shapes = {"wpe": (1024, width), "ln_f": (width,), "h.0.ln_1": (width,), "h.0.ln_2": (width,)}
    shapes |= {"h.0.attn.c_attn": (3 * width, width), "h.0.attn.c_proj": (width, width)}
    shapes |= {"h.0.mlp.c_fc": (4 * width, width), "h.0.mlp.c_proj": (width, 4 * width)}
    shapes |= {f"wtes.{i}": (inputs, width) for i in range(8)} if fine else {"wte": (inputs, width)}
    state = {f"transformer.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        norm = "ln_" in name
        if (norm and (fine or bias)) or (bias and (".attn." in name or ".mlp." in name)):
            state[f"transformer.{name}.bias"] = torch.randn(shape[:1])
    if fine:
        state |= {f"lm_heads.{i}.weight": state[f"transformer.wtes.{i + 1}.weight"] for i in range(7)}
    else:
        state["lm_head.weight"] = torch.randn(outputs, width)
    args = {"n_layer": 1, "n_head": 2, "n_embd": width, "block_size": 1024, "bias": bias, "dropout": 0.0}
    args |= {"input_vocab_size": inputs, "output_vocab_size": outputs}
    args |= {"n_codes_total": 8, "n_codes_given": 1} if fine else {}
    if old:
        state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 1024, 1024).tril()
        state = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    torch.save({"model": state, "model_args": args}, path)
    return path


# What a conversion writes


def weights_of(folder):
    """Every weight of a checkpoint folder by name, from the files themselves, and the file that holds it."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name == "voices.safetensors":
            continue
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                assert name not in found, f"{name} is in two files"
                found[name] = (file.get_tensor(name), path.name)
    return found


def test_a_folder_holds_everything_that_loading_needs(small):
    names = {path.name for path in small.checkpoint.iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors.index.json", "voices.safetensors"}
    wanted |= {"tokenizer.json", "tokenizer_config.json", "processor_config.json"}
    assert wanted <= names
    assert not [name for name in names if name.startswith((".", "part-"))]
    config = json.loads((small.checkpoint / "config.json").read_text())
    assert config["model_type"] == "bark"
    assert config["architectures"] == ["BarkModel"]
    generation = json.loads((small.checkpoint / "generation_config.json").read_text())
    assert generation["codebook_size"] == small.manifest["constants"]["codebook_size"]
    assert generation["semantic_config"]["eos_token_id"] == small.manifest["constants"]["semantic_pad_token"]


def test_files_can_be_read_by_others(small):
    """Temporary folders and safetensors files are made for their owner alone: another user could not load them."""
    assert small.checkpoint.stat().st_mode & 0o755 == 0o755
    for path in small.checkpoint.iterdir():
        assert path.stat().st_mode & 0o444 == 0o444, path.name


def test_small_shards_hold_every_weight_once(small, tmp_path):
    one = weights_of(small.checkpoint)
    folder = convert(small, tmp_path / "sharded", max_shard_size="40KB")
    many = weights_of(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert one.keys() == many.keys() == index["weight_map"].keys()
    assert {name: file for name, (_, file) in many.items()} == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t, _ in many.values())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 4
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    for file in files:  # as large as asked, or one weight that is larger
        held = [t.numel() * t.element_size() for t, home in many.values() if home == file]
        assert len(held) == 1 or sum(held) <= 40_000
    loaded = bark_hf.BarkModel.from_pretrained(folder).state_dict()
    for name, tensor in small.model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("stage", STAGES)
def test_loaded_weights_equal_the_sources(small, stage):
    _, wanted = suno.read_stage(small.sources[STAGES[stage]], stage)
    got = getattr(small.model, stage).state_dict()
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor.float()), name


def test_loaded_codec_weights_equal_the_sources(small):
    _, wanted = read_codec(small.sources["codec"])
    got = small.model.codec_model.state_dict()
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), name


def test_tokenizer_has_the_ids_of_the_vocabulary_file(small):
    words = small.sources["tokenizer"].read_text(encoding="utf-8").splitlines()
    assert small.processor.tokenizer.get_vocab() == {word: i for i, word in enumerate(words)}
    assert not small.processor.tokenizer.backend_tokenizer.normalizer.lowercase


def test_unicode_line_ends_inside_a_word_do_not_shift_the_ids(small, tmp_path):
    """`str.splitlines` breaks at U+2028 too, and every later id would be one too high."""
    words = small.sources["tokenizer"].read_text(encoding="utf-8").splitlines()
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*words, "a\u2028b", "last"]) + "\n", encoding="utf-8")
    folder = convert(small, tmp_path / "checkpoint", tokenizer=vocab)
    tokenizer = bark_hf.BarkProcessor.from_pretrained(folder).tokenizer
    assert tokenizer.convert_tokens_to_ids("last") == len(words) + 1


def test_a_folder_serves_as_tokenizer_and_its_generation_config_as_constants(small, tmp_path):
    again = convert(
        small,
        tmp_path / "again",
        tokenizer=small.checkpoint,
        generation_config=small.checkpoint / "generation_config.json",
    )
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (again / name).read_text() == (small.checkpoint / name).read_text(), name


def test_sampling_values_that_transformers_filled_in_are_not_taken_over(small, tmp_path):
    """The hub's generation_config.json says `top_k: 50` in every stage, which nobody chose."""
    given = json.loads((small.checkpoint / "generation_config.json").read_text())
    given.pop("bark_hf_format")
    given["transformers_version"] = "4.31.0"
    for stage in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"):
        given[stage] |= {"top_k": 50, "top_p": 1.0, "num_beams": 1, "_from_model_config": False}
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(given))
    written = json.loads((convert(small, tmp_path / "out", generation_config=path) / path.name).read_text())
    assert written == json.loads((small.checkpoint / path.name).read_text())


def test_voices_are_all_there_under_their_paths(small):
    assert small.processor.available_voice_presets == ["made/int32", "made/long", "made/short", "made/uint16"]
    for name in small.processor.available_voice_presets:
        assert small.processor.voice(name) == bark_hf.Voice.load(small.folder / "presets" / f"{name}.npz")


def test_without_voices_there_is_no_bank(small, tmp_path):
    folder = convert(small, tmp_path / "mute", voices=None)
    assert not (folder / "voices.safetensors").exists()
    assert bark_hf.BarkProcessor.from_pretrained(folder).available_voice_presets == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_is_that_of_the_stages_and_the_codec_stays_float32(small, tmp_path, dtype):
    said = []
    folder = convert(small, tmp_path / "half", dtype=dtype, verify=True, report=said.append)
    assert len([line for line in said if "logits agree" in line]) == 3
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    for name, (tensor, _) in weights_of(folder).items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float32 if name.startswith("codec_model.") else dtype), name
    model = bark_hf.BarkModel.from_pretrained(folder)
    assert {p.dtype for p in model.codec_model.parameters()} == {torch.float32}
    assert {p.dtype for s in STAGES for p in getattr(model, s).parameters()} == {dtype}


# Where it writes


def test_an_existing_empty_folder_may_be_the_output(small, tmp_path):
    output = tmp_path / "ready"
    output.mkdir()
    assert convert(small, output) == output
    assert (output / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


def test_an_existing_folder_with_something_in_it_is_left_alone(small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="not an empty folder"):
        convert(small, tmp_path / "mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        convert(small, tmp_path / "mine" / "diary.txt")
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear diary"
    assert len(list(tmp_path.rglob("*"))) == 2


def fail_in(monkeypatch, owner, name, error, after=0):
    real, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("owner", "name", "after", "exists"),
    [
        (checkpoint._Shards, "add", 2, False),
        (checkpoint._Shards, "finish", 0, True),
        (checkpoint.BarkProcessor, "save_pretrained", 0, False),
        (checkpoint, "forward", 1, True),
    ],
)
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_in_the_middle_leaves_no_folder(small, tmp_path, monkeypatch, owner, name, after, error, exists):
    if exists:
        (tmp_path / "out").mkdir()
    fail_in(monkeypatch, owner, name, error, after)
    with pytest.raises(type(error)):
        convert(small, tmp_path / "out", verify=True)
    assert [path.name for path in tmp_path.rglob("*")] == (["out"] if exists else [])


def test_one_stage_at_a_time_is_in_memory(small, tmp_path, monkeypatch):
    """A stage's weights, and their copies in another dtype, are gone before the next stage is read; verify too."""
    alive, stages = [], []
    add = checkpoint._Shards.add

    def read_stage(path, stage):
        gc.collect()
        assert not any(reference() is not None for reference in alive), f"weights of {stages[-1]} live on"
        stages.append(stage)
        config, weights = suno.read_stage(path, stage)
        alive.extend(weakref.ref(tensor) for tensor in weights.values())
        return config, weights

    def watched_add(self, prefix, weights):
        alive.extend(weakref.ref(tensor) for tensor in weights.values())
        add(self, prefix, weights)

    monkeypatch.setattr(checkpoint, "read_stage", read_stage)
    monkeypatch.setattr(checkpoint._Shards, "add", watched_add)
    convert(small, tmp_path / "out", dtype=torch.bfloat16, verify=True)
    assert stages == [*STAGES, *STAGES, *STAGES]  # looked through, written, verified


# Verification


@pytest.mark.parametrize("damage", [2.0, float("nan")])
@pytest.mark.parametrize("stage", STAGES)
def test_verify_catches_a_damaged_weight(small, tmp_path, monkeypatch, stage, damage):
    """One wrong projection, or one NaN: `max(0.0, nan)` is 0.0, so a NaN would pass a plain maximum."""
    add = checkpoint._Shards.add

    def damaging_add(self, prefix, weights):
        if prefix == stage:
            weights = {**weights, "layers.1.mlp.in_proj.weight": weights["layers.1.mlp.in_proj.weight"] * damage}
        add(self, prefix, weights)

    monkeypatch.setattr(checkpoint._Shards, "add", damaging_add)
    refused(small, tmp_path, f"^{stage}: logits differ by", verify=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_the_forward_that_verify_trusts_equals_transformers_bark(small, tmp_path, stage, bias):
    """verify compares our network with a restatement by the same hands; a third implementation breaks the tie."""
    fine = stage == "fine_acoustics"
    path = small.sources[STAGES[stage]]
    if bias:
        vocab = {"semantic": (600, 248), "coarse_acoustics": (376, 376), "fine_acoustics": (96, 96)}[stage]
        path = made_up(tmp_path / "bias.pt", vocab, fine=fine, bias=True)
    config, weights = suno.read_stage(path, stage)
    name = {"semantic": "Semantic", "coarse_acoustics": "Coarse", "fine_acoustics": "Fine"}[stage]
    fields = ("num_layers", "num_heads", "hidden_size", "block_size", "bias", "input_vocab_size", "output_vocab_size")
    theirs = getattr(transformers, f"Bark{name}Config")(**{field: getattr(config, field) for field in fields})
    model = getattr(transformers, f"Bark{name}Model")(theirs).eval()
    problems = model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    assert not problems.unexpected_keys
    assert all(key.endswith(".attn.bias") for key in problems.missing_keys)  # mask buffers
    ids = torch.randint(config.input_vocab_size, (1, 300, 8) if fine else (1, 300))
    for codebook in (1, 4, 7) if fine else (None,):
        got = suno.forward(weights, config, ids, codebook)
        with torch.no_grad():
            wanted = model(codebook, ids).logits if fine else model(ids).logits
        assert got.shape == wanted.shape
        assert (got - wanted).abs().max() <= 1e-4 * max(1, wanted.abs().max())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # encodec's weight norms
def test_codec_equals_the_encodec_package(tmp_path, monkeypatch):
    """The original codec's package beside ours; torchaudio, which it imports but needs for files only, is a stub."""
    stub = types.ModuleType("torchaudio")
    stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    monkeypatch.setitem(sys.modules, "torchaudio", stub)
    encodec = pytest.importorskip("encodec", reason="not installed: pip install --no-deps encodec; pip install einops")
    theirs = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    theirs.set_target_bandwidth(6.0)
    for layer in theirs.quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1)
    torch.save(theirs.state_dict(), tmp_path / "encodec.th")
    config, weights = read_codec(tmp_path / "encodec.th")
    ours = EncodecModel(config).eval()
    ours.load_state_dict(weights)
    codes, wave = torch.randint(1024, (1, 8, 50)), torch.randn(1, 1, 24_000) / 10
    with torch.no_grad():
        wanted, got = theirs.decode([(codes, None)]), ours.decode(codes[None], [None]).audio_values
        assert (got - wanted).abs().max() <= 1e-4 * max(1, wanted.abs().max())
        assert torch.equal(ours.encode(wave, bandwidth=6.0).audio_codes[0], theirs.encode(wave)[0][0])


# Old files


def test_old_checkpoints_convert(small, tmp_path):
    """`_orig_mod.` names, mask buffers, biases everywhere; the result is verified and lacks the buffers."""
    made = {
        "text": made_up(tmp_path / "old-text.pt", (600, 248), bias=True, old=True),
        "coarse": made_up(tmp_path / "old-coarse.pt", (376, 376), bias=True, old=True),
        "fine": made_up(tmp_path / "old-fine.pt", (96, 96), fine=True, bias=True, old=True),
    }
    folder = convert(small, tmp_path / "out", **made, verify=True)
    assert not [name for name in weights_of(folder) if name.endswith(".attn.bias")]
    model = bark_hf.BarkModel.from_pretrained(folder)
    assert model.semantic.layers[0].attn.att_proj.bias is not None
    assert model.config.coarse_acoustics_config.bias


def test_one_vocab_size_means_both(small):
    assert "input_vocab_size" not in original(small, "coarse")["model_args"]
    config, _ = suno.read_stage(small.sources["coarse"], "coarse_acoustics")
    assert config.input_vocab_size == config.output_vocab_size == 376


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_scalars_load_under_both_names_of_their_module(tmp_path, module, kind):
    """The released files hold one under the old name, which torch >= 2.6 refuses by default."""
    torch.save({"best_val_loss": kind(2.5), "w": torch.ones(2)}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as old, zipfile.ZipFile(tmp_path / "old.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
                data = data.replace(b"numpy.core.multiarray", module.encode())
                assert module.encode() in data
            new.writestr(name, data)
    assert suno.load_pickle(tmp_path / "old.pt")["best_val_loss"] == 2.5


def test_files_from_before_the_zip_format_load(small, tmp_path):
    """They cannot be memory-mapped."""
    torch.save(original(small, "text"), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    _, got = suno.read_stage(tmp_path / "old.pt", "semantic")
    _, wanted = suno.read_stage(small.sources["text"], "semantic")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_what_numpy_scalars_need_is_admitted_only_while_loading(small):
    before = set(torch.serialization.get_safe_globals())
    suno.load_pickle(small.sources["coarse"])
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("name", "known", "warns"), [("text.pt", "other", True), ("text.pt", "same", False), ("mine.pt", "other", False)]
)
def test_a_released_name_with_another_md5_warns(small, tmp_path, monkeypatch, name, known, warns):
    path = tmp_path / name
    shutil.copy(small.sources["text"], path)
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    table = {"text.pt": digest if known == "same" else "0" * 32}
    monkeypatch.setattr(suno, "RELEASED_MD5", table)
    said = []
    convert(small, tmp_path / "out", text=path, report=said.append)
    warnings = [line for line in said if line.startswith("warning")]
    assert bool(warnings) == warns
    assert all(str(path) in line and digest in line and "0" * 32 in line for line in warnings)


# Wrong files


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"text": "coarse"}, "a coarse checkpoint"),
        ({"coarse": "text"}, "a text checkpoint"),
        ({"text": "fine"}, "is a fine checkpoint"),
        ({"fine": "text"}, "is a causal checkpoint|lacks|not one of Bark"),
        ({"fine": "coarse"}, "is a causal checkpoint|lacks|not one of Bark"),
        ({"text": "codec"}, "lacks `model` and `model_args`"),
        ({"codec": "text"}, "not an EnCodec"),
        ({"codec": "tokenizer"}, "cannot be loaded safely"),
        ({"voices": "tokenizer"}, "no folder of voices"),
        ({"tokenizer": "text"}, "is no tokenizer"),
    ],
)
def test_swapped_files_are_refused(small, tmp_path, changed, match):
    refused(small, tmp_path, match, **{name: small.sources[other] for name, other in changed.items()})


@pytest.mark.parametrize("name", ["text", "coarse", "fine", "codec"])
@pytest.mark.parametrize("content", [None, b"", bytes(range(200, 256)) * 40, b"PK\x03\x04" + bytes(100)])
def test_files_that_are_no_checkpoints_are_refused(small, tmp_path, name, content):
    path = tmp_path / "file.pt"
    if content is not None:
        path.write_bytes(content)
    sentence = refused(small, tmp_path, "cannot be loaded safely|There is no", **{name: path})
    assert str(path) in sentence


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"fine": "text"}, "not one of Bark|causal|lacks"),
        ({"codec": "text"}, "not an EnCodec"),
        ({"codec": "nowhere"}, "no codec file"),
    ],
)
def test_the_last_file_is_looked_at_before_the_first_is_written(small, tmp_path, monkeypatch, changed, match):
    """Guards against minutes of writing before a mistyped path is told."""
    monkeypatch.setattr(checkpoint._Shards, "add", lambda *given: pytest.fail("written"))
    sources = {**small.sources, "nowhere": tmp_path / "nowhere.th"}
    refused(small, tmp_path, match, **{name: sources[other] for name, other in changed.items()})


class Harmful:
    """Unpickling it creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("name", ["text", "fine", "codec"])
def test_a_pickle_that_runs_code_is_refused_by_name_and_does_not_run(small, tmp_path, name):
    marker = tmp_path / "it-ran"
    data = suno.load_pickle(small.sources[name])
    torch.save({**data, "extra": Harmful(marker)}, tmp_path / "harmful.pt")
    refused(small, tmp_path, r"it holds (posix|nt)\.system, which could run code", **{name: tmp_path / "harmful.pt"})
    assert not marker.exists()


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {"model": {}}, {"model_args": {}, "models": 1}])
def test_torch_files_without_model_and_arguments_are_refused(small, tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    refused(small, tmp_path, "lacks `model` and `model_args`", text=tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"n_head": None}, "n_head"),
        ({"n_head": 3}, "multiple of `num_heads`"),
        ({"n_head": "two"}, "num_heads"),
        ({"n_embd": -16}, "hidden_size"),
        ({"input_vocab_size": None}, "input_vocab_size"),
        ({"n_layer": 1}, "has unknown 6 weights"),
        ({"n_layer": 3}, "lacks 6 weights"),
        ({"block_size": 512}, "has other shapes for 1 weights"),
        ({"bias": True}, "lacks"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(small, tmp_path, args, match):
    refused(small, tmp_path, match, text=resaved(small, tmp_path, "text", args=args))


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_weights_that_do_not_fit_are_refused(small, tmp_path, name):
    key = "transformer.h.1.attn.c_proj.weight"
    ours = r"layers\.1\.attn\.out_proj\.weight"
    path = resaved(small, tmp_path, name, model={key: None})
    refused(small, tmp_path, f"lacks 1 weights, {ours}", **{name: path})
    path = resaved(small, tmp_path, name, model={"transformer.h.7.ln_9.weight": torch.ones(1)})
    refused(small, tmp_path, r"has unknown 1 weights, layers\.7", **{name: path})
    path = resaved(small, tmp_path, name, model={key: torch.ones(16, 17)})
    refused(small, tmp_path, f"has other shapes for 1 weights, {ours}", **{name: path})
    path = resaved(small, tmp_path, name, model={key: 3})
    refused(small, tmp_path, f"{ours} is no tensor but int", **{name: path})


def test_fine_heads_that_are_not_tied_are_refused(small, tmp_path):
    """Leaving a head out because it should be tied would lose its weights silently."""
    path = resaved(small, tmp_path, "fine", model={"lm_heads.3.weight": torch.randn(96, 16)})
    refused(small, tmp_path, r"lm_heads\.3\.weight should be tied to input_embeds_layers\.4\.weight", fine=path)


EMBED = "quantizer.vq.layers.0._codebook.embed"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: {EMBED: state[EMBED]}, "lacks 'encoder.model.0.conv.conv.weight_v'"),
        (lambda state: {**state, EMBED: torch.zeros(64)}, "not an EnCodec that Bark can use"),
        (lambda state: {**state, EMBED: 3}, "is no tensor but int"),
        (lambda state: {**state, "extra": torch.zeros(1)}, "has unknown 1 weights"),
        (lambda state: {k: v for k, v in state.items() if "layers.3" not in k}, "lacks"),
        (lambda state: {**state, "decoder.model.0.conv.norm.weight": torch.zeros(2)}, "48 kHz"),
        (lambda state: {"state": state}, "no quantizer.vq layers"),
        (lambda state: list(state.values()), "no quantizer.vq layers"),
    ],
)
def test_codecs_that_are_none_are_refused(small, tmp_path, change, match):
    torch.save(change(torch.load(small.sources["codec"])), tmp_path / "codec.th")
    refused(small, tmp_path, match, codec=tmp_path / "codec.th")


def test_a_codec_with_too_few_codes_is_refused(small, tmp_path):
    """Stages with Suno's sizes and ids, but a codec of 64 codes: ids would run over its codebooks."""
    made = {
        "text": made_up(tmp_path / "a.pt", (129_600, 10_048), width=2),
        "coarse": made_up(tmp_path / "b.pt", (12_096, 12_096), width=2),
        "fine": made_up(tmp_path / "c.pt", (1_056, 1_056), width=2, fine=True),
    }
    refused(small, tmp_path, r"codec_config\.codebook_size` \(64\)", **made, generation_config=None)


def test_stages_with_other_vocabularies_than_sunos_need_their_ids(small, tmp_path):
    refused(small, tmp_path, "needs a generation config with its own ids", generation_config=None)


def test_a_tokenizer_with_more_ids_than_the_text_stage_is_refused(small, tmp_path):
    """Also by one, and by its highest id: this vocabulary holds a word twice, so its length is one less."""
    words = small.sources["tokenizer"].read_text(encoding="utf-8").splitlines()
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*words, *(f"word{i}" for i in range(348 - len(words)))]), encoding="utf-8")
    refused(small, tmp_path, "The tokenizer has 348 ids, the text stage has room for 347", tokenizer=vocab)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"hello\nworld\n", b"\xff\xfe\x00"])
def test_vocabularies_that_are_none_are_refused(small, tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    refused(small, tmp_path, "is no tokenizer", tokenizer=tmp_path / "vocab.txt")


def test_folders_and_names_without_a_tokenizer_are_refused(small, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "nowhere", "no-such-user/no-such-tokenizer"):
        refused(small, tmp_path, "is no tokenizer", tokenizer=source)


def voices(tmp_path, **files):
    folder = tmp_path / "voices"
    folder.mkdir()
    for name, arrays in files.items():
        np.savez(folder / f"{name.replace('_', ' ')}.npz", **arrays)
    return folder


def a_voice(code=0):
    arrays = {
        "semantic_prompt": np.zeros(40),
        "coarse_prompt": np.zeros((2, 60)),
        "fine_prompt": np.full((8, 60), code),
    }
    return {name: array.astype(np.int64) for name, array in arrays.items()}


def test_an_empty_folder_of_voices_is_refused(small, tmp_path):
    refused(small, tmp_path, "holds no .npz voices", voices=voices(tmp_path))


def test_a_bad_voice_is_refused_by_its_file(small, tmp_path):
    bad = {**a_voice(), "coarse_prompt": np.zeros((2, 5), dtype=np.int64)}
    refused(small, tmp_path, r"bad\.npz: .*must be 1\.5", voices=voices(tmp_path, good=a_voice(), bad=bad))


def test_a_voice_out_of_the_models_range_is_refused_by_name(small, tmp_path):
    refused(small, tmp_path, "Voice high: .*holds id 64", voices=voices(tmp_path, good=a_voice(63), high=a_voice(64)))


def test_a_voice_whose_file_name_cannot_name_it_is_refused(small, tmp_path):
    """The bank would hold it, but no processor would list it."""
    refused(small, tmp_path, "'my voice' cannot name a voice", voices=voices(tmp_path, my_voice=a_voice()))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "is not a JSON file"),
        ('{"semantic_vocab_size": ', "is not a JSON file"),
        ("[1, 2]", "must hold a JSON object"),
        ('{"semantic_vocab": 3}', "has no field 'semantic_vocab'"),
        ('{"semantic_config": {"temprature": 1.0}}', "Did you mean 'temperature'"),
        ('{"semantic_config": 3}', "must be a dict"),
        ('{"semantic_vocab_size": "many"}', "`semantic_vocab_size` must be int"),
        ('{"codebook_size": 0}', "`codebook_size` must be a positive integer"),
    ],
)
def test_bad_generation_configs_are_refused(small, tmp_path, content, match):
    path = tmp_path / "ids.json"
    if content is not None:
        path.write_text(content)
    refused(small, tmp_path, match, generation_config=path)


# Voice presets alone


def test_voice_presets_become_one_smaller_bank(small, tmp_path):
    bank = tmp_path / "voices.safetensors"
    made = convert_voice_presets(small.folder / "presets", bank)
    assert list(made) == ["made/int32", "made/long", "made/short", "made/uint16"]
    assert [path.name for path in tmp_path.iterdir()] == ["voices.safetensors"]
    read = bark_hf.VoicePresets.from_pretrained(tmp_path)
    assert dict(read) == made
    for name in read:
        with np.load(small.folder / "presets" / f"{name}.npz") as arrays:
            assert all(np.array_equal(read[name][key], arrays[key]) for key in arrays.files)


def test_a_bank_is_less_than_half_of_suno_like_files(small, tmp_path):
    """The original's int64 files are four times as large as their ids."""
    shutil.copy(small.folder / "presets" / "made" / "long.npz", tmp_path)
    convert_voice_presets(tmp_path, tmp_path / "bank.safetensors")
    assert (tmp_path / "bank.safetensors").stat().st_size < (tmp_path / "long.npz").stat().st_size / 2


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failed_bank_leaves_the_old_one(small, tmp_path, monkeypatch, error):
    def half(tensors, path):
        path.write_bytes(b"half")
        raise error

    bank = tmp_path / "bank.safetensors"
    bank.write_bytes(b"old")
    monkeypatch.setattr(bark_hf.voices.voice, "save_file", half)
    with pytest.raises(type(error)):
        convert_voice_presets(small.folder / "presets", bank)
    assert bank.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [bank]


def test_voice_presets_that_cannot_be_converted_are_refused(tmp_path):
    bank = tmp_path / "bank.safetensors"
    with pytest.raises(ValueError, match="no folder of voices"):
        convert_voice_presets(tmp_path / "nowhere", bank)
    folder = voices(tmp_path, good=a_voice())
    (folder / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"bad\.npz is not a voice file"):
        convert_voice_presets(folder, bank)
    (folder / "bad.npz").unlink()
    (folder / "good.npz").rename(folder / "not a name.npz")
    with pytest.raises(ValueError, match="cannot name a voice"):
        convert_voice_presets(folder, bank)
    assert not bank.exists()
