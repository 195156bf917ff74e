"""`bark-hf speak` beyond one text: streams, files, scripts, captions and the shapes that audio leaves in."""

import io
import json
import sys
import weakref

import numpy as np
import pytest
import soundfile

from bark_hf.audio import read_metadata
from bark_hf.cli.main import main
from bark_hf.longform import speech as longform

SHORT = ("--max-duration", "0.6", "-q", "--seed", "3")
BOOK = "The first sentence is here. The second one follows.\n\nA new paragraph [pause:1s] ends it."


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(one) for one in arguments])
    return stopped.value.code or 0


def test_a_stream_to_stdout_is_a_wav_of_unknown_length(small, capsysbinary):
    assert run("speak", "the music", "-m", small.checkpoint, "-o", "-", "--stream", *SHORT) == 0
    content = capsysbinary.readouterr().out
    assert content[:4] == b"RIFF"
    assert content[4:8] == b"\xff\xff\xff\xff"
    audio, rate = soundfile.read(io.BytesIO(content))
    assert rate == 24_000
    assert len(audio) > 1000


def test_raw_samples_are_those_of_the_wav(small, capsysbinary, tmp_path):
    speak = ["speak", "the music", "-m", small.checkpoint, *SHORT]
    assert run(*speak, "-o", "-", "--raw") == 0
    assert run(*speak, "-o", tmp_path / "x.wav") == 0
    wav, _ = soundfile.read(tmp_path / "x.wav", dtype="int16")
    assert np.array_equal(np.frombuffer(capsysbinary.readouterr().out, "<i2"), wav)


def test_a_file_is_spoken_chunk_by_chunk_with_captions_and_a_report(small, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text(BOOK)
    made = [tmp_path / name for name in ("x.flac", "x.srt", "x.json")]
    options = ("--captions", made[1], "--report", made[2], "--resume", tmp_path / "parts", "--no-guard")
    assert run("speak", "-f", book, "-m", small.checkpoint, "-o", made[0], *options, *SHORT) == 0
    audio, rate = soundfile.read(made[0])
    report = json.loads(made[2].read_text())
    assert report["seconds"] == pytest.approx(len(audio) / rate, abs=1e-3)
    said = "".join(chunk["text"] for chunk in report["chunks"]).replace(" ", "")
    assert said == "Thefirstsentenceishere.Thesecondonefollows.Anewparagraphendsit."
    ends = [chunk["end"] for chunk in report["chunks"]]
    assert ends == sorted(ends)
    assert made[1].read_text().startswith("1\n00:00:0")
    again = tmp_path / "again.flac"
    assert run("speak", "-f", book, "-m", small.checkpoint, "-o", again, *options, *SHORT) == 0
    assert np.array_equal(soundfile.read(again)[0], audio)


def test_a_long_text_to_stdout_is_what_the_file_holds(small, capsysbinary, tmp_path):
    speak = ["speak", BOOK, "--long", "-m", small.checkpoint, "--no-guard", *SHORT]
    assert run(*speak, "-o", "-") == 0
    assert run(*speak, "-o", tmp_path / "x.wav") == 0
    assert np.array_equal(
        soundfile.read(io.BytesIO(capsysbinary.readouterr().out), dtype="int16")[0],
        soundfile.read(tmp_path / "x.wav", dtype="int16")[0],
    )


@pytest.mark.parametrize("options", [(), ("--rate", "48000"), ("--loudness", "-20"), ("--captions",)])
def test_a_long_text_is_written_as_it_is_made_and_not_held(small, tmp_path, monkeypatch, options):
    """Half an hour took a gigabyte. Pieces that are written are gone before the next but one is made."""
    alive: list[weakref.ref] = []
    rng = np.random.default_rng(0)

    def pieces():
        for number in range(12):
            assert sum(piece() is not None for piece in alive) <= 1
            audio = rng.normal(scale=0.1, size=24_000).astype(np.float32)
            alive.append(weakref.ref(audio))
            report = {"text": "Hello.", "start": float(number), "end": number + 1.0, "attempts": [{}]}
            yield longform.Piece(audio, report)
            del audio

    def speak_long(model, *args, **kwargs):
        cast = longform.Cast("fixed", 1.0)
        return longform.LongSpeech(24_000, 3, cast, pieces())

    monkeypatch.setattr(longform, "speak_long", speak_long)
    wav = tmp_path / "x.wav"
    options = (*options, tmp_path / "x.srt") if options == ("--captions",) else options
    assert run("speak", "A.", "--long", "-m", small.checkpoint, "-o", wav, *options, *SHORT) == 0
    assert len(alive) == 12
    assert soundfile.info(wav).duration == 12


def test_a_script_has_a_voice_for_each_name(small, tmp_path):
    script, report = tmp_path / "talk.txt", tmp_path / "r.json"
    script.write_text("Anna: Hello there.\nBen: the music.\n")
    cast = ("--cast", "Anna=made/short", "--cast", "Ben=made/long")
    assert run("speak", "-f", script, *cast, "-m", small.checkpoint, "-o", tmp_path / "x.wav",
               "--report", report, "--no-guard", *SHORT) == 0  # fmt: skip
    chunks = json.loads(report.read_text())["chunks"]
    assert list(dict.fromkeys(chunk["speaker"] for chunk in chunks)) == ["Anna", "Ben"]
    assert chunks[0]["voice"] != chunks[-1]["voice"]


@pytest.mark.parametrize(("bits", "subtype"), [("16", "PCM_16"), ("24", "PCM_24"), ("float", "FLOAT")])
def test_rate_bits_and_loudness_are_as_asked_for(small, tmp_path, bits, subtype):
    from bark_hf.audio.loudness import loudness

    wav = tmp_path / "x.wav"
    options = ("--rate", "48000", "--bits", bits, "--loudness", "-32")
    assert run("speak", "the music", "-m", small.checkpoint, "-o", wav, *options, *SHORT) == 0
    info = soundfile.info(wav)
    assert (info.samplerate, info.subtype) == (48_000, subtype)
    assert loudness(soundfile.read(wav)[0], 48_000) == pytest.approx(-32, abs=0.5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("x", "--stream", "-o", "x.wav"), "--stream is for one text to stdout"),
        (("x", "--captions", "x.doc"), "Captions are written as .srt"),
        (("x", "--raw", "-o", "x.wav"), "--raw is for stdout"),
        (("x", "--loudness", "-16", "-o", "-"), "--loudness for files"),
        (("x", "--cast", "Anna"), "--cast takes NAME=VOICE"),
        (("x", "-o", "x.xyz"), ".xyz"),
        (("-f", "none.txt", "-o", "x.wav"), "none.txt"),
        (("x", "--rate", "100", "-o", "x.wav"), "100"),
        (("x", "--rate", "100", "-o", "-"), "cannot hold audio at 100 Hz"),
        (("x", "--raw", "--loudness", "-16", "-o", "-"), "--loudness for files"),
        (("x", "--loudness", "5", "-o", "x.wav"), "`target` is -70 to 0"),
        (("x", "--bits", "16", "-o", "x.mp3"), "MP3 has no 16 bits"),
        (("x", "--long", "--save-voice", "v.npz"), "--save-voice is for one text"),
        (("x", "--stream", "-o", "-", "--save-voice", "v.npz"), "--stream keeps nothing"),
        (("x", "--stream", "-o", "-", "--captions", "x.srt"), "--stream keeps nothing"),
        (("x", "--stream", "-o", "-", "--report", "x.json"), "--stream keeps nothing"),
        (("x", "--resume", "parts"), "--resume is for texts of any length"),
        (("x", "--cast", "Anna=v2/x"), "--cast is for texts of any length"),
        (("x", "--language", "de"), "--language is for texts of any length"),
        (("x", "--best-of", "2"), "--best-of is for texts of any length"),
        (("x", "--no-guard"), "--guard is for texts of any length"),
        (("x", "--long", "--cast", "Anna=me.npz"), "No voice file at me.npz"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("speak", *arguments, "-m", "nobody/nothing") == 1
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("missing", "options"), [("soxr", ("--rate", "48000")), ("pyloudnorm", ("--loudness", "-16"))]
)
def test_what_shaping_lacks_is_said_before_a_model_is_loaded(missing, options, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    assert run("speak", "x", *options, "-o", tmp_path / "x.wav", "-m", "nobody/nothing") == 1
    assert f"needs {missing}" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["mp3", "ogg", "opus"])
def test_formats_without_a_choice_of_bits_are_written(small, tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    assert run("speak", "the music", "-m", small.checkpoint, "-o", path, *SHORT) == 0
    assert soundfile.info(path).frames > 1000


@pytest.mark.parametrize("options", [("--voice", "nobody"), ("--temperature", "-1")])
def test_a_stream_that_cannot_be_leaves_stdout_empty(small, capsysbinary, options):
    assert run("speak", "the music", *options, "-m", small.checkpoint, "-o", "-", "--stream", *SHORT) == 1
    assert run("speak", " ", "-m", small.checkpoint, "-o", "-", "--stream", *SHORT) == 1
    assert capsysbinary.readouterr().out == b""


def test_a_cast_takes_voice_files_and_the_result_notes_all_given_voices(small, tmp_path):
    mine, script, wav = tmp_path / "mine.npz", tmp_path / "talk.txt", tmp_path / "x.wav"
    small.processor.voice("made/long").save(mine)
    script.write_text("Anna: Hello there.\nBen: the music.\n")
    cast = ("--cast", f"Anna={mine}", "--cast", "Ben=made/short")
    assert run("speak", "-f", script, *cast, "-m", small.checkpoint, "-o", wav, "--no-guard", *SHORT) == 0
    made = json.loads(read_metadata(wav)["comment"])
    both = (small.processor.voice(name).fingerprint for name in ("made/long", "made/short"))
    assert (made["voice"], made["seed"]) == (", ".join(both), 3)


@pytest.mark.parametrize(("retries", "redone"), [(0, 0), (1, 2)])
def test_only_attempts_beyond_best_of_are_redone(small, tmp_path, capsys, retries, redone):
    """Speech without a sound fails every time; `--best-of` alone redoes nothing."""
    options = ("--min-eos-p", "0", "--best-of", "2", "--retries", retries, "--seed", "3", "--language", "en")
    long = ["speak", "Hello.\n\nA song!", "--long", *options, "-m", small.checkpoint, "-o", tmp_path / "x.wav"]
    assert run(*long) == 0
    assert f"in 2 chunks, {redone} of them redone" in capsys.readouterr().err


def test_a_text_and_a_file_are_one_too_many(capsys):
    assert run("speak", "x", "-f", "x.txt") == 2
    assert run("speak") == 2
