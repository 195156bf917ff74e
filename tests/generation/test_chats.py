"""Chats become dialogues: through the processor and `generate`, transformers' own pipeline and ours."""

import sys

import numpy as np
import pytest
import torch
from conftest import since_5_20
from test_pipeline import assert_spoken, build, spoken
from transformers.pipelines.pt_utils import KeyDataset

from bark_hf import BarkPipeline, BarkProcessor, Voice

OPTIONS = {
    "semantic_max_new_tokens": 30,
    "semantic_min_eos_p": 0.02,
    "semantic_temperature": 2.0,
}  # turns differ in length
CHAT = [
    {"role": "made/short", "content": "Hello world."},
    {
        "role": "user",
        "name": "made/long",
        "content": [{"type": "text", "text": "This is"}, {"type": "text", "text": "the music"}],
    },
    {"role": "made/short", "content": "Hello [laughs]"},
]
TURNS = [("Hello world.", "made/short"), ("This is the music", "made/long"), ("Hello [laughs]", "made/short")]
OTHER = [{"role": "user", "content": "the"}]


@pytest.fixture(scope="module")
def stock(small):
    return build(small)


@pytest.fixture(scope="module")
def pipe(small):
    return build(small, pipeline_class=BarkPipeline)


def dialogue(small, turns=TURNS, seed=5, **options):
    """What the Python API gives for the turns one by one, joined."""
    parts = [
        spoken(small, text, voice, seed=seed + i, **{**OPTIONS, **options}) for i, (text, voice) in enumerate(turns)
    ]
    return np.concatenate(parts)


def presets(small, chat, voices=None, **options):
    """The names of the presets that the turns have."""
    names = {small.processor.voice(name): name for name in small.processor.voices} | {None: None}
    return [names[turn.voice] for turn in small.processor.chat_turns(chat, voices, **options)]


def said(*roles):
    return [{"role": role, "content": "the"} for role in roles]


# ---------------------------------------------------------------------------------------------------------- processor


def test_a_speakers_voice_is_the_preset_called_like_the_name_or_the_role(small):
    turns = small.processor.chat_turns(CHAT)
    assert [(turn.speaker, turn.text) for turn in turns] == [
        ("made/short", "Hello world."), ("made/long", "This is the music"), ("made/short", "Hello [laughs]"),
    ]  # fmt: skip
    assert presets(small, CHAT) == ["made/short", "made/long", "made/short"]


def test_a_mapping_gives_speakers_their_voices(small):
    chat = [*said("user", "made/long"), {"role": "user", "name": "Anna", "content": "the"}, *said("assistant", "user")]
    voice = small.processor.voice("made/int32")
    voices = {"user": "made/short", "Anna": dict(voice), "assistant": None}
    assert presets(small, chat, voices) == ["made/short", "made/long", "made/int32", None, "made/short"]
    assert presets(small, said("made/long"), {"made/long": "made/short"}) == ["made/short"]
    random = presets(small, said("user", "assistant") * 3, {"user": "random", "assistant": "random"}, voice_seed=1)
    assert random == [*random[:2]] * 3  # a speaker keeps the voice that was picked
    assert (
        presets(small, said("user", "assistant"), {"user": "random", "assistant": "random"}, voice_seed=1)
        == random[:2]
    )


def test_speakers_without_a_voice_get_presets_of_their_own(small):
    """A chat from a language model names no presets: it is spoken all the same, in voices that can be told apart."""
    chat = said("user", "assistant", "made/int32", "user", "assistant")
    assert presets(small, chat) == ["made/long", "made/short", "made/int32", "made/long", "made/short"]
    with pytest.raises(ValueError, match=r"'fourth' has no voice.*4 presets"):
        small.processor.chat_turns(said("made/long", "first", "second", "third", "fourth"))


def test_presets_that_stand_in_speak_the_chats_language(small, monkeypatch):
    voice = small.processor.voice("made/short")
    names = ["v2/de_speaker_0", "v2/fr_speaker_1", "fr_speaker_0", "v2/en_speaker_3"]
    processor = BarkProcessor(
        small.processor.tokenizer, {name: voice.trim(0.1 * (i + 1)) for i, name in enumerate(names)}
    )

    def chosen(text):
        turns = processor.chat_turns([{"role": role, "content": text} for role in ("user", "assistant")])
        return [next(name for name in names if processor.voice(name) == turn.voice) for turn in turns]

    monkeypatch.setitem(sys.modules, "py3langid", None)  # importing it now raises
    assert chosen("Bonjour tout le monde, comment allez-vous ?") == ["v2/en_speaker_3", "v2/de_speaker_0"]
    monkeypatch.undo()
    pytest.importorskip("py3langid")
    french = chosen("Bonjour tout le monde, comment allez-vous aujourd'hui ?")
    assert french == ["v2/fr_speaker_1", "fr_speaker_0"]


@pytest.mark.parametrize(
    ("chat", "voices", "message"),
    [
        (said("user", "assistant"), {"user": "made/short"}, "no voice for the speaker 'assistant'; it has .'user'."),
        (said("user"), {"user": "made/shrt"}, "Unknown voice 'made/shrt'"),
        (said("user"), ["made/short"], "maps speakers to voices"),
        (said("v2/en_speaker_6"), None, "Unknown voice 'v2/en_speaker_6'"),
        (said("system", "user"), None, "system message"),
        (said("system", "user"), {"user": "made/short"}, "system message"),
        ([{"role": "user"}], None, "Message 0 must be"),
        ([{"content": "the"}], None, "Message 0 must be"),
        ([*said("user"), "the"], None, "Message 1 must be"),
        ([{"role": 0, "content": "the"}], None, "role and the name of message 0"),
        ([{"role": "user", "content": None}], None, "content of message 0"),
        ([{"role": "user", "content": [{"type": "audio", "path": "a.wav"}]}], None, "content of message 0.*voices="),
        ([{"role": "user", "content": ["the"]}], None, "content of message 0"),
        ([], None, "non-empty list"),
        ("the", None, "non-empty list"),
        (None, None, "non-empty list"),
    ],
)
def test_what_is_no_chat_or_has_no_voice_is_a_sentence(small, chat, voices, message):
    with pytest.raises(ValueError, match=message):
        small.processor.chat_turns(chat, voices)


def test_a_system_message_is_spoken_where_it_has_a_voice(small):
    assert presets(small, said("system", "user"), {"system": "made/long", "user": None}) == ["made/long", None]


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_the_template_makes_inputs_of_turns(small, kind):
    inputs = small.processor.apply_chat_template(CHAT, tokenize=True, return_dict=True, return_tensors=kind)
    wanted = small.processor([text for text, _ in TURNS], [voice for _, voice in TURNS], return_tensors=kind)
    assert list(inputs) == ["input_ids", "attention_mask", "history_prompt"]
    for name in ("input_ids", "attention_mask"):
        assert type(inputs[name]) is type(wanted[name])
        np.testing.assert_array_equal(inputs[name][0], wanted[name])
        assert inputs[name].shape == (1, 3, 256)
    assert [Voice.of(voice) for voice in inputs["history_prompt"]] == [
        small.processor.voice(name) for _, name in TURNS
    ]
    ids = small.processor.apply_chat_template(CHAT, tokenize=True, return_tensors=kind)
    np.testing.assert_array_equal(ids, inputs["input_ids"])


def test_a_batch_of_chats_is_padded_with_empty_turns(small):
    inputs = small.processor.apply_chat_template(
        [OTHER, CHAT], voices={"user": None}, tokenize=True, return_dict=True, processor_kwargs={"max_length": 40}
    )
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 3, 40)
    assert inputs["attention_mask"].any(-1).tolist() == [[True, False, False], [True, True, True]]
    assert len(inputs["history_prompt"]) == 4
    assert inputs["history_prompt"][0] is None


def test_without_tokenization_a_chat_is_a_text(small):
    text = "made/short: Hello world.\nmade/long: This is the music\nmade/short: Hello [laughs]"
    assert small.processor.apply_chat_template(CHAT) == text
    assert small.processor.apply_chat_template([CHAT, OTHER], add_generation_prompt=True) == [text, "user: the"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_lenght": 9}, TypeError, "Did you mean 'max_length'"),
        ({"processor_kwargs": {"voice_presets": "made/short"}}, TypeError, "'voice_presets'"),
        ({"voice_preset": "made/short"}, ValueError, "voices="),
        ({"chat_template": "{{ messages }}"}, ValueError, "chat_template"),
        ({"continue_final_message": True}, ValueError, "continue_final_message"),
        ({"tools": [{}]}, ValueError, "tools"),
    ],
)
def test_the_template_refuses_what_nobody_reads(small, options, error, message):
    with pytest.raises(error, match=message):
        small.processor.apply_chat_template(CHAT, tokenize=True, **options)
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="non-empty"):
            small.processor.apply_chat_template(nothing, tokenize=True)


# ----------------------------------------------------------------------------------------------------------- generate


def run(small, chat, **options):
    inputs = small.processor.apply_chat_template(chat, voices={"user": None}, tokenize=True, return_dict=True)
    return small.model.generate(**inputs, seed=5, **{**OPTIONS, **options})


def test_generate_joins_the_turns_of_a_chat(small):
    wanted = dialogue(small)
    np.testing.assert_allclose(run(small, CHAT)[0].numpy(), wanted, atol=1e-5)
    out = run(small, CHAT, return_dict_in_generate=True)
    assert out.audio.shape == (1, len(wanted))
    assert out.audio_lengths.tolist() == [len(wanted)]
    assert (len(out.semantic_tokens), out.seeds) == (3, [5, 6, 7])  # of the turns


def test_generate_speaks_a_batch_of_chats(small):
    """However the voices are nested: the stock pipeline's batches have a list of lists."""
    wanted = dialogue(small, [("the", None)]), dialogue(small, seed=6)
    inputs = small.processor.apply_chat_template([OTHER, CHAT], voices={"user": None}, tokenize=True, return_dict=True)
    first, *others = inputs["history_prompt"]
    for history in ([first, *others], [[first], others], [[[first]], [others]]):
        given = {**inputs, "history_prompt": history}
        audio, lengths = small.model.generate(**given, seed=5, return_output_lengths=True, **OPTIONS)
        for row, length, each in zip(audio, lengths, wanted, strict=True):
            np.testing.assert_allclose(row[:length].numpy(), each, atol=1e-5)


def test_one_voice_may_speak_a_whole_chat_and_the_mask_may_be_left_out(small):
    ids = small.processor.apply_chat_template([OTHER, CHAT], voices={"user": None}, tokenize=True)
    voice = small.processor.voice("made/long")
    audio = small.model.generate(ids, history_prompt=voice, seed=6, return_output_lengths=True, **OPTIONS)
    wanted = dialogue(small, [(text, "made/long") for text in ("the", *(text for text, _ in TURNS))], seed=6)
    (one, two), lengths = audio
    np.testing.assert_allclose(np.concatenate([one[: lengths[0]], two[: lengths[1]]]), wanted, atol=1e-5)


def test_chats_that_cannot_be_spoken_are_a_sentence(small):
    ids = small.processor.apply_chat_template(CHAT, tokenize=True)
    with pytest.raises(ValueError, match="text in each chat"):
        small.model.generate(torch.cat([ids, torch.zeros_like(ids)]))
    with pytest.raises(ValueError, match="not equal"):
        small.model.generate(ids, attention_mask=torch.ones(1, 3, 9))
    with pytest.raises(ValueError, match="lists 2 voices for 3 rows"):
        small.model.generate(ids, history_prompt=[None, None])


# ---------------------------------------------------------------------------------------------------------- pipelines


def test_the_stock_pipeline_speaks_a_chat(small, stock):
    result = stock(CHAT, forward_params={**OPTIONS, "seed": 5})
    assert_spoken(result, dialogue(small))
    result = stock(
        said("user"), forward_params={**OPTIONS, "seed": 5}, preprocess_params={"voices": {"user": "made/int32"}}
    )
    assert_spoken(result, dialogue(small, [("the", "made/int32")]))


@since_5_20  # the stock pipelines before asked for a BarkGenerateOutput, which they cannot take apart
def test_the_stock_pipeline_speaks_chats_in_batches(small, stock):
    """Its collation pads the chat that has fewer turns; it leaves zeros behind the shorter audio, as with texts."""
    options = {"forward_params": {**OPTIONS, "seed": 5}, "preprocess_params": {"voices": {"user": None}}}
    wanted = dialogue(small, [("the", None)]), dialogue(small, seed=6)
    for result, each in zip(stock([OTHER, CHAT], batch_size=2, **options), wanted, strict=True):
        np.testing.assert_allclose(result["audio"][: len(each)], each, atol=1e-5)
        assert not result["audio"][len(each) :].any()
    alone = stock([OTHER, CHAT], **options)
    assert_spoken(alone[0], wanted[0])
    assert_spoken(alone[1], dialogue(small))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_our_pipeline_speaks_chats_and_texts(small, pipe, batch_size):
    options = {"batch_size": batch_size, "generate_kwargs": OPTIONS}
    assert_spoken(pipe(CHAT, seed=5, **options), dialogue(small))
    results = pipe([CHAT, "the", OTHER], seed=[5, 9, 20], voice_preset=[None, "made/int32", None], **options)
    wanted = dialogue(small), spoken(small, "the", "made/int32", seed=9, **OPTIONS)
    for result, each in zip(results, wanted, strict=False):
        assert_spoken(result, each)
    assert_spoken(results[2], dialogue(small, [("the", "made/int32")], seed=20))  # the first preset stands in
    for chats in (iter([CHAT, OTHER]), KeyDataset([{"chat": CHAT}, {"chat": OTHER}], "chat")):
        first, _ = pipe(chats, seed=5, **options)
        assert_spoken(first, dialogue(small))


def test_our_pipeline_takes_voices_for_speakers(small, pipe):
    chat, voices = said("user", "assistant"), {"user": "made/uint16", "assistant": None}
    wanted = dialogue(small, [("the", "made/uint16"), ("the", None)])
    assert_spoken(pipe(chat, seed=5, voices=voices, generate_kwargs=OPTIONS), wanted)
    default = build(small, pipeline_class=BarkPipeline, voices=voices)
    assert_spoken(default(chat, seed=5, generate_kwargs=OPTIONS), wanted)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (CHAT, {"voice_preset": "made/short"}, "voices="),
        ("the", {"voices": {"user": "made/short"}}, "voice_preset"),
        (said("user"), {"voices": {"assistant": "made/short"}}, "'user'"),
        ([CHAT, [{"role": "user"}]], {}, "Message 0 must be"),
        ([CHAT, []], {}, "non-empty list"),
        ([CHAT, {"role": "user", "content": "the"}], {}, "dict"),
    ],
)
def test_wrong_chats_are_a_sentence(pipe, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(inputs, generate_kwargs=OPTIONS, **options)
