"""The public door: whatever is given, documented errors come out, with a message, before any network runs."""

import copy
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList

from bark_hf import BarkConfig, BarkGenerationConfig, Voice, VoicePresets
from bark_hf.generation.run import Run

DOCUMENTED = (ValueError, TypeError, FileNotFoundError)
FAST = settings(
    deadline=None,
    max_examples=40,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
BRIEF = {"max_new_tokens": 2, "seed": 0}


def only_documented(call, allowed=DOCUMENTED):
    """What the call returns, or None where it raised a documented error that says something."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Text |The model ended at once")
        try:
            return call()
        except allowed as error:
            message = str(error)
    assert len(message) > 5, f"an error that says nothing: {message!r}"
    return None


@pytest.fixture
def no_network(small, monkeypatch):
    """A copy of the model whose stages fail when they are run."""
    model = copy.copy(small.model)
    model._modules = dict(small.model._modules)
    for name in ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model"):
        stage = copy.copy(small.model._modules[name])
        stage.forward = mock.Mock(side_effect=AssertionError("a network ran"))
        model._modules[name] = stage
    return model


# ------------------------------------------------------------------------------------------------- malformed anything

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.just(object()),
    st.just(...),
    st.just({}),
    st.just([]),
    st.just(()),
    st.just(print),
    st.just(torch.tensor(1)),
    st.just(torch.tensor([1, 2])),
    st.just(np.array([1.5, 2])),
    st.just({"a": 1}),
    st.just([None]),
    st.just(1j),
)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
dtypes = st.sampled_from(
    [
        torch.long,
        torch.int32,
        torch.int16,
        torch.uint8,
        torch.uint16,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.bool,
        torch.complex64,
    ]
)
tensors = st.builds(lambda shape, dtype, fill: torch.full(shape, fill).to(dtype), shapes, dtypes, st.integers(-3, 700))
ids = st.one_of(
    tensors,
    junk,
    tensors.map(lambda t: None if t.dtype == torch.bfloat16 else t.numpy()),
    st.lists(st.integers(-5, 400), max_size=6),
    st.lists(st.lists(st.integers(0, 350), max_size=3), max_size=3),
    st.lists(st.one_of(tensors, junk), max_size=3),
    st.just(np.array(["a"])),
    st.just(np.arange(3).astype(">i4")),
)
voices = st.one_of(
    junk,
    st.dictionaries(st.sampled_from(["semantic_prompt", "coarse_prompt", "fine_prompt", "x"]), ids, max_size=4),
    st.fixed_dictionaries(
        {
            "semantic_prompt": st.one_of(ids, st.integers(1, 6).map(lambda n: np.zeros(n, int))),
            "coarse_prompt": st.one_of(ids, st.integers(1, 9).map(lambda n: np.zeros((2, n), int))),
            "fine_prompt": st.one_of(ids, st.integers(1, 9).map(lambda n: np.zeros((8, n), int))),
        }
    ),
    st.integers(0, 300).map(
        lambda top: {"semantic_prompt": [top, 0], "coarse_prompt": [[top] * 3] * 2, "fine_prompt": [[0] * 3] * 8}
    ),
)
texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zs", "Co", "Mn"]), max_size=10),
    st.sampled_from(
        ["", " \t\n", "\ud800", "ok \udfff", "\0", "[PAD]", "[CLS] [SEP]", "a" * 5000, "the " * 3000, "🎵" * 300]
    ),
)
OPTIONS = [
    f"{prefix}{name}"
    for prefix in ("", "semantic_", "coarse_", "fine_")
    for name in (
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_eos_p",
        "max_duration",
        "max_coarse_history",
        "sliding_window_len",
        "allow_early_stop",
        "max_new_token",
        "num_beams",
        "use_cache",
    )
]
numbers = st.one_of(
    junk, st.sampled_from([0, 1, -1, 0.0, 1e-300, 1e300, float("inf"), float("nan"), 60, 631, np.float64(0.5)])
)


@FAST
@given(
    text=st.one_of(texts, st.lists(st.one_of(texts, junk), max_size=3), junk),
    preset=st.one_of(st.none(), voices, st.lists(voices, max_size=3), texts),
)
def test_processor_survives_malformed_texts_and_voices(small, text, preset):
    out = only_documented(lambda: small.processor(text, voice_preset=preset))
    if out is not None:
        assert out["input_ids"].shape == out["attention_mask"].shape
        assert (out["attention_mask"].sum(1) > 0).all()
        only_documented(lambda: small.model.generate_semantic(**out, **BRIEF))


@FAST
@given(text=texts)
def test_texts_are_spoken_or_refused(small, text):
    inputs = only_documented(lambda: small.processor(text))
    if inputs is not None:
        assert len(only_documented(lambda: small.model.generate_semantic(**inputs, **BRIEF))) == 1


@FAST
@given(max_length=junk, return_tensors=junk)
def test_processor_survives_malformed_keywords(small, max_length, return_tensors):
    if isinstance(max_length, int) and max_length > 5000:
        max_length = 300
    only_documented(lambda: small.processor("the", max_length=max_length))
    only_documented(lambda: small.processor("the", return_tensors=return_tensors))


@FAST
@given(input_ids=ids, mask=st.one_of(st.none(), ids))
def test_semantic_survives_malformed_ids_and_masks(small, input_ids, mask):
    out = only_documented(lambda: small.model.generate_semantic(input_ids, attention_mask=mask, **BRIEF))
    if out is not None:
        assert all(one.dtype == torch.long for one in out)


@FAST
@given(mask=ids)
def test_a_good_text_with_a_malformed_mask(small, mask):
    only_documented(lambda: small.model.generate(torch.tensor([[5, 6]]), attention_mask=mask, **BRIEF))


@FAST
@given(voice=st.one_of(voices, st.lists(voices, min_size=1, max_size=3)))
def test_generate_survives_malformed_voices(small, voice):
    only_documented(lambda: small.model.generate(torch.tensor([[5, 6]]), voice, **BRIEF))
    only_documented(lambda: small.model.generate_fine([torch.zeros(2, 1, dtype=torch.long)], history_prompt=voice))


@FAST
@given(rows=ids, codes=st.integers(1, 8))
def test_stages_survive_malformed_ids(small, rows, codes):
    model = small.model
    for given_rows in (rows, [rows], torch.zeros(codes, 2, dtype=torch.long)):
        only_documented(lambda g=given_rows: model.generate_coarse(g, seed=0, max_new_tokens=2))
        only_documented(lambda g=given_rows: model.generate_fine(g, seed=0))
        only_documented(lambda g=given_rows: model.decode_audio(g))


@FAST
@given(seed=st.one_of(junk, st.lists(junk, max_size=2)), generator=junk)
def test_generate_survives_malformed_seeds(small, seed, generator):
    ids = torch.tensor([[5, 6]])
    only_documented(lambda: small.model.generate_semantic(ids, seed=seed, max_new_tokens=1))
    only_documented(lambda: small.model.generate_semantic(ids, generator=generator, max_new_tokens=1))


@FAST
@given(options=st.dictionaries(st.one_of(st.sampled_from(OPTIONS), st.text(max_size=8)), numbers, max_size=3))
def test_generate_survives_malformed_options(small, options):
    taken = {"self", "input_ids", "history_prompt", "seed", "max_new_tokens", *BRIEF}
    options = {name: value for name, value in options.items() if name not in taken}
    only_documented(lambda: small.model.generate(torch.tensor([[5, 6]]), **options, **BRIEF))
    for stage, rows in (("coarse", [[1, 2]]), ("fine", [[[1], [2]]])):
        own = {name.removeprefix(f"{stage}_"): value for name, value in options.items()}
        call = getattr(small.model, f"generate_{stage}")
        only_documented(lambda call=call, rows=rows, own=own: call(rows, **{**own, "seed": 0}))


@FAST
@given(name=st.sampled_from(["generation_config", "logits_processor", "streamer", "progress"]), value=junk)
def test_generate_survives_malformed_objects(small, name, value):
    if value is print:
        return  # a callable is a logits processor, and what it returns is its own affair
    only_documented(lambda: small.model.generate(torch.tensor([[5, 6]]), **{name: value}, **BRIEF))


@FAST
@given(voice=voices, path=st.one_of(junk, texts), name=st.one_of(junk, texts))
def test_voices_survive_anything(voice, path, name):
    made = only_documented(lambda: Voice.of(voice))
    if isinstance(voice, dict) and len(voice) == 3:
        only_documented(lambda: Voice(*voice.values()))
    if made is not None:
        assert len(made.fingerprint) == 16
        only_documented(lambda: VoicePresets().add(name, made))
    only_documented(lambda: Voice.load(path))


GENERATION_FIELDS = {
    name: sorted(value) for name, value in BarkGenerationConfig().to_dict().items() if isinstance(value, dict)
}
sections = st.sampled_from(sorted(GENERATION_FIELDS)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.one_of(
            junk, st.dictionaries(st.sampled_from([*GENERATION_FIELDS[name], "temperatur", "x"]), numbers, max_size=3)
        ),
    )
)


@FAST
@given(
    section=sections,
    top=st.dictionaries(st.sampled_from(["sample_rate", "codebook_size", "codebook", "top_k"]), junk, max_size=1),
)
def test_generation_configs_survive_anything(small, section, top):
    config = only_documented(lambda: BarkGenerationConfig(**{section[0]: section[1]}, **top))
    if config is not None:
        BarkGenerationConfig.from_dict(config.to_dict())
        only_documented(lambda: small.model.generate(torch.tensor([[5, 6]]), generation_config=config, **BRIEF))


config_fields = st.dictionaries(
    st.sampled_from(
        [
            "num_layers",
            "num_heads",
            "hidden_size",
            "block_size",
            "input_vocab_size",
            "output_vocab_size",
            "bias",
            "dropout",
            "n_codes_total",
            "n_codes_given",
            "use_cache",
            "initializer_range",
        ]
    ),
    junk,
    max_size=3,
)


@FAST
@given(
    name=st.sampled_from(["semantic_config", "coarse_acoustics_config", "fine_acoustics_config"]),
    section=st.one_of(junk, config_fields),
    scale=junk,
)
def test_configs_survive_anything(name, section, scale):
    allowed = (*DOCUMENTED, StrictDataclassError)
    only_documented(lambda: BarkConfig(**{name: section}), allowed)
    only_documented(lambda: BarkConfig(initializer_range=scale), allowed)


# -------------------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("text", ["", "   ", "\n\t ", ["the", " "], [], None, 3, ["the", None], {"a": 1}, b"the"])
def test_empty_and_other_texts_are_refused(small, text):
    with pytest.raises(ValueError, match=r"empty|Pass a text"):
        small.processor(text)


def test_control_characters_alone_leave_nothing_to_speak(small):
    with pytest.raises(ValueError, match="Text 1"):
        small.processor(["the", "\x01\x02"])


def test_lone_surrogates_are_refused_with_their_row(small):
    with pytest.raises(ValueError, match="Text 1 is not valid Unicode"):
        small.processor(["the", "a \ud800 b"])


def test_white_space_is_folded(small):
    a, b = small.processor("  Hello \n\t world\u00a0 "), small.processor("Hello world")
    assert torch.equal(a["input_ids"], b["input_ids"])


def test_long_text_warns_with_the_lost_share_at_the_processor(small):
    with pytest.warns(UserWarning, match=r"Text 1 has 320 ids, the model reads 256: 20% are cut"):
        inputs = small.processor(["the", "the " * 320])
    assert inputs["input_ids"].shape == (2, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.model.generate_semantic(**inputs, **BRIEF)  # not twice


def test_long_ids_warn_with_the_lost_share_at_the_model(small):
    """transformers raises for a batch of long texts."""
    one = small.processor("the")["input_ids"][0, 0].item()
    ids = torch.full((2, 320), one)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    with pytest.warns(UserWarning, match=r"Text 1 has 320 ids, the model reads 256: 20% are cut") as caught:
        long = small.model.generate_semantic(ids, attention_mask=mask, **BRIEF)
    assert len(caught) == 1
    short = small.model.generate_semantic(ids[:, :256], attention_mask=mask[:, :256], **BRIEF)
    assert all(map(torch.equal, long, short))


RUN = {"do_sample": False, "max_new_tokens": 6, "allow_early_stop": False}


def test_ids_shorter_than_256_are_padded(small):
    """transformers crashes on them."""
    inputs = small.processor("Hello world")
    length = int(inputs["attention_mask"].sum())
    wanted = small.model.generate_semantic(**inputs, **RUN)
    assert torch.equal(small.model.generate_semantic(inputs["input_ids"][:, :length], **RUN)[0], wanted[0])
    assert torch.equal(small.model.generate_semantic(inputs["input_ids"][:, : length + 3], **RUN)[0], wanted[0])


def test_a_missing_mask_equals_the_mask(small):
    """With transformers zeros become real text without a mask. A [PAD] inside a text stays an id."""
    inputs = small.processor(["Hello world, this is the music.", "the"])
    wanted = small.model.generate_semantic(**inputs, **RUN)
    assert all(map(torch.equal, small.model.generate_semantic(inputs["input_ids"], **RUN), wanted))
    width = int(inputs["attention_mask"].sum(1).max())  # a batch that is padded with zeros to its longest row
    assert all(map(torch.equal, small.model.generate_semantic(inputs["input_ids"][:, :width], **RUN), wanted))


@pytest.mark.parametrize("mask", [torch.zeros(1, 256), torch.zeros(1, 256, dtype=torch.bool)])
def test_a_mask_that_hides_everything_is_an_empty_text(small, mask):
    with pytest.raises(ValueError, match="Text 0 is empty"):
        small.model.generate(small.processor("the")["input_ids"], attention_mask=mask)


def test_masked_ids_are_never_looked_at(small):
    inputs = small.processor("Hello world")
    ids = inputs["input_ids"].clone()
    ids[inputs["attention_mask"] == 0] = -100
    out = small.model.generate_semantic(ids, attention_mask=inputs["attention_mask"], **RUN)
    assert torch.equal(out[0], small.model.generate_semantic(**inputs, **RUN)[0])


# ------------------------------------------------------------------------------------------------------------ keywords


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tempratur", "temperature"),
        ("semantic_temprature", "semantic_temperature"),
        ("fine_topk", "fine_top_k"),
        ("max_duraton", "max_duration"),
        ("coarse_max_coarse_histori", "coarse_max_coarse_history"),
    ],
)
def test_unknown_keywords_name_the_nearest(no_network, name, near):
    with pytest.raises(TypeError, match=f"{name}.*{near}"):
        no_network.generate(torch.tensor([[5]]), **{name: 1})


def test_a_stage_call_knows_its_own_keywords_only(no_network):
    with pytest.raises(TypeError, match="min_eos_p"):
        no_network.generate_fine([torch.zeros(2, 1, dtype=torch.long)], min_eos_p=0.1)
    with pytest.raises(TypeError, match=r"semantic_temperature.*temperature"):
        no_network.generate_semantic(torch.tensor([[5]]), semantic_temperature=0.1)


@pytest.mark.parametrize(
    "keywords",
    [
        {"num_beams": 4},
        {"semantic_num_beams": 4},
        {"assistant_model": object()},
        {"prompt_lookup_num_tokens": 3},
        {"length_penalty": 0.9},
        {"num_beam_groups": 2},
        {"output_scores": True},
        {"num_beams": torch.tensor([1, 2])},
    ],
)
def test_what_is_not_implemented_is_a_clear_error(no_network, keywords):
    with pytest.raises(ValueError, match=f"{next(iter(keywords))}.*not implemented"):
        no_network.generate(torch.tensor([[5]]), **keywords)


@pytest.mark.parametrize("keywords", [{"num_beams": 4}, {"output_scores": True}])
def test_what_is_not_implemented_is_an_error_in_a_generation_config_too(no_network, keywords):
    with pytest.raises(ValueError, match=f"{next(iter(keywords))}.*not implemented"):
        no_network.generate(torch.tensor([[5]]), generation_config=GenerationConfig(**keywords))


def test_harmless_keywords_of_transformers_are_accepted(small):
    inputs = small.processor("Hello world")
    harmless = {
        "pad_token_id": 0,
        "use_cache": True,
        "synced_gpus": False,
        "num_beams": 1,
        "num_return_sequences": 1,
        "return_dict": True,
        "assistant_model": None,
        "output_scores": False,
        "bos_token_id": 1,
    }
    run = {"do_sample": False, "max_new_tokens": 3, "allow_early_stop": False}
    assert torch.equal(small.model.generate(**inputs, **harmless, **run), small.model.generate(**inputs, **run))


def options_of(model, **keywords):
    """The options that reach each stage."""
    seen = {}

    def speak(run, requests, slots, together):
        seen.update(semantic=run.semantic_options, coarse=run.coarse_options, fine=run.fine_options)
        for request in requests:
            request.semantic, request.coarse = torch.zeros(0).long(), torch.zeros(2, 0).long()
            request.fine, request.audio = torch.zeros(8, 0).long(), torch.zeros(0)
            yield request

    with mock.patch.object(Run, "speak", speak), pytest.warns(UserWarning, match="no audio"):
        model.generate(torch.tensor([[5]]), **keywords)
    return seen


def test_prefixed_keywords_win_over_unprefixed_in_any_order(no_network):
    for keywords in ({"temperature": 0.3, "coarse_temperature": 0.9}, {"coarse_temperature": 0.9, "temperature": 0.3}):
        seen = options_of(no_network, **keywords)
        assert [seen[stage].temperature for stage in ("semantic", "coarse", "fine")] == [0.3, 0.9, 0.5]


def test_unprefixed_keywords_reach_their_stages(no_network):
    seen = options_of(
        no_network, top_k=5, top_p=0.8, max_new_tokens=9, do_sample=False, min_eos_p=0.4, sliding_window_len=30
    )
    assert [seen[stage].do_sample for stage in seen] == [False] * 3
    assert [seen[stage].top_k for stage in seen] == [5, 5, None]
    assert [seen[stage].top_p for stage in seen] == [0.8, 0.8, None]
    assert (seen["semantic"].max_new_tokens, seen["coarse"].max_new_tokens) == (9, None)
    assert seen["semantic"].min_eos_p == 0.4
    assert seen["coarse"].sliding_window_len == 30


def test_defaults_are_the_originals(no_network):
    """transformers adds top_k=50 and ignores the file's min_eos_p."""
    seen = options_of(no_network)
    assert [seen[stage].temperature for stage in seen] == [0.7, 0.7, 0.5]
    assert [(seen[stage].do_sample, seen[stage].top_k, seen[stage].top_p) for stage in seen] == [
        (True, None, None)
    ] * 3
    assert seen["semantic"].min_eos_p == 0.2


def test_a_callers_none_is_off(no_network):
    seen = options_of(
        no_network, min_eos_p=None, temperature=None, fine_temperature=None, top_k=None, max_duration=None
    )
    assert seen["semantic"].min_eos_p is None
    assert [seen[stage].temperature for stage in seen] == [None] * 3
    assert [seen[stage].greedy for stage in seen] == [False, False, True]


def test_callers_bark_generation_config_is_honored_and_keeps_the_models_ids(small, no_network):
    config = BarkGenerationConfig(semantic_config={"temperature": 0.31})
    seen = options_of(no_network, generation_config=config)
    assert [seen[stage].temperature for stage in seen] == [0.31, 0.7, 0.5]
    assert options_of(no_network, generation_config=config, semantic_temperature=0.9)["semantic"].temperature == 0.9
    out = small.model.generate(  # its own ids would be Suno's, which this model does not have
        torch.tensor([[5]]), generation_config=config, return_dict_in_generate=True, allow_early_stop=False, **BRIEF
    )
    assert out.semantic_tokens[0].max() < 200


def test_callers_none_in_a_bark_generation_config_is_off(no_network):
    config = BarkGenerationConfig(semantic_config={"min_eos_p": None}, fine_acoustics_config={"temperature": None})
    seen = options_of(no_network, generation_config=config)
    assert seen["semantic"].min_eos_p is None
    assert seen["fine"].greedy


def test_callers_plain_generation_config_is_honored(small, no_network):
    """transformers ignores it, or crashes."""
    config = GenerationConfig(temperature=0.25, do_sample=False, max_new_tokens=3)
    seen = options_of(no_network, generation_config=config)
    assert [seen[stage].do_sample for stage in seen] == [False] * 3
    assert [seen[stage].temperature for stage in seen] == [0.25, 0.25, 0.5]
    assert [seen[stage].top_k for stage in seen] == [None] * 3  # nobody set one
    assert seen["semantic"].max_new_tokens == 3
    tokens = small.model.generate_semantic(torch.tensor([[5]]), generation_config=config, allow_early_stop=False)
    assert len(tokens[0]) == 3


@pytest.mark.parametrize("config", [{"temperature": 0.1}, "config", 3, BarkConfig])
def test_what_is_no_generation_config_is_refused(no_network, config):
    """A dict would be ignored in silence."""
    with pytest.raises(TypeError, match="generation_config"):
        no_network.generate(torch.tensor([[5]]), generation_config=config)


@pytest.mark.parametrize(
    "keywords",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_k": 1.5},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_eos_p": 2},
        {"max_new_tokens": 0},
        {"max_duration": 0},
        {"max_duration": float("nan")},
        {"do_sample": "yes"},
        {"allow_early_stop": 1},
        {"max_coarse_history": 59},
        {"max_coarse_history": 631},
        {"sliding_window_len": 0},
        {"max_coarse_history": 630, "sliding_window_len": 139},
        {"fine_temperature": float("inf")},
        {"seed": -1},
        {"seed": [1, 2]},
        {"seed": 1, "generator": torch.Generator()},
        {"history_prompt": "made/short"},
        {"history_prompt": [None, None]},
        {"logits_processor": []},
        {"streamer": print},
        {"progress": "bar"},
        {"attention_mask": torch.ones(1, 3)},
        {"input_ids": torch.tensor([[10_000]])},
        {"input_ids": torch.tensor([[-1]])},
        {"input_ids": torch.ones(1, 2)},
        {"input_ids": None},
        {"input_ids": torch.zeros(1, 0).long()},
        {"input_ids": torch.zeros(1, 1, 1).long()},
    ],
)
def test_errors_come_before_any_network_runs(no_network, keywords):
    with pytest.raises((ValueError, TypeError), match=r".{10}"):
        no_network.generate(**{"input_ids": torch.tensor([[5, 6]]), **keywords})


def test_the_stub_network_does_fail(no_network):
    """The tests above mean something: a good call reaches the network."""
    with pytest.raises(AssertionError, match="a network ran"):
        no_network.generate(torch.tensor([[5, 6]]), logits_processor=LogitsProcessorList())


@pytest.mark.parametrize(
    ("stage", "rows"),
    [
        ("coarse", [torch.tensor([200])]),
        ("coarse", [torch.tensor([-1])]),
        ("coarse", []),
        ("coarse", None),
        ("coarse", [torch.zeros(2, 2).long()]),
        ("coarse", [torch.zeros(3)]),
        ("fine", [torch.full((2, 1), 64)]),
        ("fine", [torch.zeros(3, 4).long()]),
        ("fine", [torch.zeros(4).long()]),
        ("fine", "codes"),
        ("fine", [torch.zeros(2, 2)]),
    ],
)
def test_stages_refuse_wrong_ids_before_any_network_runs(no_network, stage, rows):
    with pytest.raises(ValueError, match=r".{10}"):
        getattr(no_network, f"generate_{stage}")(rows)


@pytest.mark.parametrize(
    "codes", [[torch.full((8, 1), 64)], [torch.zeros(2, 4).long()], [torch.zeros(8, 2)], [], None]
)
def test_the_codec_refuses_wrong_codes(no_network, codes):
    with pytest.raises(ValueError, match=r".{10}"):
        no_network.decode_audio(codes)


def test_forward_of_the_cascade_says_what_to_call(small):
    with pytest.raises(TypeError, match="generate"):
        small.model(torch.tensor([[1]]))
