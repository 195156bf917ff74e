"""The processor: its keywords (honored, harmless, refused), inputs that move to a device, audio files."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from bark_hf import BarkProcessor
from bark_hf.audio import read_audio

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
    for setting in ("do_lower_case", "strip_accents", "split_special_tokens"):
        own, tokenizer = (
            auto.from_pretrained(small.checkpoint, **{setting: True}) for auto in (BarkProcessor, AutoTokenizer)
        )
        text = "Hello é [MASK]"
        assert own(text, padding=True)["input_ids"].tolist() == [
            tokenizer(text, add_special_tokens=False)["input_ids"]
        ]
        assert not torch.equal(own(text)["input_ids"], small.processor(text)["input_ids"])
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


def test_saving_returns_the_files_as_every_processor_of_transformers_does(small, tmp_path):
    first, *_ = small.processor.save_pretrained(tmp_path)
    assert json.loads(Path(first).read_text()) == small.processor.to_dict()
    assert BarkProcessor.from_pretrained(tmp_path).to_dict() == small.processor.to_dict()


def test_decoding_is_the_tokenizers(small):
    ids = small.processor("Hello world", padding=True)["input_ids"]
    assert small.processor.batch_decode(ids) == small.processor.tokenizer.batch_decode(ids) == ["Hello world"]
    assert small.processor.decode(ids[0]) == "Hello world"


def test_voices_behind_the_symbolic_links_of_the_hubs_cache_are_read(small, tmp_path):
    """There every file is a link out of its folder: a check of where links lead would refuse them all."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "revision"
    small.processor.save_pretrained(blobs, voice_layout="npy")
    for file in blobs.rglob("*"):
        link = snapshot / file.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            link.symlink_to(os.path.relpath(file, link.parent))
    voice = BarkProcessor.from_pretrained(snapshot).voice("made/short")
    assert voice == small.processor.voice("made/short")


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


# ------------------------------------------------------------------------------------------------------- audio files


BRIEF = {"seed": 1, "max_new_tokens": 4, "allow_early_stop": False}


def written(path) -> tuple[int, int]:
    """(samples, rate)"""
    samples, rate = read_audio(path)
    return len(samples), rate


def test_generated_audio_is_saved_as_it_comes(small, tmp_path):
    """As the processors of CSM, Dia and others do it: one path for one, a list for several."""
    inputs = small.processor(["the", "Hello world"])
    audio = small.model.generate(**inputs, **BRIEF)
    paths = [tmp_path / "a.wav", str(tmp_path / "b.flac")]
    small.processor.save_audio(audio, paths)
    for path, row in zip(paths, audio, strict=True):
        samples, rate = read_audio(path)
        assert rate == 24_000
        np.testing.assert_allclose(samples, row.numpy(), atol=1 / 32_000)
    one = [audio[0], audio[:1], audio[0].numpy().astype(np.float64), [audio[0]], [audio[:1].bfloat16()], (audio[0],)]
    for each in one:
        for path in (tmp_path / "one.wav", [tmp_path / "one.wav"]):
            small.processor.save_audio(each, path)
            assert written(tmp_path / "one.wav") == (audio.shape[1], 24_000)


def test_padding_is_not_saved(small, tmp_path):
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    inputs = small.processor(["the", "Hello world"])
    run = {"seed": 1, "max_new_tokens": 40, "min_eos_p": 0.02, "temperature": 2.0}
    audio, lengths = small.model.generate(**inputs, return_output_lengths=True, **run)
    assert len(set(lengths.tolist())) == 2  # or nothing is padded
    for each in (lengths, lengths.tolist()):
        small.processor.save_audio(audio, paths, audio_lengths=each)
        assert [written(path)[0] for path in paths] == lengths.tolist()
    small.processor.save_audio(small.model.generate(**inputs, return_dict_in_generate=True, **run), paths)
    assert [written(path)[0] for path in paths] == lengths.tolist()


def test_the_rate_is_the_callers_the_results_or_the_checkpoints(small, tmp_path):
    """The bundled model's is 16 kHz: 24 kHz would speed its speech up by half."""
    path, folder = tmp_path / "a.wav", tmp_path / "other"
    shutil.copytree(small.checkpoint, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "sample_rate": 16_000}))
    processor = BarkProcessor.from_pretrained(folder)
    silence = np.zeros(100, dtype=np.float32)
    processor.save_audio(silence, path)
    assert written(path) == (100, 16_000)
    processor.save_audio(silence, path, sampling_rate=8000)
    assert written(path) == (100, 8000)
    processor.save_audio({"audio": silence, "sampling_rate": 48_000}, path)  # what a pipeline gives
    assert written(path) == (100, 48_000)
    processor.save_audio({"audio": silence, "sampling_rate": 48_000}, path, 22_050)
    assert written(path) == (100, 22_050)
    BarkProcessor(small.processor.tokenizer).save_audio(silence, path)
    assert written(path) == (100, 24_000)


@pytest.mark.parametrize(
    ("audio", "paths", "options", "message"),
    [
        (np.zeros((2, 9), np.float32), "a.wav", {}, "2 audios, 1 paths"),
        (np.zeros(9, np.float32), ["a.wav", "b.wav"], {}, "1 audios, 2 paths"),
        (np.zeros((2, 9), np.float32), ["a.wav", "b.wav"], {"audio_lengths": [3]}, "1 lengths"),
        (np.zeros((1, 2, 9), np.float32), "a.wav", {}, r"\(1, 2, 9\)"),
        ([np.zeros((2, 9), np.float32)], "a.wav", {}, r"\(2, 9\)"),
        (np.zeros(9, np.int16), "a.wav", {}, "int16"),
        (torch.zeros(9, dtype=torch.int64), "a.wav", {}, "int64"),
        ({"semantic_prompt": []}, "a.wav", {}, "object"),
        ("Hello", "a.wav", {}, "Audio is"),
        (np.full(9, np.nan, np.float32), "a.wav", {}, "NaN"),
        (np.zeros(9, np.float32), "a.txt", {}, r"\.txt"),
    ],
)
def test_what_cannot_be_saved_is_a_sentence(small, tmp_path, monkeypatch, audio, paths, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        small.processor.save_audio(audio, paths, **options)
    assert not list(tmp_path.iterdir())
