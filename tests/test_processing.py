"""The processor's keywords, at the call and when it is loaded: what is honored, what is harmless, what is refused."""

import pickle

import pytest
import torch
from transformers import AutoTokenizer

from bark_hf import BarkProcessor

# ------------------------------------------------------------------------------------------------- keywords of a call


def test_the_call_honors_what_the_tokenizer_of_transformers_bark_does(small):
    """They were swallowed: the mask came, the types did not, and padding was to 256 whatever was asked."""
    text = "Hello [laughs]"
    options = {"padding": "max_length", "max_length": 256, "return_tensors": "pt"}
    for add_special_tokens in (False, True):
        for return_attention_mask in (False, True):
            for return_token_type_ids in (False, True):
                flags = {
                    "add_special_tokens": add_special_tokens,
                    "return_attention_mask": return_attention_mask,
                    "return_token_type_ids": return_token_type_ids,
                }
                wanted = small.processor.tokenizer(text, **options, **flags)
                got = small.processor(text, **options, **flags)
                assert got.keys() == wanted.keys()
                for name in wanted:
                    assert torch.equal(got[name], wanted[name]), name


@pytest.mark.parametrize("padding", [True, "longest"])
def test_padding_to_the_longest_text(small, padding):
    texts = ["the", "Hello world, this is the music."]
    wanted = small.processor(texts)
    inputs = small.processor(texts, padding=padding)
    width = int(wanted["attention_mask"].sum(1).max())
    assert inputs["input_ids"].shape == (2, width)
    assert torch.equal(inputs["input_ids"], wanted["input_ids"][:, :width])
    assert small.processor("the " * 20, padding=padding, max_length=20)["input_ids"].shape == (1, 20)
    audio, again = (small.model.generate(**each, seed=1, max_new_tokens=4) for each in (wanted, inputs))
    assert torch.equal(audio, again)


def test_token_types_do_not_disturb_generation(small):
    plain, typed = (small.processor("the", return_token_type_ids=flag) for flag in (False, True))
    audio, again = (small.model.generate(**each, seed=1, max_new_tokens=4) for each in (plain, typed))
    assert torch.equal(audio, again)


@pytest.mark.parametrize(
    "harmless",
    [
        {"truncation": True},
        {"truncation": "longest_first"},
        {"padding": "max_length"},
        {"padding_side": "right"},
        {"text_kwargs": {}, "return_tensors": "pt"},
        {"common_kwargs": None},
    ],
)
def test_keywords_that_change_nothing_are_accepted(small, harmless):
    assert torch.equal(small.processor("Hello", **harmless)["input_ids"], small.processor("Hello")["input_ids"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"voice_presets": "made/short"}, TypeError, "'voice_presets'. Did you mean 'voice_preset'"),
        ({"voice": "made/short"}, TypeError, "Unknown keyword 'voice'"),
        ({"max_lenght": 20}, TypeError, "Did you mean 'max_length'"),
        ({"return_token_types_ids": False}, TypeError, "Did you mean 'return_token_type_ids'"),
        ({"return_offsets_mapping": True}, TypeError, "Unknown keyword"),
        ({"text_pair": "Hi"}, TypeError, "Unknown keyword"),
        ({"text_kwargs": {"max_length": 20}}, ValueError, "text_kwargs"),
        ({"padding": False}, ValueError, "padding"),
        ({"padding": "do_not_pad"}, ValueError, "padding"),
        ({"padding_side": "left"}, ValueError, "padding_side"),
        ({"truncation": False}, ValueError, "truncation"),
    ],
)
def test_the_call_refuses_what_nobody_reads(small, given, error, message):
    """`voice_presets=` gave speech in no voice at all, in silence."""
    with pytest.raises(error, match=message):
        small.processor("Hello", **given)


# ---------------------------------------------------------------------------------------- keywords of from_pretrained


def test_settings_of_the_tokenizer_reach_it(small):
    """They were dropped: a special token of one's own was spelled out letter by letter."""
    settings = {"bos_token": "(BOS)", "cls_token": "(CLS)", "model_max_length": 300}
    processor = BarkProcessor.from_pretrained(small.checkpoint, **settings)
    wanted = AutoTokenizer.from_pretrained(small.checkpoint, **settings)
    assert processor.tokenizer.get_vocab() == wanted.get_vocab()
    assert {name: getattr(processor.tokenizer, name) for name in settings} == settings
    assert processor("(BOS)", padding=True)["input_ids"].tolist() == [[wanted.bos_token_id]]
    split = BarkProcessor.from_pretrained(small.checkpoint, split_special_tokens=True)
    assert split("[MASK]")["attention_mask"].sum() > 1
    assert processor.available_voice_presets == small.processor.available_voice_presets


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"bos_tokens": "(BOS)"}, TypeError, "Did you mean 'bos_token'"),
        ({"model_max_lenght": 9}, TypeError, "Did you mean 'model_max_length'"),
        ({"voices": {}}, TypeError, "Unknown keyword 'voices'"),
        ({"do_sample": True}, TypeError, "Unknown keyword 'do_sample'"),
        ({"padding_side": "left"}, ValueError, "padding_side"),
        ({"truncation_side": "left"}, ValueError, "truncation_side"),
        ({"speaker_embeddings_dict_path": "other.json"}, ValueError, "other.json"),
    ],
)
def test_loading_refuses_what_nobody_reads(small, given, error, message):
    with pytest.raises(error, match=message):
        BarkProcessor.from_pretrained(small.checkpoint, **given)


def test_loading_as_transformers_bark_is_loaded(small):
    """By its own first keyword, and with the file that lists voices as the second argument."""
    name = "speaker_embeddings_path.json"
    processor = BarkProcessor.from_pretrained(pretrained_processor_name_or_path=small.checkpoint)
    assert len(processor.voices) == 4
    assert len(BarkProcessor.from_pretrained(small.checkpoint, name, padding_side="right").voices) == 4
    assert len(BarkProcessor.from_pretrained(small.checkpoint, None).voices) == 0


def test_a_pipeline_may_pass_the_models_keywords(small):
    """`pipeline(..., model_kwargs=...)` and `dtype=` reach the processor too, from which nothing is to be read."""
    processor = BarkProcessor.from_pretrained(small.checkpoint, _from_pipeline="text-to-speech", dtype="auto")
    assert len(processor.voices) == 4


def test_what_auto_processor_adds_is_accepted(small):
    added = {"_from_auto": True, "trust_remote_code": None, "revision": "main", "code_revision": None}
    assert len(BarkProcessor.from_pretrained(small.checkpoint, **added, use_fast=True).voices) == 4


# ------------------------------------------------------------------------------------------------------------ devices


VOICES = ["made/short", ["made/short", None, "made/long"]]


def devices(inputs) -> set[str]:
    """Of all tensors, those of the voices included."""
    history = inputs["history_prompt"]
    voices = [voice for voice in (history if isinstance(history, list) else [history]) if voice is not None]
    tensors = [inputs["input_ids"], inputs["attention_mask"], *(array for voice in voices for array in voice.values())]
    return {tensor.device.type for tensor in tensors}


@pytest.mark.parametrize("preset", VOICES)
def test_inputs_move_with_their_voices(small, preset):
    """`inputs.to(device)` left the voice behind, and the idiom of every tutorial failed for want of `dict.to`."""
    texts = ["the"] if preset == "made/short" else ["the", "Hello", "music"]
    inputs = small.processor(texts, voice_preset=preset)
    assert devices(inputs) == {"cpu"}
    assert devices({name: value.to("meta") for name, value in inputs.items()}) == {"meta"}
    inputs = small.processor(texts, voice_preset=preset)
    assert devices(inputs.to(torch.device("meta"))) == {"meta"}
    assert devices(small.processor(texts, voice_preset=preset).to("cpu", non_blocking=True)) == {"cpu"}


@pytest.mark.parametrize("preset", VOICES)
def test_moved_inputs_are_spoken_as_before(small, preset):
    texts = ["the"] if preset == "made/short" else ["the", "Hello", "music"]
    inputs = small.processor(texts, voice_preset=preset)
    wanted = small.model.generate(**inputs, seed=1, max_new_tokens=4)
    moved = {name: value.to("cpu") for name, value in inputs.items()}
    plain = {**inputs, "history_prompt": small.processor.voice("made/short")} if preset == "made/short" else inputs
    for same in (inputs.to("cpu"), moved, plain, pickle.loads(pickle.dumps(inputs))):
        assert torch.equal(small.model.generate(**same, seed=1, max_new_tokens=4), wanted)


def test_a_cast_leaves_the_ids_of_a_voice_integers(small):
    history = small.processor(["the"] * 2, voice_preset=["made/short", None])["history_prompt"].to(torch.float16)
    assert history[0]["semantic_prompt"].dtype == torch.int64
    assert history[1] is None
