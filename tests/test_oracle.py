"""The live oracle: transformers' own Bark, same random weights. Logits, folders, greedy tokens and processors agree.

Only where the bugs of that Bark do not reach: one sample at a time, argmax, windows of an even length, a vocabulary
without ids past the coarse codes, text of full length with a mask."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig
from transformers.models.bark import configuration_bark, generation_configuration_bark, modeling_bark, processing_bark

import bark_hf

SIZE = {"num_layers": 2, "num_heads": 2, "hidden_size": 16}
VOCABULARIES = {
    "semantic": {"input_vocab_size": 600, "output_vocab_size": 248},
    "coarse_acoustics": {"input_vocab_size": 344, "output_vocab_size": 328},
    "fine_acoustics": {"input_vocab_size": 72, "output_vocab_size": 72},
}
CODEC = {"num_filters": 2, "hidden_size": 16, "codebook_size": 64, "codebook_dim": 16, "target_bandwidths": [3.6]}
IDS = {  # of the small goldens
    "semantic_config": {
        "semantic_vocab_size": 200,
        "eos_token_id": 200,
        "text_encoding_offset": 248,
        "text_pad_token": 595,
        "semantic_infer_token": 599,
    },
    "coarse_acoustics_config": {"coarse_semantic_pad_token": 328, "coarse_infer_token": 330},
    "fine_acoustics_config": {},
    "codebook_size": 64,
}
OURS = {
    "semantic": (bark_hf.BarkSemanticModel, bark_hf.BarkSemanticConfig),
    "coarse_acoustics": (bark_hf.BarkCoarseModel, bark_hf.BarkCoarseConfig),
    "fine_acoustics": (bark_hf.BarkFineModel, bark_hf.BarkFineConfig),
}
THEIRS = {
    "semantic": (modeling_bark.BarkSemanticModel, configuration_bark.BarkSemanticConfig),
    "coarse_acoustics": (modeling_bark.BarkCoarseModel, configuration_bark.BarkCoarseConfig),
    "fine_acoustics": (modeling_bark.BarkFineModel, configuration_bark.BarkFineConfig),
}


@torch.no_grad()
def randomize(model, spread=0.3):
    """Weights wide enough that logits have clear margins and differ by position; the codec gets codebooks."""
    for name, parameter in model.named_parameters():
        if not name.startswith("codec_model"):
            scale = spread * (3 if "position" in name else 1)
            parameter.copy_(torch.randn_like(parameter) * scale + ("layernorm" in name and name.endswith("weight")))
    for name, buffer in model.named_buffers():
        if name.endswith("codebook.embed"):
            buffer.copy_(torch.randn_like(buffer))
    return model.eval()


def composite(package, bias):
    """A tiny random composite of one of the two packages, with the small goldens' ids."""
    stages = {f"{name}_config": {**SIZE, **sizes, "bias": bias} for name, sizes in VOCABULARIES.items()}
    if package is bark_hf:
        model = bark_hf.BarkModel(bark_hf.BarkConfig(**stages, codec_config=CODEC))
        model.generation_config = bark_hf.BarkGenerationConfig(**IDS)
        return randomize(model)
    codec = {**CODEC, "model_type": "encodec"}
    model = modeling_bark.BarkModel(configuration_bark.BarkConfig(**stages, codec_config=codec))
    model.generation_config = their_generation_config(**IDS)
    return randomize(model)


def their_generation_config(**fields):
    """What transformers saves with a Bark: a plain GenerationConfig whose stages are dicts."""
    nested = generation_configuration_bark.BarkGenerationConfig(**fields).to_dict()
    return GenerationConfig(**nested)


@pytest.fixture(scope="module", params=[True, False], ids=["bias", "no_bias"])
def from_ours(request, tmp_path_factory):
    """(our model, their model, folder): we wrote the folder."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("ours")
    ours = composite(bark_hf, request.param)
    ours.save_pretrained(folder)
    return ours, modeling_bark.BarkModel.from_pretrained(folder).eval(), folder


@pytest.fixture(scope="module", params=[True, False], ids=["bias", "no_bias"])
def from_theirs(request, tmp_path_factory):
    """(our model, their model, folder): they wrote the folder."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("theirs")
    theirs = composite(modeling_bark, request.param)
    theirs.save_pretrained(folder)
    return bark_hf.BarkModel.from_pretrained(folder), theirs, folder


@pytest.fixture
def said(caplog):
    """What transformers logs at WARNING or above; its logger does not pass records on."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.removeHandler(caplog.handler)


def assert_close(got, wanted, name):
    worst = (got - wanted).abs().max().item()
    assert got.shape == wanted.shape, name
    assert worst <= 1e-4 * max(1.0, wanted.abs().max().item()), f"{name}: {worst}"


@torch.no_grad()
def assert_same_logits(ours, theirs, stage, length=300):
    size = ours.config.input_vocab_size
    if stage == "fine_acoustics":
        ids = torch.randint(size, (1, length, 8))
        for codebook in range(1, 8):
            assert_close(ours(codebook, ids).logits, theirs(codebook, ids).logits, f"codebook {codebook}")
        return
    ids = torch.randint(size, (2, length))
    wanted = theirs(ids, use_cache=False).logits
    assert_close(ours(ids, use_cache=False).logits, wanted, stage)
    if stage == "semantic":
        history = torch.randint(size, (2, 256))
        embeds = theirs.input_embeds_layer(ids)
        embeds[:, :256] += theirs.input_embeds_layer(history)
        wanted = theirs(inputs_embeds=embeds, use_cache=False).logits
        assert_close(ours(ids, history_ids=history, use_cache=False).logits, wanted, "semantic with history")


# Folders, both ways


@pytest.mark.parametrize("stage", OURS)
def test_their_folder_gives_our_model_their_logits(from_theirs, stage):
    ours, theirs, _ = from_theirs
    assert_same_logits(getattr(ours, stage), getattr(theirs, stage), stage)


@pytest.mark.parametrize("stage", OURS)
def test_our_folder_gives_their_model_our_logits(from_ours, stage):
    ours, theirs, _ = from_ours
    assert_same_logits(getattr(ours, stage), getattr(theirs, stage), stage)
    assert_same_logits(getattr(ours, stage), getattr(theirs, stage), stage, length=1024)


def test_their_folder_with_its_masks_loads_in_silence(from_theirs, said):
    """Guards against a load report over the mask buffers that transformers writes for every causal layer."""
    _, _, folder = from_theirs
    masks = [name for name in load_file(folder / "model.safetensors") if name.endswith(".attn.bias")]
    assert len(masks) == 4
    _, info = bark_hf.BarkModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    for model_class, _ in OURS.values():
        _, info = model_class.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values())
    assert said() == []


def test_our_folder_has_no_masks_and_theirs_come_out_right(from_ours):
    _, theirs, folder = from_ours
    assert not [name for name in load_file(folder / "model.safetensors") if name.endswith(".attn.bias")]
    fresh, info = modeling_bark.BarkModel.from_pretrained(folder, output_loading_info=True)
    assert all(name.endswith(".attn.bias") for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    for stage in (fresh.semantic, fresh.coarse_acoustics, theirs.semantic):
        for layer in stage.layers:
            assert torch.equal(layer.attn.bias[0, 0], torch.ones(1024, 1024, dtype=torch.bool).tril())


@pytest.mark.parametrize("stage", OURS)
def test_one_stage_goes_there_and_back(stage, tmp_path):
    torch.manual_seed(3)
    our_class, our_config = OURS[stage]
    their_class, _ = THEIRS[stage]
    ours = randomize(our_class(our_config(**SIZE, **VOCABULARIES[stage])))
    ours.save_pretrained(tmp_path / "ours")
    theirs = their_class.from_pretrained(tmp_path / "ours").eval()
    assert_same_logits(ours, theirs, stage)
    theirs.save_pretrained(tmp_path / "theirs")
    back, info = our_class.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())


# Configs


def common(config):
    """The fields that both packages know, as JSON values."""
    stages = ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    fields = [*SIZE, "block_size", "input_vocab_size", "output_vocab_size", "bias", "dropout", "initializer_range"]
    fine = config.fine_acoustics_config
    found = {stage: {name: getattr(getattr(config, stage), name) for name in fields} for stage in stages}
    codec = {name: getattr(config.codec_config, name) for name in CODEC}
    return {**found, "fine": (fine.n_codes_total, fine.n_codes_given, fine.tie_word_embeddings), "codec": codec}


def test_configs_cross_both_ways(from_ours, from_theirs):
    for ours, theirs, folder in (from_ours, from_theirs):
        wanted = common(theirs.config)
        assert common(ours.config) == wanted
        assert common(bark_hf.BarkConfig.from_pretrained(folder)) == wanted
        assert common(configuration_bark.BarkConfig.from_pretrained(folder)) == wanted
        assert json.loads((folder / "config.json").read_text())["model_type"] == "bark"


def test_a_config_of_transformers_oldest_kind_loads(tmp_path):
    """Sections that miss fields, or that are missing as a whole, keep Bark's sizes; unknown fields do no harm."""
    section = {"num_layers": 3, "use_mems": True, "torch_dtype": "float32", "transformers_version": "4.31.0.dev0"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bark", "semantic_config": section}))
    config = bark_hf.BarkConfig.from_pretrained(tmp_path)
    assert (config.semantic_config.num_layers, config.semantic_config.input_vocab_size) == (3, 129_600)
    assert config.coarse_acoustics_config.input_vocab_size == 12_096
    assert config.codec_config.model_type == "encodec"


def sampling(config):
    stages = (config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config)
    return [(stage.do_sample, stage.temperature, stage.top_k, stage.top_p) for stage in stages]


SUNOS = [(True, 0.7, None, None), (True, 0.7, None, None), (True, 0.5, None, None)]


def write(folder, config: dict):
    (folder / "generation_config.json").write_text(json.dumps(config))
    return bark_hf.BarkGenerationConfig.from_pretrained(folder)


def test_a_generation_config_of_transformers_keeps_ids_and_not_its_filled_in_defaults(from_theirs):
    """Guards against greedy speech with top_k=50 from every checkpoint that transformers wrote."""
    ours, _, folder = from_theirs
    written = json.loads((folder / "generation_config.json").read_text())
    assert written["semantic_config"]["do_sample"] is False
    for config in (ours.generation_config, bark_hf.BarkGenerationConfig.from_pretrained(folder)):
        assert sampling(config) == SUNOS
        assert config.semantic_config.min_eos_p == 0.2
        assert config.codebook_size == 64
        for section, ids in IDS.items():
            if isinstance(ids, dict):
                assert {name: getattr(getattr(config, section), name) for name in ids} == ids


def test_a_hub_generation_config_loads(tmp_path):
    """The hub's files: Suno's temperatures, and top_k 50 and top_p 1.0 that nobody meant."""
    filled = {"top_k": 50, "top_p": 1.0, "do_sample": True, "num_beams": 1, "max_length": 20, "eos_token_id": 10_000}
    written = {
        "_from_model_config": True,
        "transformers_version": "4.31.0.dev0",
        "model_type": "bark",
        "semantic_config": {**filled, "temperature": 0.7, "semantic_pad_token": 10_000, "min_eos_p": None},
        "coarse_acoustics_config": {**filled, "temperature": 0.7, "max_coarse_history": 630},
        "fine_acoustics_config": {**filled, "temperature": 0.5, "n_fine_codebooks": 8},
    }
    config = write(tmp_path, written)
    assert sampling(config) == SUNOS
    assert config.semantic_config.min_eos_p == 0.2
    assert (config.sample_rate, config.codebook_size) == (24_000, 1024)
    assert config.semantic_config.text_pad_token == 129_595


@pytest.mark.parametrize("missing", ["semantic_config", "coarse_acoustics_config", "fine_acoustics_config", None])
def test_missing_sections_and_fields_of_a_generation_config_are_sunos(missing, tmp_path):
    sections = {
        "semantic_config": {},
        "coarse_acoustics_config": {"sliding_window_len": 30},
        "fine_acoustics_config": {},
    }
    config = write(tmp_path, {name: section for name, section in sections.items() if name != missing})
    assert sampling(config) == SUNOS
    assert config.coarse_acoustics_config.sliding_window_len == (60 if missing == "coarse_acoustics_config" else 30)


def test_other_values_of_their_generation_config_are_meant(tmp_path):
    stage = {"temperature": 0.9, "top_k": 7, "top_p": 0.8, "do_sample": True}
    config = write(tmp_path, {"semantic_config": {**stage, "min_eos_p": 0.05}, "coarse_acoustics_config": stage})
    assert sampling(config)[:2] == [(True, 0.9, 7, 0.8)] * 2
    assert config.semantic_config.min_eos_p == 0.05


def test_our_generation_config_means_what_it_says(tmp_path):
    """The marker: top_k=50 and do_sample=False that a user of ours saved are not taken for fillers."""
    stage = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "do_sample": False}
    config = bark_hf.BarkGenerationConfig(semantic_config={**stage, "min_eos_p": None}, coarse_acoustics_config=stage)
    config.save_pretrained(tmp_path)
    again = bark_hf.BarkGenerationConfig.from_pretrained(tmp_path)
    assert sampling(again)[:2] == [(False, 1.0, 50, 1.0)] * 2
    assert again.semantic_config.min_eos_p is None
    assert again.to_dict() == config.to_dict()


def their_stages(model):
    """The stages' generation configs as transformers' `generate` builds them from what was loaded."""
    loaded, module = model.generation_config, generation_configuration_bark
    return {
        "semantic_generation_config": module.BarkSemanticGenerationConfig(**loaded.semantic_config),
        "coarse_generation_config": module.BarkCoarseGenerationConfig(**loaded.coarse_acoustics_config),
        "fine_generation_config": module.BarkFineGenerationConfig(**loaded.fine_acoustics_config),
    }


def assert_ids(model):
    stages = their_stages(model)
    for stage, section in (("semantic", "semantic_config"), ("coarse", "coarse_acoustics_config")):
        config = stages[f"{stage}_generation_config"]
        assert {name: getattr(config, name) for name in IDS[section]} == IDS[section]
    assert stages["semantic_generation_config"].semantic_pad_token == 200
    assert model.generation_config.codebook_size == 64


def test_generation_configs_go_there_and_back(from_ours, from_theirs, tmp_path):
    """ours -> theirs -> ours and theirs -> ours -> theirs keep the ids."""
    ours, theirs, _ = from_ours
    assert_ids(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    again = bark_hf.BarkModel.from_pretrained(tmp_path / "theirs").generation_config
    assert again.to_dict() == ours.generation_config.to_dict()
    ours, theirs, _ = from_theirs
    assert_ids(theirs)
    ours.save_pretrained(tmp_path / "ours")
    assert_ids(modeling_bark.BarkModel.from_pretrained(tmp_path / "ours"))


# Greedy tokens


def made_voice(semantic_length):
    random = torch.Generator().manual_seed(semantic_length)
    frames = round(semantic_length * 75 / 49.9)
    fine = torch.randint(64, (8, frames), generator=random)
    semantic = torch.randint(200, (semantic_length,), generator=random)
    return {"semantic_prompt": semantic, "coarse_prompt": fine[:2].clone(), "fine_prompt": fine}


def copied(voice):
    """transformers changes what it is given."""
    return None if voice is None else {name: tensor.clone() for name, tensor in voice.items()}


VOICES = pytest.mark.parametrize("voice", [None, made_voice(57), made_voice(420)], ids=["none", "short", "long"])
# its `generate` reports its own use of a generation config and keywords together
pytestmark = pytest.mark.filterwarnings("ignore:Passing `generation_config` together")


@VOICES
def test_greedy_semantic_tokens_are_equal(from_ours, voice, both_steps):
    ours, theirs, _ = from_ours
    ids = torch.randint(5, 340, (1, 256))
    config = their_stages(theirs)["semantic_generation_config"]
    for length in (31, 256):
        mask = (torch.arange(256) < length).long()[None]
        wanted = theirs.semantic.generate(
            ids.clone(),
            semantic_generation_config=config,
            history_prompt=copied(voice),
            attention_mask=mask,
            do_sample=False,
            min_eos_p=None,
            max_new_tokens=40,
        )[0]
        wanted = wanted[: (wanted == 200).nonzero()[0, 0]] if 200 in wanted else wanted
        got = ours.generate_semantic(
            ids, attention_mask=mask, history_prompt=voice, do_sample=False, max_new_tokens=40
        )
        assert torch.equal(got[0], wanted)
        assert len(wanted.unique()) > 1, "too dull to tell anything"


RULES = {  # made from the ids that come without them
    "repetition_penalty": lambda ids: {"repetition_penalty": 1.4},
    "no_repeat_ngram_size": lambda ids: {"no_repeat_ngram_size": 2},
    "bad_words_ids": lambda ids: {"bad_words_ids": [[ids[4]], ids[1:3], ids[5:8]]},  # older versions miss a first word
    "begin_suppress_tokens": lambda ids: {"begin_suppress_tokens": ids},
    "min_new_tokens": lambda ids: {"min_new_tokens": min(60, len(ids) + 3)},
    "all": lambda ids: {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "bad_words_ids": [[ids[2]]]},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_greedy_semantic_tokens_under_rules_are_equal(from_ours, rules):
    """Id 1 is forbidden: there the dummy prompt of ones counts as generated. `suppress_tokens` is ignored there."""
    ours, theirs, _ = from_ours
    run = {"do_sample": False, "max_new_tokens": 60, "bad_words_ids": [[1]]}
    texts = torch.randint(5, 340, (8, 256))
    row, plain = min(enumerate(ours.generate_semantic(texts, **run)), key=lambda one: abs(len(one[1]) - 20))
    ids = texts[row : row + 1]
    found = rules(plain.tolist())
    run["bad_words_ids"] = [[1], *found.pop("bad_words_ids", [])]
    wanted = theirs.semantic.generate(
        ids.clone(),
        semantic_generation_config=their_stages(theirs)["semantic_generation_config"],
        attention_mask=torch.ones_like(ids),
        min_eos_p=None,
        **run,
        **found,
    )[0]
    wanted = wanted[: (wanted == 200).nonzero()[0, 0]] if 200 in wanted else wanted
    got = ours.generate_semantic(ids, **run, **found)[0]
    assert torch.equal(got, wanted)
    assert not torch.equal(got, plain) or len(plain) == 60


@VOICES
@pytest.mark.parametrize("max_coarse_history", [630, 120])
def test_greedy_coarse_codes_are_equal(from_ours, voice, max_coarse_history, both_steps):
    """With windows that only grow and, under a short history or after a long voice, windows that shift."""
    ours, theirs, _ = from_ours
    semantic = torch.randint(200, (1, 64))
    configs = their_stages(theirs)
    configs["coarse_generation_config"].max_coarse_history = max_coarse_history
    wanted = theirs.coarse_acoustics.generate(
        semantic.clone(),
        **{name: configs[name] for name in ("semantic_generation_config", "coarse_generation_config")},
        codebook_size=64,
        history_prompt=copied(voice),
        do_sample=False,
    )[0]
    options = {"max_coarse_history": max_coarse_history, "sliding_window_len": 60}
    got = ours.generate_coarse(semantic, history_prompt=voice, do_sample=False, **options)[0]
    assert got.shape == (2, 96)
    assert torch.equal(got.t().flatten() + 200 + 64 * (torch.arange(192) % 2), wanted)
    assert len(wanted.unique()) > 8, "too dull to tell anything"


@VOICES
@pytest.mark.parametrize("frames", [150, 1300])
def test_argmax_fine_codes_are_equal(from_ours, voice, frames):
    """One window with pads at its end, and several that overlap."""
    ours, theirs, _ = from_ours
    coarse = torch.randint(64, (2, frames))
    wanted = theirs.fine_acoustics.generate(
        (coarse.t().flatten() + 200 + 64 * (torch.arange(2 * frames) % 2))[None],
        **their_stages(theirs),
        codebook_size=64,
        history_prompt=copied(voice),
        temperature=None,
    )[0]
    got = ours.generate_fine([coarse], history_prompt=voice, temperature=None)[0]
    assert torch.equal(got, wanted)
    assert min(len(codebook.unique()) for codebook in wanted) > 2, "too dull to tell anything"


def test_decoded_audio_is_equal(from_ours):
    ours, theirs, _ = from_ours
    codes = torch.randint(64, (8, 90))
    with torch.no_grad():
        wanted = theirs.codec_decode(codes[None])[0]
    got = ours.decode_audio([codes])[0]
    assert_close(got, wanted, "audio")
    assert wanted.std() > 1e-3
    assert (ours.decode_audio([codes.flip(1)])[0] - got).abs().max() > 1e-3, "the codec reads its codes"


@VOICES
def test_greedy_generation_is_equal_from_text_to_audio(from_theirs, voice):
    ours, theirs, _ = from_theirs
    ids = torch.randint(5, 340, (1, 256))
    mask = (torch.arange(256) < 31).long()[None]
    options = {"attention_mask": mask, "do_sample": False, "semantic_max_new_tokens": 45}
    wanted = theirs.generate(ids.clone(), history_prompt=copied(voice), fine_temperature=None, **options)
    got, lengths = ours.generate(
        ids, history_prompt=voice, fine_temperature=None, return_output_lengths=True, **options
    )
    assert_close(got, wanted, "audio")
    assert lengths.tolist() == [wanted.shape[1]]


# Processors

TEXTS = [
    "Hello world, this is the music.",
    "Hmm… a second text — with [laughter] and ♪ song ♪",
    "你好世界 привет こんにちは",
    "x",
    "MAN: It's 3.50, isn't it?",
]


def test_processors_give_equal_ids(small):
    theirs = processing_bark.BarkProcessor(small.processor.tokenizer)
    for texts in (*TEXTS, TEXTS):
        got, wanted = small.processor(texts), theirs(texts)
        assert got.keys() == wanted.keys() == {"input_ids", "attention_mask"}
        for name in got:
            assert torch.equal(got[name], wanted[name]), (name, texts)
            assert got[name].dtype == wanted[name].dtype


NAMES = ["v2/en_speaker_1", "announcer"]


def processor_with_voices(small):
    presets = {
        name: small.processor.voice(preset) for name, preset in zip(NAMES, ("made/short", "made/long"), strict=True)
    }
    return bark_hf.BarkProcessor(small.processor.tokenizer, presets)


def assert_same_voices(got, wanted):
    assert got.keys() == wanted.keys() == {"semantic_prompt", "coarse_prompt", "fine_prompt"}
    for name in got:
        assert torch.equal(torch.as_tensor(np.asarray(got[name])), torch.as_tensor(np.asarray(wanted[name])))


def test_processor_folders_with_voices_interchange(small, tmp_path, said):
    """ours (npy layout) -> theirs -> ours: voices by name, `repo_or_path` is no voice."""
    ours = processor_with_voices(small)
    ours.save_pretrained(tmp_path / "ours", voice_layout="npy")
    theirs = processing_bark.BarkProcessor.from_pretrained(str(tmp_path / "ours"))
    assert sorted(theirs.available_voice_presets) == sorted(NAMES)
    for name in NAMES:
        wanted = ours(TEXTS[0], voice_preset=name)
        got = theirs(TEXTS[0], voice_preset=name)
        assert torch.equal(got["input_ids"], wanted["input_ids"])
        assert_same_voices(got["history_prompt"], wanted["history_prompt"])
    theirs.save_pretrained(str(tmp_path / "theirs"))
    index = json.loads((tmp_path / "theirs" / "speaker_embeddings_path.json").read_text())
    assert index.keys() == {"repo_or_path", *NAMES}
    back = bark_hf.BarkProcessor.from_pretrained(tmp_path / "theirs")
    assert sorted(back.available_voice_presets) == sorted(NAMES)
    for name in NAMES:
        assert back.voice(name) == ours.voice(name)
    assert torch.equal(back(TEXTS[0])["input_ids"], ours(TEXTS[0])["input_ids"])
    assert said() == []


# The real size


@pytest.mark.slow
@pytest.mark.parametrize("stage", OURS)
def test_the_full_size_small_model_gives_equal_logits(stage, tmp_path):
    """12 layers, 768 wide, the real vocabularies; one stage at a time bounds memory and disk at about 2.5 GB."""
    our_class, our_config = OURS[stage]
    their_class, _ = THEIRS[stage]
    ours = randomize(our_class(our_config(bias=False)), spread=0.05)
    ours.save_pretrained(tmp_path / "ours")
    theirs = their_class.from_pretrained(tmp_path / "ours").eval()
    assert_same_logits(ours, theirs, stage)
    del ours
    theirs.save_pretrained(tmp_path / "theirs")
    ours, info = our_class.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values())
    assert (ours.config.num_layers, ours.config.hidden_size) == (12, 768)
    assert_same_logits(ours, theirs, stage)
