"""Voices: their checks, their files, a checkpoint's presets, and what the processor makes of them."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bark_hf import BarkProcessor, Voice, VoicePresets
from bark_hf.voices import presets as voice_presets

KEYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")


def arrays(semantic=20, frames=30, dtype=np.int64, top=60):
    generator = np.random.default_rng(0)
    shapes = dict(zip(KEYS, ((semantic,), (2, frames), (8, frames)), strict=True))
    return {key: generator.integers(0, top, shape).astype(dtype) for key, shape in shapes.items()}


def changed(**changes):
    return {key: value for key, value in {**arrays(), **changes}.items() if value is not None}


# ------------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.int16, np.uint8])
def test_integer_types_of_real_files_become_int64(dtype):
    voice = Voice.of(arrays(dtype=dtype))
    assert all(voice[key].dtype == np.int64 for key in KEYS)
    assert voice == Voice.of(arrays())


def test_tensors_and_lists_are_arrays_too():
    wanted = Voice.of(arrays())
    tensors = {key: torch.from_numpy(value) for key, value in arrays().items()}
    assert Voice.of(tensors) == wanted
    assert Voice.of({key: value.to(torch.uint16) for key, value in tensors.items()}) == wanted
    assert Voice.of({key: value.tolist() for key, value in arrays().items()}) == wanted
    assert Voice.of(wanted) is wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic_prompt": None}, "lacks semantic_prompt"),
        ({"coarse_prompt": None, "fine_prompt": None}, "lacks coarse_prompt, fine_prompt"),
        ({"semantic_prompt": np.zeros((1, 20), int)}, "semantic_prompt is int64 of shape"),
        ({"semantic_prompt": np.zeros(20)}, "float64"),
        ({"semantic_prompt": np.zeros(20, bool)}, "bool"),
        ({"semantic_prompt": np.zeros(0, int)}, r"shape \(0,\)"),
        ({"semantic_prompt": np.int64(3)}, r"shape \(\)"),
        ({"semantic_prompt": "made/short"}, "semantic_prompt"),
        ({"semantic_prompt": [[1], [1, 2]]}, "semantic_prompt"),
        ({"semantic_prompt": [None] * 20}, "object"),
        ({"semantic_prompt": np.full(20, -1)}, "-1"),
        ({"semantic_prompt": np.full(20, 2**31)}, "2147483648"),
        ({"semantic_prompt": np.full(20, 2**64 - 1, np.uint64)}, "18446744073709551615"),
        ({"coarse_prompt": np.zeros(30, int)}, "coarse_prompt"),
        ({"fine_prompt": np.zeros((1, 8, 30), int)}, "fine_prompt"),
        ({"fine_prompt": np.zeros((8, 29), int)}, "must be equal"),
        ({"coarse_prompt": np.zeros((2, 33), int), "fine_prompt": np.zeros((8, 33), int)}, "1.5"),
        ({"coarse_prompt": np.zeros((2, 20), int), "fine_prompt": np.zeros((8, 20), int)}, "1.5"),
    ],
)
def test_malformed_voices_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Voice.of(changed(**changes))


@pytest.mark.parametrize("value", [None, 3, "made/short", [1, 2], np.zeros(3), b"x", {}, {"semantic_prompt": [1]}])
def test_what_is_no_mapping_of_arrays_is_no_voice(value):
    with pytest.raises(ValueError, match="voice"):
        Voice.of(value)


def test_bfloat16_tensors_are_refused_like_other_floats():
    with pytest.raises(ValueError, match="semantic_prompt"):
        Voice.of(changed(semantic_prompt=torch.zeros(20, dtype=torch.bfloat16)))


def test_one_semantic_id_is_refused():
    """With S = 1 the original's slice [-0:] keeps everything instead of nothing."""
    with pytest.raises(ValueError, match="at least 2"):
        Voice.of(arrays(1, 2))
    assert len(Voice.of(arrays(2, 3)).semantic_prompt) == 2


@pytest.mark.parametrize(("frames", "valid"), [(144, False), (146, True), (150, True), (154, True), (156, False)])
def test_ratio_is_rounded_to_one_digit(frames, valid):
    if valid:
        Voice.of(arrays(100, frames))
    else:
        with pytest.raises(ValueError, match=r"must be 1\.5"):
            Voice.of(arrays(100, frames))


def test_a_voice_cannot_be_changed():
    source = arrays()
    voice = Voice.of(source)
    with pytest.raises(ValueError, match="read-only"):
        voice.semantic_prompt[0] = 1
    with pytest.raises(AttributeError):
        voice.semantic_prompt = source["semantic_prompt"]
    first = voice.semantic_prompt[0]
    source["semantic_prompt"][0] += 1  # nor through the caller's own array
    assert voice.semantic_prompt[0] == first


def test_a_voice_is_a_mapping_with_a_fingerprint():
    voice, same = Voice.of(arrays()), Voice.of(arrays(dtype=np.uint16))
    assert list(voice) == list(KEYS)
    assert len(voice) == 3
    assert set({**voice}) == set(KEYS)
    with pytest.raises(KeyError):
        voice["rate"]
    assert voice == same
    assert hash(voice) == hash(same)
    assert voice.fingerprint == same.fingerprint
    assert len(voice.fingerprint) == 16
    others = [Voice.of(arrays(22, 33)), *(Voice.of(changed(**{key: arrays()[key] + 1})) for key in KEYS)]
    assert len({voice.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert voice not in others
    assert voice != "voice"
    assert "20" in repr(voice)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic_prompt": np.full(20, 200)}, "semantic_prompt holds id 200.*199"),
        ({"coarse_prompt": np.full((2, 30), 64)}, "coarse_prompt holds id 64"),
        ({"fine_prompt": np.full((8, 30), 64)}, "fine_prompt holds id 64"),
        ({"coarse_prompt": np.zeros((3, 30), int)}, "coarse_prompt has 3 codebooks"),
        ({"fine_prompt": np.zeros((7, 30), int)}, "fine_prompt has 7 codebooks"),
    ],
)
def test_ids_outside_the_models_vocabularies_are_refused_before_a_network_runs(small, changes, message):
    """transformers lets them through, to fail inside an embedding."""
    voice = Voice.of(changed(**changes))
    for given in (voice, [voice], dict(voice)):
        with pytest.raises(ValueError, match=message):
            small.model.generate(**small.processor("the"), history_prompt=given)
    with pytest.raises(ValueError, match=message):
        small.model.generate_coarse([torch.tensor([1, 2])], history_prompt=[voice])


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_make_a_round_trip(tmp_path, suffix):
    voice = Voice.of(arrays())
    voice.save(tmp_path / f"me{suffix}")
    assert Voice.load(tmp_path / f"me{suffix}") == voice
    voice.save(str(tmp_path / f"you{suffix}"))
    assert Voice.load(str(tmp_path / f"you{suffix}")) == voice
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"me{suffix}", f"you{suffix}"]


def test_large_ids_survive_a_safetensors_file(tmp_path):
    voice = Voice.of(changed(semantic_prompt=np.full(20, 70_000)))
    voice.save(tmp_path / "me.safetensors")
    assert Voice.load(tmp_path / "me.safetensors") == voice


def test_npz_is_what_the_original_reads(tmp_path):
    Voice.of(arrays()).save(tmp_path / "me.npz")
    with np.load(tmp_path / "me.npz") as archive:
        assert sorted(archive.files) == sorted(KEYS)
        assert archive["fine_prompt"].shape == (8, 30)


@pytest.mark.parametrize("name", ["me", "me.pt", "me.npy", "me.NPZ.txt"])
def test_other_endings_are_not_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.npz or \.safetensors"):
        Voice.of(arrays()).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, **changed(semantic_prompt=np.array([{"a": 1}] * 20, dtype=object)))
    with pytest.raises(ValueError, match="safely"):
        Voice.load(path)


def test_broken_files_are_value_errors(tmp_path):
    good = tmp_path / "good.npz"
    Voice.of(arrays()).save(good)
    Voice.of(arrays()).save(tmp_path / "good.safetensors")
    content = good.read_bytes()
    broken = {
        "empty.npz": b"",
        "garbage.npz": b"no archive at all",
        "truncated.npz": content[: len(content) // 2],
        "flipped.npz": content[:100] + bytes([content[100] ^ 255]) * 40 + content[140:],
        "empty.safetensors": b"",
        "garbage.safetensors": b"\xff" * 100,
        "truncated.safetensors": (tmp_path / "good.safetensors").read_bytes()[:-50],
        "zip_as.safetensors": content,
        "other_ending.wav": b"RIFF",
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            Voice.load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "members.npz", "w") as archive:
        archive.writestr("semantic_prompt.npy", b"not an array")
    with pytest.raises(ValueError, match="members"):
        Voice.load(tmp_path / "members.npz")
    np.savez(tmp_path / "lacking.npz", semantic_prompt=np.arange(20))
    with pytest.raises(ValueError, match="lacks coarse_prompt, fine_prompt"):
        Voice.load(tmp_path / "lacking.npz")
    save_file({"semantic_prompt": np.arange(20)}, tmp_path / "lacking.safetensors")
    with pytest.raises(ValueError, match="lacks"):
        Voice.load(tmp_path / "lacking.safetensors")
    np.savez(tmp_path / "floats.npz", **changed(semantic_prompt=np.zeros(20)))
    with pytest.raises(ValueError, match=r"floats\.npz.*float64"):
        Voice.load(tmp_path / "floats.npz")


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """A file of 600 KB once took 1.2 GB of memory."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **changed(fine_prompt=np.zeros((8, 300_000), np.int64)))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.npz.*fine_prompt\.npy has 19200128 bytes, more than"):
        Voice.load(path)
    read = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, name, *mode: read.append(name))
    with pytest.raises(ValueError, match="more than"):
        Voice.load(path)
    assert read == []


def test_an_archive_cannot_claim_fewer_bytes_than_it_has(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **changed(fine_prompt=np.zeros((8, 300_000), np.int64)))
    size, claimed = (19_200_128).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    content = path.read_bytes()
    assert size in content
    path.write_bytes(content.replace(size, claimed))
    with pytest.raises(ValueError, match=r"bomb\.npz is not a voice file"):
        Voice.load(path)


def test_an_hour_of_a_voice_is_not_too_much(tmp_path):
    path = tmp_path / "long.npz"
    voice = Voice.of(arrays(179_640, 269_998))
    voice.save(path)
    assert Voice.load(path) == voice
    np.savez_compressed(path, **voice, notes=np.zeros(1 << 25, np.int8))  # what else is there is not unpacked
    assert Voice.load(path) == voice


@pytest.mark.parametrize("name", ["me.npz", "me.safetensors"])
def test_a_voice_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, name):
    voice = Voice.of(arrays())
    voice.save(tmp_path / name)
    monkeypatch.setattr(Path, "replace", lambda *a: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        Voice.of(arrays(22, 33)).save(tmp_path / name)
    assert Voice.load(tmp_path / name) == voice
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_paths_that_are_no_files_are_file_not_found(tmp_path):
    for path in (tmp_path, tmp_path / "none.npz", str(tmp_path / "none.safetensors"), Path(""), "x" * 5000, "a\0b"):
        with pytest.raises(FileNotFoundError, match="No voice file"):
            Voice.load(path)


# ---------------------------------------------------------------------------------------------------------- presets


@pytest.fixture
def copied(small, tmp_path):
    """A checkpoint's processor files alone, in both layouts' form, free to be broken."""
    for layout in ("safetensors", "npy"):
        small.processor.save_pretrained(tmp_path / layout, voice_layout=layout)
    return tmp_path


@pytest.fixture
def no_lookups(monkeypatch):
    """After this is called, asking the hub's cache for a file fails."""

    def forbid():
        def find_file(*args, **kwargs):
            raise AssertionError(f"a lookup of {args}")

        monkeypatch.setattr(voice_presets, "find_file", find_file)

    return forbid


NAMES = ["made/int32", "made/long", "made/short", "made/uint16"]


@pytest.mark.parametrize("layout", ["safetensors", "npy"])
def test_saved_processor_makes_a_round_trip_with_its_voices(small, copied, layout):
    files = {path.relative_to(copied / layout).parts[0] for path in (copied / layout).rglob("*")}
    assert ("voices.safetensors" in files) is (layout == "safetensors")
    assert {"speaker_embeddings_path.json", "speaker_embeddings"} <= files or layout == "safetensors"
    again = BarkProcessor.from_pretrained(copied / layout)
    assert again.available_voice_presets == small.processor.available_voice_presets == NAMES
    for name in NAMES:
        assert again.voice(name) == Voice.load(small.folder / f"presets/{name}.npz")
    ours, theirs = again("Hello [laughs]"), small.processor("Hello [laughs]")
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    again.save_pretrained(copied / "third")
    assert BarkProcessor.from_pretrained(copied / "third").voice(NAMES[0]) == again.voice(NAMES[0])


@pytest.mark.parametrize("layout", ["safetensors", "npy"])
def test_presets_are_read_once_and_need_neither_disk_nor_hub_afterwards(copied, no_lookups, layout):
    """transformers does a hub round trip and three loads for each use of a named preset."""
    processor = BarkProcessor.from_pretrained(copied / layout)
    first = processor.voice("made/short")
    no_lookups()
    shutil.rmtree(copied / layout)
    assert processor.voice("made/short") is first
    assert processor("the", voice_preset="made/short")["history_prompt"]["semantic_prompt"].dtype == torch.int64
    assert processor.available_voice_presets == NAMES


def test_listing_presets_loads_no_arrays(copied, monkeypatch):
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("an array was loaded"))
    monkeypatch.setattr(Voice, "of", lambda *a, **k: pytest.fail("a voice was made"))
    for layout in ("safetensors", "npy"):
        processor = BarkProcessor.from_pretrained(copied / layout)
        assert processor.available_voice_presets == NAMES
        assert "made/short" in processor.voices
        assert len(processor.voices) == 4


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "made/../made/short",
        "x.npz",
        "made/short.npz",
        "/etc/passwd",
        "./made/short",
        "made",
        "",
        " ",
        "made/shrt",
        "repo_or_path",
        "a\0b",
        "\ud800",
        "x" * 3000,
    ],
)
def test_names_that_are_no_presets_are_refused_and_never_opened(copied, no_lookups, monkeypatch, name):
    """transformers opens an unknown name as a file."""
    processor = BarkProcessor.from_pretrained(copied / "npy")
    no_lookups()
    monkeypatch.setattr(Voice, "load", lambda *a: pytest.fail("a name was opened as a path"))
    with pytest.raises(ValueError, match="Unknown voice") as error:
        processor("the", voice_preset=name)
    assert "made/" in str(error.value)
    assert "Voice.load" in str(error.value)


def test_a_misspelled_preset_names_the_nearest(small):
    with pytest.raises(ValueError, match="made/short"):
        small.processor("the", voice_preset="made/shrot")


def test_path_objects_are_opened(small):
    path = small.folder / "presets/made/short.npz"
    got = small.processor("the", voice_preset=path)["history_prompt"]
    wanted = small.processor("the", voice_preset="made/short")["history_prompt"]
    assert all(torch.equal(got[key], wanted[key]) for key in KEYS)
    with pytest.raises(FileNotFoundError):
        small.processor("the", voice_preset=Path("made/short"))
    with pytest.raises(ValueError, match="Unknown voice"):
        small.processor("the", voice_preset=str(path))


@pytest.mark.parametrize(
    "relative", ["../secret.npy", "/etc/secret.npy", "a/../../secret.npy", "x.npz", "", "missing.npy"]
)
def test_index_files_cannot_name_files_outside_the_checkpoint(copied, relative):
    index = copied / "npy" / "speaker_embeddings_path.json"
    entries = json.loads(index.read_text())
    np.save(copied / "secret.npy", np.arange(20))
    entries["made/short"]["semantic_prompt"] = relative
    index.write_text(json.dumps(entries))
    processor = BarkProcessor.from_pretrained(copied / "npy")
    with pytest.raises(ValueError, match="made/short"):
        processor.voice("made/short")
    processor.voice("made/long")  # the others are not affected


@pytest.mark.parametrize(
    "relative", ["..\\..\\x.npy", "C:/x.npy", "C:x.npy", "\\x.npy", "\\\\server\\share\\x.npy", "a\\..\\..\\x.npy"]
)
def test_index_files_cannot_name_files_outside_the_checkpoint_on_windows_either(copied, relative):
    folder = copied / "npy"
    index = folder / "speaker_embeddings_path.json"
    entries = json.loads(index.read_text())
    inside = folder / entries["made/short"]["semantic_prompt"]
    (folder / relative).parent.mkdir(exist_ok=True)
    shutil.copyfile(inside, folder / relative)  # here it is a file of the checkpoint
    entries["made/short"]["semantic_prompt"] = relative
    index.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"must name an \.npy file inside the checkpoint"):
        BarkProcessor.from_pretrained(folder).voice("made/short")


def test_preset_names_of_a_file_cannot_lead_a_later_save_outside_its_folder(copied, small):
    """A name becomes a path when a processor is saved as .npy files."""
    folder = copied / "npy"
    index = folder / "speaker_embeddings_path.json"
    entries = json.loads(index.read_text())
    for name in ("../../../out", "..", "a/../../b", "/abs", "a//b", "a b", ""):
        entries[name] = entries["made/short"]
    index.write_text(json.dumps(entries))
    voice = Voice.of(arrays())
    bank = {f"{name}/{key}": voice[key] for name in ("../../../out", "../up", "fine") for key in KEYS}
    save_file(bank, folder / "voices.safetensors")
    processor = BarkProcessor.from_pretrained(folder)
    assert processor.available_voice_presets == ["fine", *NAMES]
    processor.save_pretrained(copied / "deep" / "er" / "saved", voice_layout="npy")
    assert not list(copied.rglob("*out*"))


def test_repo_or_path_is_no_preset(copied):
    entries = json.loads((copied / "npy" / "speaker_embeddings_path.json").read_text())
    assert isinstance(entries["repo_or_path"], str)
    assert "repo_or_path" not in BarkProcessor.from_pretrained(copied / "npy").voices


def test_broken_preset_files_are_value_errors(copied):
    folder = copied / "npy"
    for i, content in enumerate(
        (b"", b"garbage", (folder / "speaker_embeddings/made/short_fine_prompt.npy").read_bytes()[:90])
    ):
        (folder / f"speaker_embeddings/made/{('short', 'long', 'int32')[i]}_fine_prompt.npy").write_bytes(content)
    np.save(folder / "speaker_embeddings/made/uint16_fine_prompt.npy", np.array([{}], dtype=object), allow_pickle=True)
    processor = BarkProcessor.from_pretrained(folder)
    for name in NAMES:
        with pytest.raises(ValueError, match=name):
            processor("the", voice_preset=name)
    save_file({"a/semantic_prompt": np.arange(20)}, copied / "safetensors" / "voices.safetensors")
    with pytest.raises(ValueError, match="'a'"):
        BarkProcessor.from_pretrained(copied / "safetensors").voice("a")


@pytest.mark.parametrize("content", ["[]", "not json", "3", ""])
def test_a_broken_index_is_a_value_error(copied, content):
    (copied / "npy" / "speaker_embeddings_path.json").write_text(content)
    with pytest.raises(ValueError, match=r"."):
        BarkProcessor.from_pretrained(copied / "npy")


def test_a_broken_bank_is_a_value_error(copied):
    (copied / "safetensors" / "voices.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=r"voices\.safetensors"):
        BarkProcessor.from_pretrained(copied / "safetensors")


def test_a_bank_takes_less_than_half_of_the_npz_bytes(small, copied):
    npz = sum(path.stat().st_size for path in (small.folder / "presets").rglob("*.npz"))
    originals = sum(  # uint16 and int32 files are small already: compare with the original's int64 ones
        sum(Voice.load(path)[key].nbytes for key in KEYS) for path in (small.folder / "presets").rglob("*.npz")
    )
    bank = (copied / "safetensors" / "voices.safetensors").stat().st_size
    assert bank < npz / 2
    assert bank < originals / 2


# -------------------------------------------------------------------------------------------------------- processor


def test_added_voices_have_names_and_are_saved(small, tmp_path):
    processor = BarkProcessor(small.processor.tokenizer)
    assert processor.available_voice_presets == []
    with pytest.raises(ValueError, match="no presets"):
        processor("the", voice_preset="made/short")
    processor.add_voice("mine/one.a-b", arrays())
    assert processor.available_voice_presets == ["mine/one.a-b"]
    for layout in ("safetensors", "npy"):
        processor.save_pretrained(tmp_path / layout, voice_layout=layout)
        assert BarkProcessor.from_pretrained(tmp_path / layout).voice("mine/one.a-b") == Voice.of(arrays())
    with pytest.raises(ValueError, match="voice_layout"):
        processor.save_pretrained(tmp_path / "other", voice_layout="zip")


@pytest.mark.parametrize("layouts", [("safetensors", "npy"), ("npy", "safetensors")])
def test_voices_of_the_layout_that_was_saved_before_do_not_come_back(small, tmp_path, layouts):
    for layout, name in zip(layouts, ("before", "after"), strict=True):
        BarkProcessor(small.processor.tokenizer, {name: arrays()}).save_pretrained(tmp_path, voice_layout=layout)
    assert BarkProcessor.from_pretrained(tmp_path).available_voice_presets == ["after"]


@pytest.mark.parametrize("layout", ["safetensors", "npy"])
@pytest.mark.parametrize("before", ["safetensors", "npy"])
def test_a_processor_without_voices_leaves_none_of_those_that_were_saved_before(small, tmp_path, before, layout):
    BarkProcessor(small.processor.tokenizer, {"before": arrays()}).save_pretrained(tmp_path, voice_layout=before)
    BarkProcessor(small.processor.tokenizer).save_pretrained(tmp_path, voice_layout=layout)
    assert BarkProcessor.from_pretrained(tmp_path).available_voice_presets == []


def test_only_one_layout_is_published(small, tmp_path):
    """Guards against a push of the other layout: transformers' own saves once more, by default."""
    with pytest.raises(ValueError, match="publishes"):
        small.processor.save_pretrained(tmp_path, push_to_hub=True, voice_layout="npy")
    assert not list(tmp_path.iterdir())


def test_bare_arrays_have_the_rates_of_the_checkpoint(small, tmp_path):
    """Guards against voices of models with rates of their own that no processor takes without a Voice around them."""
    bare = arrays(semantic=40, frames=40)
    with pytest.raises(ValueError, match=r"must be 1\.5"):
        small.processor("the", voice_preset=bare)
    folder = tmp_path / "own"
    shutil.copytree(small.checkpoint, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    config["semantic_config"]["semantic_rate_hz"] = config["coarse_acoustics_config"]["coarse_rate_hz"] = 50.0
    (folder / "generation_config.json").write_text(json.dumps(config))
    processor = BarkProcessor.from_pretrained(folder)
    assert torch.equal(
        processor("the", voice_preset=bare)["history_prompt"]["semantic_prompt"],
        torch.from_numpy(bare["semantic_prompt"]),
    )
    processor.add_voice("mine", bare)
    assert processor.voice("mine").rates == (50.0, 50.0)
    assert processor.voice("made/short").rates == (49.9, 75.0)  # as its file says


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/a", "a/", "a b", "a\\b", "a\n", None, 3])
def test_names_that_could_not_be_saved_are_refused(name):
    with pytest.raises(ValueError, match="cannot name a voice"):
        VoicePresets().add(name, arrays())


def test_adding_what_is_no_voice_changes_nothing():
    presets = VoicePresets({"a": arrays()})
    with pytest.raises(ValueError, match="lacks"):
        presets.add("b", {})
    assert list(presets) == ["a"]


def test_lists_give_a_voice_or_none_to_each_text(small):
    given = ["made/short", None, Voice.of(arrays()), arrays(), small.folder / "presets/made/long.npz"]
    inputs = small.processor(["the"] * 5, voice_preset=given)
    history = inputs["history_prompt"]
    assert [voice is None for voice in history] == [False, True, False, False, False]
    assert Voice.of(history[0]) == small.processor.voice("made/short")
    assert Voice.of(history[3]) == Voice.of(arrays())
    assert isinstance(history[2]["fine_prompt"], torch.Tensor)
    assert "history_prompt" not in small.processor(["the"] * 2, voice_preset=[None, None])
    assert "history_prompt" not in small.processor("the")
    for wrong in (["made/short"], ["made/short"] * 3, []):
        with pytest.raises(ValueError, match="lists"):
            small.processor(["the"] * 2, voice_preset=wrong)


def test_numpy_tensors(small):
    inputs = small.processor(["the", "Hello"], voice_preset="made/short", return_tensors="np")
    assert isinstance(inputs["input_ids"], np.ndarray)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 256)
    assert all(isinstance(array, np.ndarray) for array in inputs["history_prompt"].values())
    as_torch = small.processor(["the", "Hello"], voice_preset="made/short")
    run = {"seed": 1, "max_new_tokens": 4, "allow_early_stop": False}
    assert torch.equal(small.model.generate(**inputs, **run), small.model.generate(**as_torch, **run))
    with pytest.raises(ValueError, match="return_tensors"):
        small.processor("the", return_tensors="tf")


def test_what_a_processor_gives_can_be_changed_without_harm(small):
    for kind in ("pt", "np"):
        history = small.processor("the", voice_preset="made/short", return_tensors=kind)["history_prompt"]
        history["semantic_prompt"][:] = 0
        assert small.processor.voice("made/short") == Voice.load(small.folder / "presets/made/short.npz")
