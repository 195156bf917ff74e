"""Where weights may live: device maps, disk, the meta device, stages moved one at a time. Tokens stay the same.

On a CPU; accelerators run through the same hooks."""

import pytest
import torch
from accelerate import infer_auto_device_map, init_empty_weights, load_checkpoint_and_dispatch
from accelerate.utils import compute_module_sizes
from conftest import since_5_20

import bark_hf
from bark_hf.codec import CodecStream
from bark_hf.codec.encodec import is_offloaded

STAGES = ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model")
TEXTS = ["Hello world, this is the music.", "x"]


def speak(model, small):
    """Everything that a greedy and a seeded call make, voices included, as one list of tensors."""
    inputs = small.processor(TEXTS, voice_preset=["made/short", None])
    made = []
    for options in ({"do_sample": False}, {"seed": [3, 4]}):
        out = model.generate(**inputs, semantic_max_new_tokens=12, return_dict_in_generate=True, **options)
        made += [*out.semantic_tokens, *out.coarse_codes, *out.fine_codes, out.audio, out.audio_lengths]
    return [tensor.cpu() for tensor in made]


@pytest.fixture(scope="module")
def wanted(small):
    return speak(small.model, small)


def assert_same(model, small, wanted):
    for got, expected in zip(speak(model, small), wanted, strict=True):
        if expected.is_floating_point():
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        else:
            assert torch.equal(got, expected)


def on_meta(model):
    return {name for name, tensor in model.state_dict().items() if tensor.is_meta}


def load(small, **options):
    return bark_hf.BarkModel.from_pretrained(small.checkpoint, **options)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, dict.fromkeys(STAGES, "cpu")], ids=["name", "all", "each"])
def test_device_maps_give_the_same_speech(device_map, small, wanted):
    model = load(small, device_map=device_map)
    assert not on_meta(model)
    assert_same(model, small, wanted)


@since_5_20
@pytest.mark.parametrize("offloaded", STAGES)
def test_a_stage_on_disk_gives_the_same_speech(offloaded, small, wanted, tmp_path):
    """Guards against inputs sent to the meta device, and against a codec whose hooks never run."""
    device_map = {**dict.fromkeys(STAGES, "cpu"), offloaded: "disk"}
    model = load(small, device_map=device_map, offload_folder=tmp_path)
    assert on_meta(model)
    assert all(name.startswith(offloaded) for name in on_meta(model))
    assert_same(model, small, wanted)


@since_5_20
def test_every_stage_on_disk_gives_the_same_speech(small, wanted, tmp_path):
    model = load(small, device_map={**dict.fromkeys(STAGES, "disk"), "semantic": "cpu"}, offload_folder=tmp_path)
    assert_same(model, small, wanted)


@since_5_20
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_an_automatic_map_with_little_memory_spills_to_disk(share, small, wanted, tmp_path):
    """At each share the border falls elsewhere; among the fine stage's tied tables it once had no answer."""
    total = compute_module_sizes(small.model)[""]
    model = load(small, device_map="auto", max_memory={"cpu": int(total * share)}, offload_folder=tmp_path)
    assert on_meta(model)
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    assert_same(model, small, wanted)


def test_an_automatic_map_with_room_leaves_nothing_out(small, wanted):
    model = load(small, device_map="auto", max_memory={"cpu": "1GB"})
    assert not on_meta(model)
    assert_same(model, small, wanted)


def test_a_stage_alone_takes_a_device_map(small, tmp_path):
    ids = torch.randint(300, (1, 20))
    parts = [name for name, _ in small.model.coarse_acoustics.named_children()]
    model = bark_hf.BarkCoarseModel.from_pretrained(small.checkpoint, device_map={"": "cpu"})
    spilled = bark_hf.BarkCoarseModel.from_pretrained(
        small.checkpoint,
        device_map={**dict.fromkeys(parts, "cpu"), "layers": "disk"},
        offload_folder=tmp_path,
    )
    with torch.no_grad():
        expected = small.model.coarse_acoustics(ids).logits
        torch.testing.assert_close(model(ids).logits, expected)
        torch.testing.assert_close(spilled(ids).logits, expected)


@pytest.mark.filterwarnings("ignore:Current model requires:UserWarning")  # accelerate, of the maps with least memory
def test_blocks_are_never_split(small):
    """A block split over devices would break its residual connections."""
    with init_empty_weights():
        model = bark_hf.BarkModel(small.model.config)
    total = compute_module_sizes(model)[""]
    splits = set()
    for share in range(1, 20):
        device_map = infer_auto_device_map(
            model,
            max_memory={0: total * share // 20, "cpu": total, "disk": 10 * total},
            no_split_module_classes=list(model._no_split_modules),
        )
        inside = [name for name in device_map if ".layers." in name and not name.startswith("codec_model")]
        assert all(len(name.split(".layers.")[1].split(".")) == 1 for name in inside), device_map
        splits |= set(inside)
    assert splits, "some map divides a stage between its blocks"


def test_models_are_built_without_memory_and_filled_later(small, wanted):
    """Guards against work on real tensors in constructors."""
    with init_empty_weights(include_buffers=True):
        empty = bark_hf.BarkModel(small.model.config)
    with torch.device("meta"):
        also_empty = bark_hf.BarkModel(small.model.config)
    for model in (empty, also_empty):
        assert on_meta(model) >= {name for name, _ in model.named_parameters()}
        assert {name for name in model.state_dict() if not name.startswith("codec_model")} <= on_meta(model)


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, dict.fromkeys(STAGES, "cpu")])
@pytest.mark.parametrize("tie", [False, True])
def test_accelerate_fills_an_empty_model(device_map, tie, small, wanted):
    """`init_empty_weights` breaks ties, and the fine stage's heads, which no checkpoint holds, stayed empty."""
    with init_empty_weights():
        model = bark_hf.BarkModel(small.model.config)
    model.generation_config = small.model.generation_config
    if tie:  # as accelerate asks for
        model.tie_weights()
    model = load_checkpoint_and_dispatch(model, str(small.checkpoint), device_map=device_map).eval()
    assert not on_meta(model)
    for head, table in zip(model.fine_acoustics.lm_heads, model.fine_acoustics.input_embeds_layers[1:], strict=True):
        assert head.weight is table.weight
    assert_same(model, small, wanted)


@pytest.mark.parametrize("stage", ["BarkSemanticModel", "BarkCoarseModel", "BarkFineModel"])
def test_accelerate_fills_an_empty_stage(stage, small, tmp_path):
    network = getattr(bark_hf, stage).from_pretrained(small.checkpoint)
    network.save_pretrained(tmp_path)
    with init_empty_weights():
        empty = type(network)(network.config)
    empty = load_checkpoint_and_dispatch(empty, str(tmp_path), device_map={"": "cpu"})
    wanted = network.state_dict()
    assert empty.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in empty.state_dict().items())


def test_heads_that_are_not_tied_stay_so_in_an_empty_model(small):
    config = bark_hf.BarkFineConfig(
        **{**small.model.config.fine_acoustics_config.to_dict(), "tie_word_embeddings": False}
    )
    with init_empty_weights():
        network = bark_hf.BarkFineModel(config)
    assert network.lm_heads[0].weight is not network.input_embeds_layers[1].weight


def test_loading_leaves_nothing_on_the_meta_device(small):
    """`from_pretrained` builds on meta first; a tensor that is not in the file would stay there."""
    for model in (load(small), load(small, low_cpu_mem_usage=True)):
        assert not on_meta(model)
        assert not [name for name, tensor in (*model.named_buffers(), *model.named_parameters()) if tensor.is_meta]
    for model_class in (bark_hf.BarkSemanticModel, bark_hf.BarkCoarseModel, bark_hf.BarkFineModel):
        assert not on_meta(model_class.from_pretrained(small.checkpoint))


def test_cpu_offload_runs_the_chain_of_hooks_again_and_again(small, wanted):
    """Each stage sends the one before it home; the last one must not block the next call's first."""
    model = load(small)
    model.enable_cpu_offload(device="cpu")
    for _ in range(2):
        assert_same(model, small, wanted)
    for stage in STAGES:
        assert getattr(model, stage)._hf_hook is not None


def test_cpu_offload_is_a_ring_however_often_it_is_asked_for(small):
    """Else the codec stays on the accelerator beside the next call's first stage, or hooks pile up."""
    model = load(small)
    for _ in range(2):
        model.enable_cpu_offload(device="cpu")
    hooks = [getattr(model, stage)._hf_hook for stage in STAGES]
    before = [model.codec_model, model.semantic, model.coarse_acoustics, model.fine_acoustics]
    assert [hook.prev_module_hook.model for hook in hooks] == before


def test_cpu_offload_names_the_accelerators_number(small):
    """Hooks compare it to a weight's device, and would move the stage at each step."""
    model = load(small)
    model.enable_cpu_offload(accelerator_id=1, device="cuda")  # nothing is moved before a stage is called
    assert model.semantic.device == torch.device("cuda", 1)


def test_an_offloaded_codec_is_used_by_its_forward_only(small, monkeypatch):
    """Hooks bring its weights for that alone."""
    model, calls = load(small), []
    model.enable_cpu_offload(device="cpu")
    monkeypatch.setattr(model.codec_model._hf_hook, "pre_forward", lambda _, *a, **k: calls.append(1) or (a, k))
    wave = torch.randn(6400)
    (codes,) = model.codec_model.encode_all([wave], 8)
    assert torch.equal(codes, small.model.codec_model.encode_all([wave], 8)[0])
    assert codes.shape == (8, 20)
    stream = CodecStream(model.codec_model)
    assert [len(stream.push(codes[:, :12])), len(stream.push(codes[:, 12:])), len(stream.end())] == [0, 0, 6400]
    assert len(calls) == 2


@since_5_20
def test_a_model_with_its_codec_on_disk_streams(small, tmp_path):
    device_map = {**dict.fromkeys(STAGES, "cpu"), "codec_model": "disk"}
    model = load(small, device_map=device_map, offload_folder=tmp_path)
    run = {**small.processor(TEXTS[0]), "seed": 3, "max_new_tokens": 20, "allow_early_stop": False}
    (piece,) = model.stream(**run)
    wanted = list(small.model.stream(**run))
    assert sum(map(len, wanted)) == len(piece)
    model = load(small, device_map=dict.fromkeys(STAGES, "cpu"))
    assert not is_offloaded(model.codec_model)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_cpu_offload_without_an_accelerator_says_so(small):
    model = load(small)
    with pytest.raises(RuntimeError, match="found none"):
        model.enable_cpu_offload()
    assert not hasattr(model.semantic, "_hf_hook")
