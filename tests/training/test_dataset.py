"""Corpora in every layout to a tokenized dataset: what is kept, what is dropped, runs that were killed, processes."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, DatasetDict, load_from_disk
from hypothesis import assume, given
from hypothesis import strategies as st
from synthetic import noise, speech

from bark_hf import BarkSemanticTokenizer, BarkSemanticTokenizerConfig
from bark_hf.audio import resample, wav_bytes
from bark_hf.generation_configuration_bark import BarkGenerationConfig
from bark_hf.training.corpus import load_corpus
from bark_hf.training.dataset import FEATURES, main, tokenize_corpus
from bark_hf.training.tokenizing import RowTokenizer, Tokenizers
from bark_hf.vocabulary import Vocabulary

datasets.disable_progress_bars()
TEXTS = ["Hello world, this is\tthe  music.", 'She said "yes", and left.', "It is the end."]
SPEAKERS = ["anna", "ben", "anna"]
KEPT = ["Hello world, this is the music.", *TEXTS[1:]]


@pytest.fixture(scope="module")
def semantic_tokenizer():
    torch.manual_seed(0)
    config = BarkSemanticTokenizerConfig(features="mfcc", quantizer="kmeans", vocab_size=200)
    return BarkSemanticTokenizer(config).eval()


@pytest.fixture
def tools(small, semantic_tokenizer):
    """What `tokenize_corpus` takes besides the corpus and the output."""
    return {
        "processor": small.processor,
        "semantic_tokenizer": semantic_tokenizer,
        "codec": small.model.codec_model,
        "vocabulary": Vocabulary.of(small.model.generation_config),
    }


def record(path: Path, seed: int, seconds: float = 1.0, rate: int = 24_000) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(speech(seconds, rate, seed=seed), rate))
    return str(path)


def table(folder: Path, rows: int = 3, **columns) -> Dataset:
    """A corpus of paths; recordings last 1 s, 1.1 s, ..."""
    paths = [record(folder / f"{row}.wav", row, 1 + row / 10) for row in range(rows)]
    texts = [TEXTS[row % 3] for row in range(rows)]
    return Dataset.from_dict({"audio": paths, "text": texts, **columns})


def as_jsonl(folder):
    rows = [{"file_name": f"clips/{i}.wav", "transcription": TEXTS[i], "speaker_id": SPEAKERS[i]} for i in range(3)]
    table(folder / "clips")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def as_csv(folder, name="metadata.csv"):
    table(folder)
    texts = [text.replace('"', '""') for text in TEXTS]
    rows = [f'{i}.wav,"{texts[i]}",{SPEAKERS[i]}' for i in range(3)]
    (folder / name).write_text("\ufefffile_name,text,speaker\r\n" + "\r\n".join(rows) + "\r\n", encoding="utf-8")
    return folder


def as_ljspeech(folder):
    table(folder / "wavs")
    (folder / "metadata.csv").write_text("".join(f"{i}|{TEXTS[i]}|normalized {i}\n" for i in range(3)))
    return folder


def as_pairs(folder):
    table(folder / "a")
    for row in range(3):
        (folder / "a" / f"{row}.txt").write_text(TEXTS[row] + "\n")
    return folder


def as_parquet(folder):
    """As a data set on the hub: the files' bytes inside."""
    given = table(folder.with_name("apart"), speaker=SPEAKERS)
    files = [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in given["audio"]]
    folder.mkdir()
    inside = Dataset.from_dict({"audio": files, "sentence": TEXTS, "client_id": SPEAKERS, "votes": [1, 2, 3]})
    inside.cast_column("audio", Audio(decode=False)).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def as_saved(folder):
    table(folder.with_name("apart"), speaker=SPEAKERS).save_to_disk(folder)
    return folder


def as_saved_splits(folder):
    DatasetDict(train=table(folder.with_name("apart"), speaker=SPEAKERS)).save_to_disk(folder)
    return folder


LAYOUTS = {
    "jsonl": as_jsonl,
    "csv": as_csv,
    "a csv by another name": lambda folder: as_csv(folder, "train.csv") / "train.csv",
    "a folder as a split": lambda folder: (as_csv(folder / "train").parent, "train"),
    "ljspeech": as_ljspeech,
    "pairs": as_pairs,
    "parquet": as_parquet,
    "save_to_disk": as_saved,
    "save_to_disk, splits": as_saved_splits,
    "Dataset": lambda folder: table(folder, speaker=SPEAKERS),
    "Dataset with a format": lambda folder: table(folder, speaker=SPEAKERS).with_format("torch", ["audio"]),
    "Dataset of Audio": lambda folder: table(folder, speaker=SPEAKERS).cast_column("audio", Audio()),
    "DatasetDict": lambda folder: (DatasetDict(train=table(folder), test=table(folder)), "train"),
}


@pytest.fixture(autouse=True)
def _no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_the_same_corpus(tmp_path, layout, tools):
    made = LAYOUTS[layout](tmp_path / "corpus")
    corpus = load_corpus(*made) if isinstance(made, tuple) else load_corpus(made)
    assert [" ".join(text.split()) for text in corpus["text"]] == KEPT
    if "speaker" in corpus.column_names:
        assert list(corpus["speaker"]) == SPEAKERS
    else:
        assert layout in ("ljspeech", "pairs", "DatasetDict")
    rows = RowTokenizer(Tokenizers(**tools), 0.5, 15)(list(corpus))
    assert [row["seconds"] for row in rows] == [1.0, 1.1, 1.2]


def test_a_header_with_bars_and_another_text_column(tmp_path):
    as_ljspeech(tmp_path)
    assert load_corpus(tmp_path, text_column="normalized_text")["text"][2] == "normalized 2"
    lines = ["file_name|text|speaker_name", *(f'wavs/{i}.wav|"{TEXTS[1]}"|{SPEAKERS[i]}' for i in range(3))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines).replace('"yes"', "yes"))
    corpus = load_corpus(tmp_path)
    assert corpus["text"][0] == "She said yes, and left."
    assert list(corpus["speaker"]) == SPEAKERS


def _metadata(folder, content, name="metadata.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    return folder


def _unpaired(folder):
    (as_pairs(folder) / "a" / "1.txt").unlink()
    return folder


def _without_files(folder):
    (as_csv(folder) / "1.wav").unlink()
    (folder / "2.wav").unlink()
    return folder


BAD_CORPORA = {
    "no folder": (lambda folder: folder / "none", "no folder .*none"),
    "no folder, as text": (lambda folder: str(folder / "none"), "no folder .*none"),
    "an empty folder": (lambda folder: _metadata(folder, "", "notes.md"), "holds no metadata.csv, no metadata.jsonl"),
    "folders of corpora": (lambda folder: as_csv(folder / "fr").parent, "Its folders are fr"),
    "no header": (lambda folder: _metadata(folder, "a.wav,Hello\n"), "neither a header .* 'a.wav,Hello"),
    "an unquoted comma": (lambda folder: _metadata(folder, "file_name,text\na.wav,Yes, it is\n"), "Line 2 .*quote"),
    "no file name": (lambda folder: _metadata(folder, "file_name,text\n,Yes\n"), "1 of 1 rows .* no file_name"),
    "broken JSON": (lambda folder: _metadata(folder, "{}\n{", "metadata.jsonl"), "Line 2 .* not JSON"),
    "a list in JSON": (lambda folder: _metadata(folder, "[]", "metadata.jsonl"), "Line 1 .* not a JSON object"),
    "no rows": (lambda folder: _metadata(folder, "file_name,text\n"), "holds no rows"),
    "an empty table": (lambda folder: _metadata(folder, ""), "holds no rows"),
    "missing files": (_without_files, "2 of 3 audio files of .* are missing, the first is .*1.wav"),
    "missing texts": (_unpaired, "1 of 3 recordings have no text beside them, the first is .*1.wav"),
    "a recording": (lambda folder: table(folder)["audio"][0], "neither .csv nor .jsonl"),
    "no text column": (
        lambda folder: table(folder).rename_column("text", "words"),
        "no column text or .*audio, words",
    ),
    "numbers for texts": (lambda folder: Dataset.from_dict({"audio": ["a"], "text": [1]}), "must hold strings"),
    "samples for audio": (lambda folder: Dataset.from_dict({"audio": [[0.1]], "text": ["a"]}), "audio column .*paths"),
    "two splits": (lambda folder: DatasetDict(a=table(folder), b=table(folder)), "splits a, b; pass one"),
    "a stream": (lambda folder: table(folder).to_iterable_dataset(), "got IterableDataset"),
}


@pytest.mark.parametrize("case", BAD_CORPORA)
def test_a_bad_corpus_is_an_error_that_says_what_is_wrong(tmp_path, case):
    make, message = BAD_CORPORA[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_corpus(make(tmp_path / "corpus"))


def test_wrong_splits_and_columns_are_named(tmp_path):
    as_parquet(tmp_path / "hub")
    with pytest.raises(ValueError, match=r"has the splits train; .* not 'test'"):
        load_corpus(as_csv(tmp_path / "csv"), "test")
    with pytest.raises(ValueError, match="no column mood for the speaker; it has audio, sentence, client_id, votes"):
        load_corpus(tmp_path / "hub", speaker_column="mood")
    Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "hub" / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="has the splits train, test; pass one"):
        load_corpus(tmp_path / "hub")


def test_the_columns_are_what_the_tokenizers_give(tmp_path, tools):
    """Stereo and 44.1 kHz too: every recording is resampled to what each tokenizer hears."""
    given = table(tmp_path / "in", speaker=[1, 2, None])
    wave = speech(1.3, 44_100, seed=5)
    soundfile.write(tmp_path / "in" / "2.wav", np.stack([wave, 0.5 * wave], axis=1), 44_100)
    rows, report = tokenize_corpus(load_corpus(given), **tools, output=tmp_path / "out")
    assert rows.features == FEATURES
    assert rows["text"][:] == KEPT
    assert rows["speaker"][:] == ["1", "2", None]
    assert rows["source"][:] == ["0.wav", "1.wav", "2.wav"]
    assert rows["seconds"][:] == [1.0, 1.1, 1.3]
    assert rows["length"][:] == [len(ids) for ids in rows["semantic_ids"]]
    inputs = tools["processor"](TEXTS)
    assert rows["text_ids"][:] == [ids[mask == 1].tolist() for ids, mask in zip(*inputs.values(), strict=True)]
    mono = 0.75 * soundfile.read(tmp_path / "in" / "2.wav", dtype="float32")[0][:, 0]
    codes = tools["codec"].encode_all([torch.tensor(resample(mono, 44_100, 24_000))], 8)[0]
    semantic = tools["semantic_tokenizer"].encode([resample(mono, 44_100, 16_000)])[0]
    assert (len(semantic), codes.shape[1]) == (65, 98)
    assert (np.array(rows["codes"][2]) == codes.numpy()[:, -len(rows["codes"][2][0]) :]).mean() > 0.99
    assert (np.array(rows["semantic_ids"][2]) == semantic.numpy()[-rows["length"][2] :]).mean() > 0.97
    assert (report["rows"], report["kept"], report["speakers"], report["dropped"]) == (3, 3, 2, {})
    assert report["hours"] == pytest.approx(3.4 / 3600)


def test_bad_rows_are_left_out_each_for_its_reason(tmp_path, tools):
    corpus = table(tmp_path / "in", 9)
    paths, texts = corpus["audio"][:], corpus["text"][:]
    paths[1] = record(tmp_path / "in" / "1|.wav", 1)
    texts[0], texts[1] = " \n ", "the " * 257
    record(tmp_path / "in" / "2.wav", 2, 0.3)
    record(tmp_path / "in" / "3.wav", 3, 3.2)
    record(tmp_path / "in" / "4.wav", 4, 6)
    (tmp_path / "in" / "5.wav").write_bytes(b"RIFF or not")
    (tmp_path / "in" / "6.wav").write_bytes(wav_bytes(0.2 + noise(1, 24_000, 1e-4), 24_000))
    broken = wav_bytes(np.zeros(24_000), 24_000)[:44]
    (tmp_path / "in" / "7.wav").write_bytes(broken)
    corpus = Dataset.from_dict({"audio": paths, "text": texts})
    rows, report = tokenize_corpus(load_corpus(corpus), **tools, output=tmp_path / "out", max_seconds=3.1)
    assert rows["source"][:] == ["8.wav"]
    expected = {
        "too long": ["3.wav: more than 3.1 s", "4.wav: more than 3.1 s"],
        "unreadable": ["5.wav: ", "7.wav: "],
        "no text": ["0.wav: ''"],
        "text too long": ["1|.wav: 257 ids, at most 256"],
        "too short": ["2.wav: 0.30 s, at least 0.5"],
        "silent": ["6.wav: below -60 dBFS"],
    }
    assert {name: one["rows"] for name, one in report["dropped"].items()} == {k: len(v) for k, v in expected.items()}
    for name, beginnings in expected.items():
        for said, beginning in zip(report["dropped"][name]["examples"], beginnings, strict=True):
            assert said.startswith(beginning)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1 of 9 rows" in card
    assert r"| text too long | 1 | 1\|.wav: 257 ids, at most 256 |" in card
    assert "pretty_name: out" in card.split("---")[1]
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    with pytest.raises(ValueError, match=r"No row .* can be used: too short \(9, 0.wav: 1.00 s, at least 14\)"):
        tokenize_corpus(load_corpus(table(tmp_path / "in", 9)), **tools, output=tmp_path / "none", min_seconds=14)
    assert not (tmp_path / "none").exists()


def test_ids_and_codes_of_different_length_are_no_row(tmp_path, tools, monkeypatch):
    corpus, encode = load_corpus(table(tmp_path / "in")), BarkSemanticTokenizer.encode

    def halved(self, waves):
        first, *others = encode(self, waves)
        return [first[::2], *others]

    monkeypatch.setattr(BarkSemanticTokenizer, "encode", halved)
    rows, report = tokenize_corpus(corpus, **tools, output=tmp_path / "out")
    assert rows["source"][:] == ["1.wav", "2.wav"]
    assert report["dropped"]["mismatch"]["examples"] == ["0.wav: semantic ids of 0.50 s, codes of 1.00 s"]


def test_ids_that_a_row_brings_are_taken_and_others_made(tmp_path, tools):
    """Such as Bark's own, of audio that it made."""
    rows = table(tmp_path / "in", 4, semantic_ids=[[7] * 50, None, [99_999] * 50, []])
    made, report = tokenize_corpus(load_corpus(rows), **tools, output=tmp_path / "out")
    assert made["source"][:] == ["0.wav", "1.wav"]
    assert made["semantic_ids"][0] == [7] * 50
    without, _ = tokenize_corpus(load_corpus(rows.remove_columns("semantic_ids")), **tools, output=tmp_path / "other")
    assert made["semantic_ids"][1] == without["semantic_ids"][1] != without["semantic_ids"][0]
    size = tools["vocabulary"].semantic_vocab_size
    assert report["dropped"]["semantic ids"]["examples"] == [
        f"2.wav: 99999 to 99999, must be 0 to {size - 1}",
        "3.wav: none",
    ]
    assert made["codes"][0] == without["codes"][0]


def test_ids_in_a_table_of_lines_are_read_and_others_refused(tmp_path):
    folder = tmp_path / "in"
    record(folder / "0.wav", 0)
    row = {"file_name": "0.wav", "text": "hello", "semantic_ids": [1, 2, 3]}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    assert load_corpus(folder)["semantic_ids"][:] == [[1, 2, 3]]
    (folder / "metadata.jsonl").write_text(json.dumps({**row, "semantic_ids": "1 2 3"}))
    with pytest.raises(ValueError, match=r"semantic_ids column .* must hold lists of integers"):
        load_corpus(folder)


@given(st.integers(6, 1600), st.integers(-4, 4), st.integers(-6, 6))
def test_kept_ids_and_codes_belong_to_each_other(semantic_tokenizer, ids, more_ids, more_frames):
    """Whatever a tokenizer and a codec round to: T is what Bark makes of S, and little is lost, little apart."""
    vocabulary = Vocabulary.of(BarkGenerationConfig())
    n_semantic, n_frames = ids + more_ids, round(ids * 1.5) + more_frames
    assume(abs(n_semantic / 50 - n_frames / 75) <= 0.1)
    tokenize = RowTokenizer(Tokenizers(None, semantic_tokenizer, None, vocabulary), 0.1, 60)
    made = tokenize.fitted(torch.arange(n_semantic), torch.arange(n_frames).expand(8, -1))
    kept, frames = made["semantic_ids"], made["codes"][0]
    assert made["length"] == len(kept) > 0
    assert len(made["codes"]) == 8
    assert len(frames) == vocabulary.coarse_length(len(kept)) // 2
    assert kept == list(range(kept[0], kept[0] + len(kept)))
    assert frames == list(range(frames[0], frames[0] + len(frames)))
    assert abs((kept[-1] + 1) / 50 - (frames[-1] + 1) / 75) <= 0.014  # they end together
    assert min(n_semantic - kept[-1] - 1, n_frames - frames[-1] - 1) <= 1
    assert kept[0] <= 2 + len(kept) * 0.002


def counting_calls(monkeypatch, fail_at=None):
    """Counts the batches that are encoded; the `fail_at`-th raises."""
    calls, encode = [], BarkSemanticTokenizer.encode

    def counted(self, waves):
        calls.append(len(waves))
        if len(calls) == fail_at:
            raise MemoryError("killed")
        return encode(self, waves)

    monkeypatch.setattr(BarkSemanticTokenizer, "encode", counted)
    return calls


def content(folder: Path) -> tuple:
    """The rows, the report and the card."""
    return load_from_disk(folder).to_list(), (folder / "report.json").read_text(), (folder / "README.md").read_text()


def test_a_killed_run_goes_on_and_gives_what_a_whole_one_gives(tmp_path, tools, monkeypatch):
    corpus = load_corpus(table(tmp_path / "in", 7))
    sizes = {"shard_size": 2, "batch_size": 1}
    tokenize_corpus(corpus, **tools, output=tmp_path / "whole" / "ids", **sizes)
    output = tmp_path / "parts" / "ids"
    with monkeypatch.context() as patch:
        calls = counting_calls(patch, fail_at=6)
        with pytest.raises(MemoryError):
            tokenize_corpus(corpus, **tools, output=output, **sizes)
    assert len(calls) == 6
    assert not output.exists()
    shards = output.with_name(".ids.shards")
    assert sorted(path.name for path in shards.glob("*.parquet")) == ["00000.parquet", "00001.parquet"]
    with monkeypatch.context() as patch:
        calls = counting_calls(patch)
        tokenize_corpus(corpus, **tools, output=output, **sizes)
    assert len(calls) == 3
    assert content(output) == content(tmp_path / "whole" / "ids")
    assert [path.name for path in output.parent.iterdir()] == ["ids"]
    with monkeypatch.context() as patch:
        calls = counting_calls(patch)
        rows, report = tokenize_corpus(corpus, **tools, output=output, **sizes)
    assert (calls, len(rows), report["kept"]) == ([], 7, 7)


def test_another_corpus_or_setting_does_not_go_on_unless_it_may_overwrite(tmp_path, tools, monkeypatch):
    """Not after a killed run, not after a finished one; the old result stays until the new one is whole."""
    corpus = load_corpus(table(tmp_path / "in"))
    output = tmp_path / "ids"
    with monkeypatch.context() as patch:
        counting_calls(patch, fail_at=2)
        with pytest.raises(MemoryError):
            tokenize_corpus(corpus, **tools, output=output, shard_size=1)
    with pytest.raises(ValueError, match=r"\.ids\.shards was made with another max_seconds, shard_size\. Repeat"):
        tokenize_corpus(corpus, **tools, output=output, shard_size=2, max_seconds=9)
    tokenize_corpus(corpus, **tools, output=output, shard_size=1)
    before = content(output)
    record(tmp_path / "in" / "1.wav", 9, 1.5)
    with pytest.raises(ValueError, match=r"ids was made with another corpus\. Repeat"):
        tokenize_corpus(corpus, **tools, output=output, shard_size=1)
    with monkeypatch.context() as patch:
        counting_calls(patch, fail_at=2)
        with pytest.raises(MemoryError):
            tokenize_corpus(corpus, **tools, output=output, shard_size=1, overwrite=True)
    assert content(output) == before
    rows, _ = tokenize_corpus(corpus, **tools, output=output, shard_size=1, overwrite=True)
    assert rows["seconds"][:] == [1.0, 1.5, 1.2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="mine exists and is no tokenized dataset"):
        tokenize_corpus(corpus, **tools, output=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_an_identity_changes_with_what_ids_depend_on_and_not_with_saving(tmp_path, tools, small):
    tokenizers = Tokenizers(**tools)
    before = tokenizers.identities(TEXTS)
    tools["semantic_tokenizer"].save_pretrained(tmp_path)
    loaded = Tokenizers.load(str(small.checkpoint), str(tmp_path))
    assert loaded.identities(TEXTS) == before
    assert loaded.names == {"text_tokenizer": "goldens", "semantic_tokenizer": tmp_path.name, "codec": "goldens"}
    loaded.semantic_tokenizer.config.normalize = True
    loaded.codec.quantizer.layers[7].codebook.embed[3, 3] += 1
    loaded.processor.tokenizer.add_tokens(["Bark"])
    assert all(loaded.identities(TEXTS)[name] != before[name] for name in before)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # python 3.12, and fork
def test_two_processes_give_what_one_gives(tmp_path, tools):
    paths = table(tmp_path / "in", 5)["audio"]
    files = {"audio": [Path(path).read_bytes() for path in paths], "text": KEPT[:1] * 5}
    corpus = load_corpus(Dataset.from_dict({**files, "speaker": ["a", None, "b", "a", "b"]}))
    state = torch.get_rng_state()
    for processes in (1, 2):
        output = tmp_path / str(processes) / "ids"
        tokenize_corpus(corpus, **tools, output=output, shard_size=2, batch_size=2, num_proc=processes)
    assert content(tmp_path / "1" / "ids") == content(tmp_path / "2" / "ids")
    assert load_from_disk(output)["source"][:] == ["row 0", "row 1", "row 2", "row 3", "row 4"]
    assert torch.equal(torch.get_rng_state(), state)


def test_tokenizers_that_do_not_fit_and_impossible_numbers_are_refused_at_once(tmp_path, tools):
    corpus = load_corpus(table(tmp_path / "in"))

    def refused(message, **changed):
        with pytest.raises(ValueError, match=message):
            tokenize_corpus(corpus, **{**tools, "output": tmp_path / "out", **changed})

    sizes = {"features": "mfcc", "quantizer": "kmeans"}
    refused("semantic tokenizer's ids .300. are more .*200", semantic_tokenizer=_tokenizer(**sizes, vocab_size=300))
    slow = _tokenizer(**sizes, vocab_size=200, hop_length=400)
    refused("semantic tokenizer gives 40 frames a second, the model counts 49.9", semantic_tokenizer=slow)
    refused("num_proc .2. must be 1 with models on cpu, meta", semantic_tokenizer=_tokenizer(**sizes), num_proc=2)
    refused("batch_size .0. .* at least 1", batch_size=0)
    refused("min_seconds .20. must be at least 0.1 and below max_seconds .15.", min_seconds=20)


def _tokenizer(vocab_size=200, **config):
    with torch.device("meta"):
        return BarkSemanticTokenizer(BarkSemanticTokenizerConfig(vocab_size=vocab_size, **config))


def test_the_command_line_does_it_all(tmp_path, small, semantic_tokenizer, capsys):
    as_ljspeech(tmp_path / "lj")
    record(tmp_path / "lj" / "wavs" / "1.wav", 1, 0.1)
    semantic_tokenizer.save_pretrained(tmp_path / "tokenizer")
    options = {"--data": tmp_path / "lj", "--model": small.checkpoint, "--semantic_tokenizer": tmp_path / "tokenizer"}
    options |= {"--output_dir": tmp_path / "ids", "--text_column": "normalized_text"}
    assert main([str(part) for option in options.items() for part in option]) == tmp_path / "ids"
    assert load_from_disk(tmp_path / "ids")["text"][:] == ["normalized 0", "normalized 2"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "2 of 3 rows" in printed.err
    assert "1.wav: 0.10 s, at least 0.5" in printed.err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "LJSpeech-1.1" in capsys.readouterr().out
