"""The example scripts run as they are, on the small goldens' checkpoint."""

import io
import runpy
import sys
from pathlib import Path

import pytest
import soundfile

EXAMPLES = Path(__file__).parents[1] / "examples"


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


def test_every_example_says_how_it_is_called(monkeypatch):
    for path in sorted(EXAMPLES.glob("*.py")):
        with pytest.raises(SystemExit, match=path.name):
            run(monkeypatch, path.name)
