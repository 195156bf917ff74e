"""pipeline("text-to-speech") with instances: transformers' stock class and BarkPipeline, against the Python API."""

import numpy as np
import pytest
import torch
from conftest import since_5_20
from transformers import TextToAudioPipeline, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from bark_hf import BarkModel, BarkPipeline, BarkProcessor, Voice

TEXTS = ["Hello world.", "This is the music, hello.", "Hello [laughs]"]
SHORT = {"semantic_max_new_tokens": 9, "semantic_min_eos_p": None}


def build(small, **kwargs):
    parts = {"model": small.model, "processor": small.processor, "tokenizer": small.processor.tokenizer}
    return pipeline("text-to-speech", **parts, **kwargs)


@pytest.fixture(scope="module")
def stock(small):
    return build(small)


@pytest.fixture(scope="module")
def pipe(small):
    return build(small, pipeline_class=BarkPipeline)


def spoken(small, text, voice=None, **options):
    """What the Python API gives for one text: its samples, not padded."""
    inputs = small.processor(text, voice_preset=voice)
    audio, lengths = small.model.generate(**inputs, return_output_lengths=True, **{**SHORT, **options})
    return audio[0, : lengths[0]].numpy()


def assert_spoken(result, wanted):
    assert set(result) == {"audio", "sampling_rate"}
    assert result["sampling_rate"] == 24_000
    assert result["audio"].dtype == np.float32
    assert result["audio"].shape == wanted.shape
    np.testing.assert_allclose(result["audio"], wanted, atol=1e-5)


# transformers' own class, nothing registered


def test_instances_need_no_registration(small, stock):
    assert type(stock) is TextToAudioPipeline
    assert stock.model is small.model
    torch.manual_seed(3)
    result = stock(TEXTS[0], forward_params=SHORT)
    torch.manual_seed(3)
    assert_spoken(result, spoken(small, TEXTS[0]))


def test_stock_passes_both_kinds_of_parameters(small, stock):
    result = stock(TEXTS[0], forward_params={**SHORT, "seed": 4}, generate_kwargs={"seed": 5, "do_sample": True})
    assert_spoken(result, spoken(small, TEXTS[0], seed=5))
    result = stock(TEXTS[0], forward_params={**SHORT, "do_sample": False})
    assert_spoken(result, spoken(small, TEXTS[0], do_sample=False))


def test_stock_adds_no_parameters_of_its_own(small, stock):
    """Its default of 256 new tokens would cut speech short, and its global defaults would add top_k=50."""
    options = {"seed": 1, "allow_early_stop": False, "max_duration": 5.5}
    result = stock(TEXTS[0], forward_params=options)
    assert len(result["audio"]) > 256 / 49.9 * 24_000
    assert_spoken(result, spoken(small, TEXTS[0], semantic_max_new_tokens=768, **options))


def test_stock_takes_a_voice_by_name(small, stock):
    options = {"forward_params": {**SHORT, "seed": 2}}
    result = stock(TEXTS[0], preprocess_params={"voice_preset": "made/short"}, **options)
    assert_spoken(result, spoken(small, TEXTS[0], "made/short", seed=2))
    assert not np.array_equal(result["audio"], spoken(small, TEXTS[0], seed=2))
    with pytest.raises(ValueError, match="Unknown voice 'made/shorter'"):
        stock(TEXTS[0], preprocess_params={"voice_preset": "made/shorter"}, **options)


def test_stock_takes_a_history_among_the_forward_parameters(small, stock):
    voice = small.processor.voice("made/long")
    result = stock(TEXTS[0], forward_params={**SHORT, "seed": 2, "history_prompt": voice})
    assert_spoken(result, spoken(small, TEXTS[0], "made/long", seed=2))


def test_stock_takes_lists(small, stock):
    results = stock(TEXTS, forward_params={**SHORT, "seed": 2})
    for text, result in zip(TEXTS, results, strict=True):
        assert_spoken(result, spoken(small, text, seed=2))


def test_several_samples_of_a_text_are_refused(pipe):
    """All but the first would be dropped."""
    with pytest.raises(ValueError, match=r"one result for each text; for 2 samples call `model.generate`"):
        pipe(TEXTS[0], generate_kwargs={"num_return_sequences": 2})


def test_a_pipeline_does_not_change_the_models_generation_config(small, stock, pipe):
    assert (
        small.model.generation_config.to_dict()
        == type(small.model).from_pretrained(small.checkpoint).generation_config.to_dict()
    )


# BarkPipeline


def test_pipeline_class_and_constructor_agree(small, pipe):
    assert type(pipe) is BarkPipeline
    direct = BarkPipeline(small.model, processor=small.processor, tokenizer=small.processor.tokenizer)
    assert type(direct) is BarkPipeline
    alone = BarkPipeline(model=small.model, processor=small.processor)
    wanted = spoken(small, TEXTS[1], "made/long", seed=7)
    for one in (pipe, direct, alone):
        assert_spoken(one(TEXTS[1], voice_preset="made/long", seed=7, forward_params=SHORT), wanted)


def test_without_a_processor_the_error_says_so(small):
    with pytest.raises(ValueError, match="needs a processor"):
        BarkPipeline(model=small.model, tokenizer=small.processor.tokenizer)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_voices_and_seeds_for_each_text_do_not_depend_on_the_batch_size(small, pipe, batch_size):
    """The stock class has one voice for all texts and leaves padding on the shorter results of a batch."""
    voices = ["made/short", None, small.processor.voice("made/uint16")]
    seeds = [11, 5, 300]
    options = {"semantic_min_eos_p": 0.02, "semantic_max_new_tokens": 40, "semantic_temperature": 2.0}
    results = pipe(TEXTS, voice_preset=voices, seed=seeds, batch_size=batch_size, generate_kwargs=options)
    wanted = [spoken(small, *row, seed=seed, **options) for *row, seed in zip(TEXTS, voices, seeds, strict=True)]
    assert len({len(one) for one in wanted}) > 1  # or nothing is padded
    for result, one in zip(results, wanted, strict=True):
        assert_spoken(result, one)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_voice_and_one_seed_serve_all_texts(small, pipe, batch_size):
    """Text i gets seed + i, as row i of `generate(seed=...)` does."""
    results = pipe(TEXTS, voice_preset="made/short", seed=20, batch_size=batch_size, forward_params=SHORT)
    audio, lengths = small.model.generate(
        **small.processor(TEXTS, voice_preset="made/short"), seed=20, return_output_lengths=True, **SHORT
    )
    for i, result in enumerate(results):
        assert_spoken(result, audio[i, : lengths[i]].numpy())
        assert_spoken(result, spoken(small, TEXTS[i], "made/short", seed=20 + i))


def test_without_a_seed_torchs_generator_decides(small, pipe):
    torch.manual_seed(8)
    result = pipe(TEXTS[0], forward_params=SHORT)
    torch.manual_seed(8)
    assert_spoken(result, spoken(small, TEXTS[0]))


def test_seed_zero_is_a_seed(small, pipe):
    assert_spoken(pipe(TEXTS[0], seed=0, forward_params=SHORT), spoken(small, TEXTS[0], seed=0))


def test_voices_may_be_objects_mappings_and_files(small, pipe, tmp_path):
    voice = small.processor.voice("made/int32")
    voice.save(tmp_path / "me.npz")
    wanted = spoken(small, TEXTS[0], "made/int32", seed=1)
    for given in (voice, dict(voice), tmp_path / "me.npz", [Voice.load(tmp_path / "me.npz")]):
        text = [TEXTS[0]] if isinstance(given, list) else TEXTS[0]
        result = pipe(text, voice_preset=given, seed=1, forward_params=SHORT)
        assert_spoken(result[0] if isinstance(result, list) else result, wanted)


def test_lists_in_lists_out(small, pipe):
    """A list of one text gives a list of one result; a tuple is a list of texts."""
    wanted = spoken(small, TEXTS[0], seed=1)
    for texts in ([TEXTS[0]], (TEXTS[0],)):
        (result,) = pipe(texts, seed=1, forward_params=SHORT)
        assert_spoken(result, wanted)


@pytest.mark.parametrize(
    ("texts", "options", "match"),
    [
        (TEXTS, {"seed": [1, 2]}, "`seed` lists 2 for 3 texts"),
        (TEXTS, {"voice_preset": ["made/short"]}, "`voice_preset` lists 1 for 3 texts"),
        (TEXTS[0], {"seed": [1, 2]}, "`seed` lists 2 for 1 text"),
        (TEXTS[0], {"voice_preset": ["made/short", None]}, "`voice_preset` lists 2 for 1 text"),
        (TEXTS[0], {"seed": []}, "`seed` lists 0 for 1 text"),
        (TEXTS, {"seed": [1, None, 2]}, "`seed` must be an integer"),
        (TEXTS, {"seed": "one"}, "`seed` must be an integer"),
        (TEXTS, {"seed": -1}, "`seed` must be an integer"),
        ([], {}, "non-empty list"),
        ((), {"seed": 3}, "non-empty list"),
        ("  ", {}, "empty"),
        (TEXTS, {"voice_preset": "made/nobody"}, "Unknown voice 'made/nobody'"),
        (TEXTS, {"voice_preset": [None, "made/nobody", None], "batch_size": 3}, "Unknown voice 'made/nobody'"),
        ([*TEXTS, 3], {}, "text"),
        (3, {}, "text"),
        (None, {}, "text"),
    ],
)
def test_wrong_input_is_a_sentence(pipe, texts, options, match):
    with pytest.raises(ValueError, match=match):
        pipe(texts, forward_params=SHORT, **options)


@since_5_20
@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_iterator_is_read_as_results_are_wanted(small, pipe, batch_size):
    read = []

    def texts():
        for text in TEXTS * 2:
            read.append(text)
            yield text

    results = pipe(texts(), seed=30, voice_preset="made/short", batch_size=batch_size, forward_params=SHORT)
    assert len(read) <= 1  # transformers looks at the first to see whether it is a chat
    first = next(iter(results))
    assert len(read) <= batch_size + 1
    assert_spoken(first, spoken(small, TEXTS[0], "made/short", seed=30))


def dataset(texts):
    return KeyDataset([{"text": text} for text in texts], "text")


@pytest.mark.parametrize(
    "kind", [iter, lambda texts: (text for text in texts), lambda texts: dict.fromkeys(texts).keys(), dataset]
)
def test_an_iterators_results_equal_a_lists(small, pipe, kind):
    results = list(
        pipe(kind(TEXTS), seed=[1, 2, 3], voice_preset=["made/short", None, "made/long"], forward_params=SHORT)
    )
    for result, text, seed, voice in zip(results, TEXTS, (1, 2, 3), ("made/short", None, "made/long"), strict=True):
        assert_spoken(result, spoken(small, text, voice, seed=seed))


def test_a_list_that_is_shorter_than_an_iterator_is_a_sentence(pipe):
    with pytest.raises(ValueError, match="`seed` lists 1"):
        list(pipe(iter(TEXTS), seed=[1], forward_params=SHORT))


@since_5_20
def test_an_iterator_without_texts_gives_no_results(pipe):
    assert list(pipe(iter([]), seed=1)) == []


def test_voice_and_seed_of_the_constructor_are_defaults(small):
    pipe = build(small, pipeline_class=BarkPipeline, voice_preset="made/short", seed=40, forward_params=SHORT)
    assert_spoken(pipe(TEXTS[0]), spoken(small, TEXTS[0], "made/short", seed=40))
    assert_spoken(pipe(TEXTS)[2], spoken(small, TEXTS[2], "made/short", seed=42))
    assert_spoken(pipe(TEXTS[0], seed=0), spoken(small, TEXTS[0], "made/short", seed=0))
    assert_spoken(pipe(TEXTS[0], voice_preset="made/long"), spoken(small, TEXTS[0], "made/long", seed=40))
    options = {**SHORT, "do_sample": False}  # a call's options replace the constructor's of that kind
    assert_spoken(pipe(TEXTS[0], forward_params=options), spoken(small, TEXTS[0], "made/short", do_sample=False))


def test_generate_kwargs_win_over_forward_params(small, pipe):
    result = pipe(TEXTS[0], seed=1, forward_params={**SHORT, "temperature": 0.1}, generate_kwargs={"temperature": 1.5})
    assert_spoken(result, spoken(small, TEXTS[0], seed=1, temperature=1.5))


def test_generation_parameters_of_the_constructor_count(small):
    """The stock class honours them: `pipeline(..., max_new_tokens=9)`."""
    pipe = build(small, pipeline_class=BarkPipeline, max_new_tokens=9, do_sample=False)
    assert_spoken(pipe(TEXTS[0], seed=1), spoken(small, TEXTS[0], do_sample=False, semantic_min_eos_p=0.2))


def test_return_options_of_generate_do_no_harm(small, pipe):
    for name in ("return_dict_in_generate", "return_output_lengths"):
        result = pipe(TEXTS[0], seed=1, forward_params=SHORT, generate_kwargs={name: True})
        assert_spoken(result, spoken(small, TEXTS[0], seed=1))


def test_a_pipeline_can_be_printed(pipe, stock):
    """Its repr asks the model for its modalities."""
    assert "BarkModel" in repr(pipe)
    assert "audio" in repr(stock) or "BarkModel" in repr(stock)


def test_an_unknown_option_names_the_nearest(pipe):
    with pytest.raises((TypeError, ValueError), match="semantic_temperature"):
        pipe(TEXTS[0], generate_kwargs={"semantic_temprature": 1.0})


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_utterance_that_ends_at_once_is_an_empty_array(small, pipe, batch_size):
    """p(EOS) >= 0 always holds. The result keeps its shape (0,) and does not fail the batch."""
    with pytest.warns(UserWarning, match="ended at once"):
        results = pipe(TEXTS, seed=1, batch_size=batch_size, generate_kwargs={"min_eos_p": 0.0})
    for result in results:
        assert_spoken(result, np.zeros(0, dtype=np.float32))
    with pytest.warns(UserWarning, match="ended at once"):
        assert_spoken(pipe(TEXTS[0], seed=1, generate_kwargs={"min_eos_p": 0.0}), np.zeros(0, dtype=np.float32))


def test_callers_lists_are_not_changed(pipe):
    texts, seeds, voices = list(TEXTS[:2]), [1, 2], ["made/short", None]
    params = dict(SHORT)
    pipe(texts, seed=seeds, voice_preset=voices, forward_params=params, batch_size=2)
    assert (texts, seeds, voices, params) == (TEXTS[:2], [1, 2], ["made/short", None], SHORT)


@pytest.mark.parametrize("layout", [{}, {"voice_layout": "npy"}])
def test_a_saved_pipeline_speaks_as_before_with_all_voices(small, pipe, tmp_path, layout):
    """transformers' own saves model and tokenizer only."""
    pipe.save_pretrained(tmp_path, max_shard_size="200KB", **layout)
    assert (tmp_path / "speaker_embeddings_path.json").exists() == bool(layout)
    parts = {"model": BarkModel.from_pretrained(tmp_path).eval(), "processor": BarkProcessor.from_pretrained(tmp_path)}
    assert parts["processor"].available_voice_presets == small.processor.available_voice_presets
    again = BarkPipeline(**parts, tokenizer=parts["processor"].tokenizer)
    wanted = pipe(TEXTS[0], voice_preset="made/short", seed=3, generate_kwargs=SHORT)["audio"]
    np.testing.assert_array_equal(
        again(TEXTS[0], voice_preset="made/short", seed=3, generate_kwargs=SHORT)["audio"], wanted
    )
