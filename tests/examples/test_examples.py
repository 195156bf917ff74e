"""The example scripts run as they are, on the small goldens' checkpoint."""

import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from bark_hf import BarkModel, BarkProcessor
from bark_hf.audio import read_metadata
from bark_hf.vocabulary import Vocabulary

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch, name, *arguments, stdin=""):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_batch_of_voices_writes_a_file_for_each_text(small, tmp_path, monkeypatch):
    run(monkeypatch, "batch_of_voices.py", small.checkpoint, tmp_path, "made/short", "made/uint16")
    assert [soundfile.info(path).samplerate for path in sorted(tmp_path.glob("*.wav"))] == [24_000] * 3


def test_go_on_in_one_voice_joins_the_sentences(small, tmp_path, monkeypatch, capsys):
    wav = tmp_path / "long.wav"
    run(monkeypatch, "go_on_in_one_voice.py", small.checkpoint, wav, stdin="Hello the music. And a song!\nHello?")
    assert "3/3: Hello?" in capsys.readouterr().err
    assert soundfile.info(wav).frames > 0


def test_a_book_is_one_file_that_says_how_it_was_made(small, tmp_path, monkeypatch, capsys):
    book, wav = tmp_path / "book.txt", tmp_path / "book.wav"
    book.write_text("Hello, my dog.\n\nAnd a song!", encoding="utf-8")
    run(monkeypatch, "audiobook.py", small.checkpoint, book, wav)
    chunks = json.loads(wav.with_suffix(".json").read_text())
    assert [chunk["text"] for chunk in chunks] == ["Hello, my dog.", "And a song!"]
    assert "2/2 chunks" in capsys.readouterr().err
    assert json.loads(read_metadata(wav)["comment"])["model"] == Path(small.checkpoint).name
    made = wav.read_bytes()
    run(monkeypatch, "audiobook.py", small.checkpoint, book, wav)  # from the finished chunks
    assert wav.read_bytes() == made


def tokenized(small, folder):
    """A tokenized dataset of a few made-up utterances."""
    vocabulary = Vocabulary.of(small.model.generation_config)
    random = np.random.default_rng(0)
    rows = [
        {
            "text_ids": random.integers(1, 300, 5).tolist(),
            "semantic_ids": random.integers(0, vocabulary.semantic_vocab_size, length).tolist(),
            "codes": random.integers(0, vocabulary.codebook_size, (8, vocabulary.coarse_length(length) // 2)).tolist(),
            "speaker": "a",
        }
        for length in range(10, 30, 2)
    ]
    Dataset.from_list(rows).save_to_disk(folder)
    return folder


@pytest.mark.parametrize(("name", "options"), [("finetune_full.py", ["coarse", 2]), ("finetune_lora.py", [1])])
def test_fine_tuning_leaves_a_checkpoint_that_speaks(small, tmp_path, monkeypatch, capsys, name, options):
    data = tokenized(small, tmp_path / "data")
    run(monkeypatch, name, small.checkpoint, data, tmp_path / "out", *options)
    assert "evaluation loss" in capsys.readouterr().out
    model = BarkModel.from_pretrained(tmp_path / "out" / "model")
    changed = model.coarse_acoustics.state_dict()
    assert any(not torch.equal(changed[k], v) for k, v in small.model.coarse_acoustics.state_dict().items())
    processor = BarkProcessor.from_pretrained(tmp_path / "out" / "model")
    assert len(model.generate(**processor("Hello"), seed=1, semantic_max_new_tokens=20)[0])


def test_every_example_says_how_it_is_called(monkeypatch):
    for path in sorted(EXAMPLES.glob("*.py")):
        with pytest.raises(SystemExit, match=path.name):
            run(monkeypatch, path.name)
