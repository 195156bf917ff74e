"""Configs and generation configs: Suno's constants, strict fields, JSON, and a fresh model that can speak."""

import json
from unittest import mock

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import EncodecConfig, GenerationConfig
from transformers.models.bark.generation_configuration_bark import BarkGenerationConfig as NativeGenerationConfig

from bark_hf import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkModel,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
)
from bark_hf.generation.options import all_options
from bark_hf.generation_configuration_bark import MARKER
from bark_hf.vocabulary import Vocabulary

CONFIG_ERRORS = (ValueError, TypeError, StrictDataclassError)
TINY = {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "bias": False}
TINY_CODEC = {"num_filters": 2, "hidden_size": 8, "num_lstm_layers": 1, "codebook_dim": 8}


def tiny_config(**stages):
    names = ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    sections = {name: {**TINY, **stages.get(name, {})} for name in names}
    return BarkConfig(**sections, codec_config={**TINY_CODEC, **stages.get("codec_config", {})})


# -------------------------------------------------------------------------------------------------------- constants

CONSTANTS = {
    "semantic_vocab_size": 10_000,
    "eos_token_id": 10_000,
    "text_encoding_offset": 10_048,
    "text_pad_token": 129_595,
    "semantic_infer_token": 129_599,
    "max_input_semantic_length": 256,
    "semantic_rate_hz": 49.9,
    "coarse_semantic_pad_token": 12_048,
    "coarse_infer_token": 12_050,
    "coarse_rate_hz": 75,
    "n_coarse_codebooks": 2,
    "max_coarse_input_length": 256,
    "max_coarse_history": 630,
    "sliding_window_len": 60,
    "n_fine_codebooks": 8,
    "max_fine_history_length": 512,
    "max_fine_input_length": 1024,
    "sample_rate": 24_000,
    "codebook_size": 1024,
}


def test_every_constant_is_a_default_of_exactly_one_field():
    config = BarkGenerationConfig().to_dict()
    sections = [value for value in config.values() if isinstance(value, dict)]
    top = {name: value for name, value in config.items() if not isinstance(value, dict)}
    assert len(sections) == 3
    for name, value in CONSTANTS.items():
        homes = [section[name] for section in (*sections, top) if name in section]
        assert homes == [value], name


def test_derived_constants_are_those_of_bark():
    vocabulary = Vocabulary.of(BarkGenerationConfig())
    assert vocabulary.ratio == 75 / 49.9 * 2
    assert vocabulary.fine_pad == 1024
    assert vocabulary.semantic_pad_token == 10_000
    assert [vocabulary.coarse_range(step) for step in (0, 1, 2)] == [
        (10_000, 11_024),
        (11_024, 12_048),
        (10_000, 11_024),
    ]
    assert vocabulary.max_semantic_history(630) == 209
    assert vocabulary.coarse_length(768) == 2 * 1154
    assert vocabulary.max_semantic_tokens(10.0) == 499


def test_sampling_defaults_are_the_originals():
    config = BarkGenerationConfig()
    assert [config.semantic_config.temperature, config.coarse_acoustics_config.temperature] == [0.7, 0.7]
    assert config.fine_acoustics_config.temperature == 0.5
    assert config.semantic_config.min_eos_p == 0.2
    assert config.semantic_config.max_new_tokens == 768
    for section in (config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config):
        assert (section.do_sample, section.top_k, section.top_p) == (True, None, None)


def test_vocabularies_of_a_fresh_config_are_the_released_ones():
    """transformers' default is 10 048 for every vocabulary."""
    config = BarkConfig()
    stages = (config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config)
    assert [(s.input_vocab_size, s.output_vocab_size) for s in stages] == [
        (129_600, 10_048),
        (12_096, 12_096),
        (1_056, 1_056),
    ]
    assert [(s.num_layers, s.num_heads, s.hidden_size, s.block_size) for s in stages] == [(12, 12, 768, 1024)] * 3
    assert (config.fine_acoustics_config.n_codes_total, config.fine_acoustics_config.n_codes_given) == (8, 1)
    assert config.model_type == "bark"
    assert isinstance(config.codec_config, EncodecConfig)
    assert config.semantic_config.vocab_size == 129_600  # by transformers' common names too
    assert config.semantic_config.num_hidden_layers == 12


# --------------------------------------------------------------------------------------------------------- networks


def test_config_makes_a_json_round_trip(tmp_path):
    config = tiny_config(semantic_config={"dropout": 0.1}, fine_acoustics_config={"n_codes_given": 2})
    config.save_pretrained(tmp_path)
    again = BarkConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert type(again.fine_acoustics_config) is BarkFineConfig
    written = json.loads((tmp_path / "config.json").read_text())
    assert {"semantic_config", "coarse_acoustics_config", "fine_acoustics_config", "codec_config"} <= written.keys()
    assert written["semantic_config"]["dropout"] == 0.1
    assert BarkConfig.from_dict(written).to_dict() == config.to_dict()


def test_one_stage_reads_its_part_of_a_composite_file(tmp_path):
    tiny_config(coarse_acoustics_config={"num_layers": 3}).save_pretrained(tmp_path)
    assert BarkCoarseConfig.from_pretrained(tmp_path).num_layers == 3
    assert BarkSemanticConfig.from_pretrained(tmp_path).num_layers == 1


@pytest.mark.parametrize("config_class", [BarkSemanticConfig, BarkCoarseConfig, BarkFineConfig])
@pytest.mark.parametrize(
    "fields",
    [
        {"num_layers": "2"},
        {"num_layers": 2.5},
        {"hidden_size": None},
        {"bias": "yes"},
        {"dropout": "0"},
        {"num_layers": 0},
        {"num_heads": 0},
        {"num_heads": -1},
        {"hidden_size": 10, "num_heads": 4},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"block_size": 0},
        {"input_vocab_size": -5},
        {"use_cache": 3},
    ],
)
def test_stage_configs_are_strict(config_class, fields):
    with pytest.raises(CONFIG_ERRORS, match=r"."):
        config_class(**fields)


def test_cross_field_errors_name_both_sides():
    with pytest.raises(CONFIG_ERRORS, match=r"hidden_size.*10.*num_heads.*4"):
        BarkSemanticConfig(hidden_size=10, num_heads=4)
    with pytest.raises(CONFIG_ERRORS, match=r"n_codes_given.*8.*n_codes_total.*8"):
        BarkFineConfig(n_codes_given=8)
    with pytest.raises(CONFIG_ERRORS, match=r"input_vocab_size.*1056.*output_vocab_size.*1024"):
        BarkFineConfig(output_vocab_size=1024)
    BarkFineConfig(output_vocab_size=1024, tie_word_embeddings=False)


@pytest.mark.parametrize(
    "name", ["semantic_config", "coarse_acoustics_config", "fine_acoustics_config", "codec_config"]
)
@pytest.mark.parametrize("value", [3, "large", [1], BarkGenerationConfig])
def test_sections_of_a_composite_are_configs_or_dicts(name, value):
    with pytest.raises(CONFIG_ERRORS, match=r"."):
        BarkConfig(**{name: value})


def test_sections_must_be_of_their_own_stage():
    """A fine config in the coarse place would fail where its model is first run."""
    with pytest.raises(CONFIG_ERRORS, match="coarse_acoustics_config"):
        BarkConfig(coarse_acoustics_config=BarkFineConfig(**TINY))


def test_from_sub_model_configs_copies():
    parts = [BarkSemanticConfig(**TINY), BarkCoarseConfig(**TINY), BarkFineConfig(**TINY), EncodecConfig(**TINY_CODEC)]
    config = BarkConfig.from_sub_model_configs(*parts, initializer_range=0.5)
    assert config.initializer_range == 0.5
    assert config.codec_config.num_filters == 2
    parts[0].num_layers = 7
    parts[3].num_filters = 9
    assert config.semantic_config.num_layers == 1
    assert config.codec_config.num_filters == 2
    assert [type(part) for part in parts[:3]] == [
        type(getattr(config, name)) for name in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    ]


def test_two_fresh_configs_share_nothing():
    first, second = BarkConfig(), BarkConfig()
    first.semantic_config.num_layers = 3
    assert second.semantic_config.num_layers == 12


# ------------------------------------------------------------------------------------------------------- generation


def test_generation_config_makes_a_json_round_trip(tmp_path):
    config = BarkGenerationConfig(
        semantic_config={"temperature": None, "top_k": 50, "semantic_vocab_size": 200, "eos_token_id": 200},
        fine_acoustics_config={"temperature": 1.0, "do_sample": False},
        codebook_size=64,
    )
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written[MARKER]
    assert written["model_type"] == "bark"
    again = BarkGenerationConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.semantic_config.top_k == 50  # meant, for the marker is there
    assert again.semantic_config.temperature is None
    assert again.fine_acoustics_config.temperature == 1.0
    assert again.fine_acoustics_config.do_sample is False


def test_values_that_transformers_fills_in_count_as_unset_in_files_without_our_marker():
    filled = {"top_k": 50, "top_p": 1.0, "do_sample": False, "temperature": 1.0, "min_eos_p": None}
    file = {
        "semantic_config": {**filled, "max_new_tokens": 700},
        "fine_acoustics_config": {**filled, "temperature": 0.4},
    }
    config = BarkGenerationConfig.from_dict({**file, "model_type": "bark", "_from_model_config": False})
    semantic, fine = config.semantic_config, config.fine_acoustics_config
    assert (semantic.temperature, semantic.top_k, semantic.do_sample, semantic.min_eos_p) == (0.7, None, True, 0.2)
    assert semantic.max_new_tokens == 700
    assert (fine.temperature, fine.top_k) == (0.4, None)
    marked = BarkGenerationConfig.from_dict({**file, MARKER: 1})
    assert (marked.semantic_config.top_k, marked.semantic_config.do_sample) == (50, False)
    assert BarkGenerationConfig.from_dict({}).to_dict() == BarkGenerationConfig().to_dict()


@pytest.mark.parametrize(
    ("config_class", "name", "near"),
    [
        (BarkSemanticGenerationConfig, "tempratur", "temperature"),
        (BarkCoarseGenerationConfig, "sliding_window", "sliding_window_len"),
        (BarkFineGenerationConfig, "topk", "top_k"),
        (BarkSemanticGenerationConfig, "min_eos", "min_eos_p"),
    ],
)
def test_unknown_generation_fields_name_the_nearest(config_class, name, near):
    with pytest.raises(ValueError, match=f"{name}.*{near}"):
        config_class(**{name: 1})


def test_unknown_top_level_generation_fields_are_errors():
    with pytest.raises(ValueError, match=r"semantic.*semantic_config"):
        BarkGenerationConfig(semantic={})
    with pytest.raises(ValueError, match="tempratur"):
        BarkGenerationConfig(semantic_config={"tempratur": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"semantic_config": {"temperature": "hot"}},
        {"semantic_config": {"top_k": 1.5}},
        {"semantic_config": {"top_k": -1}},
        {"semantic_config": {"do_sample": None}},
        {"semantic_config": {"do_sample": 1}},
        {"semantic_config": {"eos_token_id": None}},
        {"coarse_acoustics_config": {"n_coarse_codebooks": True}},
        {"semantic_config": 3},
        {"semantic_config": "x"},
        {"sample_rate": 0},
        {"sample_rate": "24k"},
        {"codebook_size": True},
        {"codebook_size": None},
        {"semantic_config": {"semantic_rate_hz": 0}},
        {"coarse_acoustics_config": {"coarse_rate_hz": 0}},
        {"coarse_acoustics_config": {"n_coarse_codebooks": 0}},
        {"fine_acoustics_config": {"n_fine_codebooks": 0}},
        {"fine_acoustics_config": {"max_fine_input_length": 0}},
        {"semantic_config": {"max_input_semantic_length": 0}},
        {"fine_acoustics_config": {"max_fine_history_length": 1024}},
        {"semantic_config": {"semantic_rate_hz": float("nan")}},
    ],
)
def test_generation_configs_are_strict(fields):
    """Rates and sizes of 0 would divide by zero, and a history as long as the window would never advance."""
    with pytest.raises((ValueError, TypeError), match=r"."):
        BarkGenerationConfig(**fields)


def test_given_is_what_somebody_set():
    assert BarkSemanticGenerationConfig().given() == {}
    config = BarkSemanticGenerationConfig(temperature=0.7, top_k=None)
    assert config.given() == {"temperature": 0.7, "top_k": None}  # although they equal the defaults
    config.top_p = 0.5
    assert config.given() == {"temperature": 0.7, "top_k": None, "top_p": 0.5}
    file = BarkSemanticGenerationConfig.from_dict({"min_eos_p": 0.2, "length_penalty": 1.0})
    assert file.given() == {"min_eos_p": 0.2}


def test_sections_may_be_any_generation_config():
    section = BarkSemanticGenerationConfig(temperature=0.3)
    assert BarkGenerationConfig(semantic_config=section).semantic_config.temperature == 0.3
    native = GenerationConfig(temperature=0.3)
    assert BarkGenerationConfig(semantic_config=native).semantic_config.temperature == 0.3


@pytest.mark.parametrize(
    ("config_class", "name", "value"),
    [
        (BarkFineGenerationConfig, "max_new_tokens", 3),
        (BarkFineGenerationConfig, "repetition_penalty", 1.5),
        (BarkSemanticGenerationConfig, "max_length", 20),
        (BarkGenerationConfig, "temperature", 0.3),
    ],
)
def test_fields_of_transformers_that_bark_lacks_are_errors_where_they_say_something(config_class, name, value):
    with pytest.raises(ValueError, match=f"no field '{name}'.*(Known|mean)"):
        config_class(**{name: value})
    config_class(**{name: None}, pad_token_id=3, renormalize_logits=True, output_scores=False)


def merged(config):
    return all_options(BarkGenerationConfig(semantic_config={"min_eos_p": 0.1}), config, {})


def test_transformers_own_bark_generation_config_is_taken(tmp_path):
    """Its sections carry values that nobody set: those count as unset."""
    native = NativeGenerationConfig(coarse_acoustics_config={"temperature": 0.3})
    (tmp_path / "generation_config.json").write_text(json.dumps(native.to_dict()))
    for config in (native, GenerationConfig.from_pretrained(tmp_path)):
        semantic, coarse, fine = merged(config)
        assert (coarse.temperature, coarse.do_sample, coarse.top_k) == (0.3, True, None)
        assert (semantic.temperature, semantic.min_eos_p, fine.temperature) == (0.7, 0.1, 0.5)


def test_sections_of_a_plain_generation_config_are_checked_and_join_its_flat_fields():
    config = GenerationConfig(temperature=0.4, coarse_acoustics_config={"do_sample": False, "temperature": 1.0})
    semantic, coarse, fine = merged(config)
    assert (semantic.temperature, coarse.temperature, fine.temperature) == (0.4, 1.0, 0.5)
    assert (semantic.do_sample, coarse.do_sample) == (True, False)
    with pytest.raises(ValueError, match=r"tempratur.*temperature"):
        merged(GenerationConfig(semantic_config={"tempratur": 0.4}))


def test_what_a_callers_config_sets_in_vain_is_an_error():
    with pytest.raises(ValueError, match=r"`length_penalty` \(1.5\).*may set do_sample, temperature"):
        merged(GenerationConfig(length_penalty=1.5))
    config = BarkGenerationConfig()
    config.temperature = 0.3
    with pytest.raises(ValueError, match=r"`temperature` \(0.3\).*semantic_config"):
        merged(config)
    config = BarkGenerationConfig()
    config.update(max_new_tokens=256, pad_token_id=0, return_dict_in_generate=True)  # as pipelines do
    assert merged(config)[0].max_new_tokens == 768


# ---------------------------------------------------------------------------------------------------- a fresh model


@pytest.fixture(scope="module")
def fresh():
    return BarkModel(tiny_config()).eval()


def test_a_fresh_model_can_generate_at_once(fresh):
    """With transformers a fresh model has no generation config and fails."""
    ids = torch.tensor([[101, 7592, 2088]])
    audio, lengths = fresh.generate(ids, max_new_tokens=3, allow_early_stop=False, seed=0, return_output_lengths=True)
    assert audio.shape == (1, 4 * 320)
    assert lengths.tolist() == [4 * 320]
    assert torch.isfinite(audio).all()


def test_a_fresh_model_saves_and_loads_with_its_generation_config(fresh, tmp_path):
    fresh.save_pretrained(tmp_path)
    again = BarkModel.from_pretrained(tmp_path)
    assert again.config.to_dict()["semantic_config"]["num_layers"] == 1
    assert again.generation_config.to_dict() == fresh.generation_config.to_dict()
    ids = torch.tensor([[101, 7592, 2088]])
    run = {"max_new_tokens": 3, "allow_early_stop": False, "seed": 0}
    assert torch.equal(again.generate(ids, **run), fresh.generate(ids, **run))


def test_a_broken_generation_config_is_an_error_and_a_missing_one_is_sunos(fresh, tmp_path):
    """Ids of Suno's in place of a checkpoint's own would be spoken as noise, or fail far from here."""
    fresh.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    for text in ('{"semantic_config": {', "\xff", '{"semantic_config": {"temperature": "hot"}}'):
        path.write_text(text, encoding="latin-1")
        with pytest.raises((OSError, ValueError), match=r"valid JSON|temperature"):
            BarkModel.from_pretrained(tmp_path)
    path.unlink()
    assert BarkModel.from_pretrained(tmp_path).generation_config.to_dict() == BarkGenerationConfig().to_dict()


def test_a_generation_config_given_to_from_pretrained_stands_for_the_file(fresh, tmp_path):
    """As in transformers. A plain one has no ids to stand for them."""
    fresh.save_pretrained(tmp_path)
    own = BarkGenerationConfig(semantic_config={"temperature": 0.3})
    assert BarkModel.from_pretrained(tmp_path, generation_config=own).generation_config.to_dict() == own.to_dict()
    with pytest.raises(ValueError, match=r"BarkGenerationConfig.*Pass it to `generate`"):
        BarkModel.from_pretrained(tmp_path, generation_config=GenerationConfig(temperature=0.3))
    own.temperature = 0.3  # of no section: nobody would read it
    with pytest.raises(ValueError, match="temperature"):
        BarkModel.from_pretrained(tmp_path, generation_config=own)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"semantic_config": {"input_vocab_size": 10_048}}, "text_pad_token.*129595.*input_vocab_size.*10048"),
        ({"semantic_config": {"input_vocab_size": 129_599}}, "semantic_infer_token"),
        ({"semantic_config": {"output_vocab_size": 10_000}}, "eos_token_id.*output_vocab_size"),
        ({"coarse_acoustics_config": {"input_vocab_size": 12_050}}, "coarse_infer_token"),
        ({"coarse_acoustics_config": {"output_vocab_size": 12_047}}, "last coarse id.*12047"),
        ({"fine_acoustics_config": {"input_vocab_size": 1024, "output_vocab_size": 1024}}, "codebook_size"),
        ({"fine_acoustics_config": {"n_codes_total": 4}}, "n_fine_codebooks.*n_codes_total"),
        ({"codec_config": {"codebook_size": 512}}, "codec_config.codebook_size"),
        ({"semantic_config": {"block_size": 256}}, "semantic_config.block_size.*256"),
        ({"coarse_acoustics_config": {"block_size": 512}}, "coarse_acoustics_config.block_size.*512"),
        ({"fine_acoustics_config": {"block_size": 512}}, "fine_acoustics_config.block_size.*512"),
    ],
)
def test_ids_and_sizes_that_do_not_fit_the_networks_are_errors_before_they_run(stages, message):
    """They would fail deep inside an embedding."""
    with torch.device("meta"):
        model = BarkModel(tiny_config(**stages))
    for stage in (model.semantic, model.coarse_acoustics, model.fine_acoustics):
        stage.forward = mock.Mock(side_effect=AssertionError("a network ran"))
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=3)


def test_eos_must_follow_the_semantic_ids(fresh):
    model = BarkModel.__new__(BarkModel)
    model.__dict__.update(fresh.__dict__)
    model.generation_config = BarkGenerationConfig(semantic_config={"semantic_vocab_size": 9_000})
    with pytest.raises(ValueError, match=r"eos_token_id.*10000.*semantic_vocab_size.*9000"):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=3)
