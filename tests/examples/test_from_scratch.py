"""The recipe that trains a Bark from nothing: its texts, its steps in a row, and the ears that judge it."""

import json
import runpy
import shutil
import string
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import load_from_disk
from synthetic import speech

from bark_hf import BarkModel, BarkProcessor
from bark_hf.training.utterances import of_use

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples" / "from_scratch"
VOICES = ("rms", "slt", "awb", "kal16")
GLOSSES = """
00000001 00 n 01 act 0 000 | something that people do or cause to happen
00000002 00 n 01 x 0 000 | (botany) a plant (or weed) of the field; "she likes the flower" - anonymous; "a b"
00000003 00 n 01 x 0 000 | caf\xe9 of the town; "she likes the flower"; a b c d e f g h i j k l m
"""


@pytest.fixture
def recipe(monkeypatch):
    """The scripts' folder as they see it, and a clean import of their modules."""
    monkeypatch.syspath_prepend(RECIPE)
    for name in ("recipe", "phones", "texts", "make_data", "make_start", "finish"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module


@pytest.fixture
def wordnet(tmp_path):
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for part in ("adj", "adv", "noun", "verb"):
        (folder / f"data.{part}").write_text(GLOSSES if part == "noun" else "", encoding="latin-1")
    return folder


def run(monkeypatch, path, *arguments):
    monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")


def test_phrases_are_glosses_and_examples_that_can_be_read(recipe, wordnet):
    assert recipe("texts").phrases(wordnet) == (
        "something that people do or cause to happen",
        "a plant of the field",
        "she likes the flower",
    )


def test_what_is_held_out_is_never_trained_on(recipe, wordnet, monkeypatch):
    """By the words: neither a full stop nor a capital makes another text."""
    texts = recipe("texts")
    monkeypatch.setattr(texts, "_COMMON", 0)
    monkeypatch.setattr(texts, "HELD_OUT_OF", 3)
    many = [f"{a} {b} {c}" for a in ("red", "blue", "green") for b in "abcdefgh" for c in ("one", "two", "a-z")]
    (wordnet / "data.verb").write_text(
        "".join(f"0 | {text}\n" for text in [*many, "rice is often served in round bowls"])
    )
    kept = {texts.words(text) for text in texts.held_out_texts(10**6, wordnet)}
    common, phrases = texts.training_texts(wordnet)
    trained = {texts.words(text) for text in (*common, *phrases)}
    assert len(kept) > 30  # Harvard's and some of the phrases
    assert not kept & trained
    assert not any(texts.is_held_out(text) for text in phrases)  # also what would not be judged, as "a-z"
    assert {text for text in many if not texts.is_held_out(text)} <= {text.rstrip(".") for text in phrases}
    assert texts.is_held_out("Red a one.") == texts.is_held_out("red, a one")


def test_held_out_sentences_begin_with_harvards(recipe, wordnet):
    assert recipe("texts").held_out_texts(2, wordnet) == [
        "The birch canoe slid on the smooth planks.",
        "Glue the sheet to the dark blue background.",
    ]


def test_no_ascii_word_is_unknown_to_the_tokenizer(recipe):
    tokenizer = recipe("make_start").text_tokenizer(["the cat and the cat", "the dog"], 256)
    text = f"The cat, {string.ascii_letters} q7z {string.digits} {string.punctuation}"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.tokenize("THE") == ["the"]
    assert tokenizer.tokenize("a. b?! c.") == ["a", ",", "b", ",", "c", "."]
    assert len(tokenizer) <= 256


def test_phones_become_the_ids_of_frames(recipe):
    phones = recipe("phones")
    said = "pau:0.060 hh:0.160 ay:0.190 pau:0.240\n"
    names = [phones.PHONES[number // 3] + "123"[number % 3] for number in phones.semantic_ids(said, 0.27)]
    assert " ".join(names) == "pau1 pau2 pau3 hh1 hh1 hh2 hh3 hh3 ay2 pau1 pau2 pau3 pau3"
    assert [end for _, end in phones.timed_ids(said, 0.27)] == pytest.approx([3] * 3 + [8] * 5 + [9.5] + [12] * 4)
    assert len(phones.semantic_ids(said, 0.2)) == 10  # a recording that ends before its last phone
    with pytest.raises(ValueError, match=r"flite says 'xx:0\.5'"):
        phones.semantic_ids("pau:0.1 xx:0.5", 0.5)


def test_a_folder_keeps_its_settings(recipe, tmp_path):
    scripts = recipe("recipe")
    work = scripts.begun(tmp_path / "w", "toy")
    assert work.settings["stages"]["coarse"]["size"]["width"] == 32
    assert work.settings["windows"] == json.loads((RECIPE / "recipe.json").read_text())["windows"]
    with pytest.raises(ValueError, match="begun with --profile toy"):
        scripts.begun(tmp_path / "w", "cpu")
    with pytest.raises(ValueError, match="cpu, gpu, toy"):
        scripts.begun(tmp_path / "v", "tpu")
    with pytest.raises(FileNotFoundError, match=r"begin with make_data\.py"):
        scripts.opened(tmp_path / "v")
    older = {**work.settings, "data": {**work.settings["data"]}}
    del older["windows"], older["data"]["unread"]
    (tmp_path / "w" / "recipe.json").write_text(json.dumps(older))
    for step in (lambda: scripts.opened(tmp_path / "w"), lambda: scripts.begun(tmp_path / "w", "toy")):
        with pytest.raises(ValueError, match=r"lacks data\.unread, windows: an older one"):
            step()


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_bundled_model_will_fit(recipe, profile):
    """A step that takes a night must not end in a model that is too large, or in windows that do not fit."""
    from bark_hf.codec import BarkCodec
    from bark_hf.training.codec import codec_config
    from bark_hf.training.scratch import Size, Windows, new_bark

    both = json.loads((RECIPE / "recipe.json").read_text())
    settings = recipe("recipe").merged(both, both["profiles"][profile])
    model = new_bark(
        BarkCodec(codec_config(**settings["codec"]["config"])),
        settings["text_vocab_size"],
        recipe("phones").VOCAB_SIZE,
        recipe("phones").FRAME_RATE,
        windows=Windows(**settings["windows"]),
        n_coarse_codebooks=settings["n_coarse_codebooks"],
        **{name: Size(**stage["size"]) for name, stage in settings["stages"].items()},
    )
    half = {tensor.data_ptr(): 2 * tensor.numel() for tensor in model.state_dict().values()}
    assert sum(half.values()) < recipe("finish").MOST_BYTES - 500_000  # voices, tokenizer, configs
    windows = settings["windows"]
    seen = (windows["coarse_history"] + windows["coarse_step"]) / settings["n_coarse_codebooks"]
    assert windows["coarse_semantic"] >= seen, "the coarse stage would speak what it does not see"
    assert windows["semantic"] >= 50 * settings["data"]["max_seconds"]


@pytest.fixture
def made(tmp_path):
    """What `make_data.py` makes, without flite: short recordings of four voices, and settings for them."""
    recipe = json.loads((RECIPE / "recipe.json").read_text())
    profiles = recipe.pop("profiles")
    for part, count in (("train", 6), ("heldout", 1)):
        lines = []
        for place, voice in enumerate(VOICES):
            for number in range(count):
                path = tmp_path / part / voice / f"{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                wave = speech(1.0 + 0.1 * number, pitch=90 + 30 * place, seed=number)
                soundfile.write(path, wave, 16_000)
                name = f"{voice}/{number}.wav"
                row = {"file_name": name, "text": f"hello number {number}", "speaker": voice}
                row["semantic_ids"] = [3 * place + number] * 25 + [40] * (25 + 5 * number)
                path.with_suffix(".lab").write_text("pau:0.493 ay:2.0\n")
                lines.append(json.dumps(row))
        (tmp_path / part / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "unread").mkdir()
    silent = {"text": "hello nobody", "speaker": "kal16", "semantic_ids": [7] * 20 + [40] * 20}
    longer = {**silent, "text": 99 * "x "}  # than the model reads
    (tmp_path / "unread" / "metadata.jsonl").write_text(f"{json.dumps(longer)}\n{json.dumps(silent)}\n")
    toy = profiles["toy"]
    for training in (
        toy["codec"]["training"],
        toy["units"]["training"],
        toy["teacher"]["training"],
        *(stage["training"] for stage in toy["stages"].values()),
    ):
        training.update(max_steps=2, save_steps=2)
    sys.path.insert(0, str(RECIPE))
    try:
        settings = import_module("recipe").merged(recipe, toy)
    finally:
        sys.path.remove(str(RECIPE))
    (tmp_path / "recipe.json").write_text(json.dumps({"profile": "toy", **settings}))
    return tmp_path


@pytest.mark.filterwarnings("ignore:The model ended at once")  # after two steps
def test_the_steps_make_a_model_that_is_heard(recipe, made, monkeypatch, capsys, tmp_path):
    for step in ("train_codec", "make_start", "train_teacher", "train_stages", "finish"):
        run(monkeypatch, RECIPE / f"{step}.py", made)
    learned = load_from_disk(str(made / "teacher" / "taught" / "learned"))
    assert (len(learned), len(of_use(learned, "coarse")), learned[-1]["text"]) == (25, 24, "hello nobody")
    assert learned[-1]["semantic_ids"] == [7] * 20 + [40] * 20
    folder = made / "model"
    processor = BarkProcessor.from_pretrained(folder)
    assert sorted(processor.available_voice_presets) == sorted(
        f"en_speaker_{voice}{suffix}" for voice in VOICES for suffix in ("", "_short")
    )
    assert BarkModel.from_pretrained(folder, dtype="auto").dtype.itemsize == 2
    assert BarkModel.from_pretrained(folder).generation_config.semantic_config.temperature == 0.1
    card = (folder / "README.md").read_text()
    assert all(f"| {step} |" in card for step in ("codec", "teacher", "semantic", "coarse", "fine"))
    before = (made / "trained" / "model" / "model.safetensors").stat().st_mtime_ns
    run(monkeypatch, RECIPE / "train_stages.py", made)  # what is finished stays
    assert (made / "trained" / "model" / "model.safetensors").stat().st_mtime_ns == before

    pytest.importorskip("jiwer")
    quality = runpy.run_path(str(ROOT / "benchmarks" / "quality.py"))
    monkeypatch.setitem(
        quality["main"].__globals__, "recognized", lambda waves, num_proc: ["hello number"] * len(waves)
    )
    monkeypatch.setattr(
        sys, "argv", ["quality.py", str(folder), str(made / "heldout"), "--save", str(tmp_path / "said")]
    )
    quality["main"]()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert list(result) == [*VOICES, "all"]
    assert result["rms"]["model"]["wer"] == pytest.approx(1 / 3)
    assert soundfile.info(tmp_path / "said" / "slt" / "000.wav").samplerate == 16_000


def test_judged_tells_lengths_words_and_voices():
    """A model that always speaks as one voice, too long once and never once."""
    pytest.importorskip("jiwer")
    judged = runpy.run_path(str(ROOT / "benchmarks" / "quality.py"))["judged"]
    rows = [{"speaker": voice, "text": "Hello, you there!"} for voice in ("low", "high") for _ in range(2)]
    teacher = [speech(2.0, pitch=pitch, seed=i) for i, pitch in enumerate((100, 100, 220, 220))]
    waves = [teacher[0], np.zeros(0, np.float32), teacher[0], np.tile(teacher[1], 3)]
    heard = [["hello you there"] * 4, ["hello you there", "", "hello there", "hello you there"]]
    found = judged(rows, teacher, waves, heard)
    assert found["low"]["teacher"] == {"wer": 0.0, "cer": 0.0}
    assert found["low"]["model"]["wer"] == 0.5
    assert found["high"]["model"]["wer"] == pytest.approx(1 / 6)
    assert (found["low"]["nearest_is_own"], found["high"]["nearest_is_own"]) == (0.5, 0.0)
    assert (found["low"]["too_short"], found["high"]["too_long"], found["all"]["wrong_length"]) == (0.5, 0.5, 0.5)


def test_unread_are_texts_that_nobody_reads(recipe):
    texts = recipe("texts")
    some = ["a red boat", "a red house", "A house!", "a boat"]
    found = texts.unread(some, ["A red boat.", "a boat. a house."])
    assert {*found} == {*some} - {"a red boat"}
    assert texts.unread(reversed(some), ["a red boat"]) == found


def test_passages_are_ended_sentences_in_a_row(recipe):
    made = recipe("texts").passages(["a boat", "is it late?", "of wood.", "one", "two", "left over", "alone"])
    assert list(made) == ["a boat. is it late?", "of wood. one. two.", "left over. alone."]


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_flite_reads_aloud_and_keeps_what_it_has_read(recipe, tmp_path):
    read_aloud = recipe("make_data").read_aloud
    readings = [("Hello, you.", "kal16"), ("one two three four five six seven eight nine ten", "kal16")]
    assert read_aloud(readings, tmp_path, max_seconds=2.0) == 1  # the second one is too long
    (row,) = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert (row["text"], row["speaker"]) == ("Hello, you.", "kal16")
    info = soundfile.info(tmp_path / row["file_name"])
    assert (info.samplerate, 0.3 < info.duration < 2) == (16_000, True)
    before = (tmp_path / row["file_name"]).stat().st_mtime_ns
    read_aloud(readings, tmp_path, max_seconds=2.0)
    assert (tmp_path / row["file_name"]).stat().st_mtime_ns == before


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_phones_alone_are_those_of_the_recording(recipe, tmp_path):
    data = recipe("make_data")
    readings = [("Hello, you.", "kal16"), ("one two three four five six seven eight nine ten", "kal16")]
    assert data.say_phones(readings, tmp_path / "unread", max_seconds=2.0) == 1
    data.read_aloud(readings[:1], tmp_path / "train", max_seconds=2.0)
    (alone,), (read,) = (
        [json.loads(line) for line in (tmp_path / part / "metadata.jsonl").read_text().splitlines()]
        for part in ("unread", "train")
    )
    assert (alone["text"], alone["speaker"]) == ("Hello, you.", "kal16")
    assert len(alone["semantic_ids"]) == pytest.approx(len(read["semantic_ids"]), abs=1)
    shared = min(len(alone["semantic_ids"]), len(read["semantic_ids"]))
    assert alone["semantic_ids"][:shared] == read["semantic_ids"][:shared]
    assert not list((tmp_path / "unread").rglob("*.flac"))
    (said,) = (path for path in (tmp_path / "unread").rglob("*.lab") if "hh" in path.read_text())
    said.write_text("pau:0.230\n")  # what there is stays
    data.say_phones(readings[:1], tmp_path / "unread", max_seconds=2.0)
    (alone,) = map(json.loads, (tmp_path / "unread" / "metadata.jsonl").read_text().splitlines())
    assert len(alone["semantic_ids"]) == 5
