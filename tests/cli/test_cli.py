"""The command line as its user meets it: files, exit codes, messages, interruptions."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
from command_line import error, run

import bark_hf
from bark_hf.audio import to_pcm16
from bark_hf.generation.run import Run

ROOT = Path(__file__).parents[2]


def test_speak_writes_what_the_python_api_and_the_pipeline_give(small, tmp_path, capsys):
    wav = tmp_path / "hello.wav"
    assert (
        run("speak", "Hello [laughs]", "--model", small.checkpoint, "--voice", "made/short", "-o", wav, "--seed", 7)
        == 0
    )
    info = soundfile.info(wav)
    assert (info.samplerate, info.channels, info.subtype) == (24_000, 1, "PCM_16")
    samples, _ = soundfile.read(wav, dtype="int16")
    audio = small.model.generate(**small.processor("Hello [laughs]", voice_preset="made/short"), seed=7)[0].numpy()
    np.testing.assert_array_equal(samples, to_pcm16(audio))
    pipe = bark_hf.BarkPipeline(small.model, processor=small.processor, tokenizer=small.processor.tokenizer)
    piped = pipe("Hello [laughs]", voice_preset="made/short", seed=7)
    np.testing.assert_array_equal(samples, to_pcm16(piped["audio"]))
    assert "seed 7" in capsys.readouterr().err


def test_the_printed_seed_repeats_the_result(small, tmp_path, capsys):
    first, second = tmp_path / "1.wav", tmp_path / "2.wav"
    assert run("speak", "the music", "-m", small.checkpoint, "-o", first) == 0
    seed = re.search(r"seed (\d+)", capsys.readouterr().err)[1]
    assert run("speak", "the music", "-m", small.checkpoint, "-o", second, "--seed", seed) == 0
    assert first.read_bytes() == second.read_bytes()


def test_text_from_stdin_wav_to_stdout_and_options(small, tmp_path):
    saved = tmp_path / "voice.npz"
    command = [
        sys.executable,
        "-m",
        "bark_hf",
        "speak",
        "-",
        "-o",
        "-",
        "--model",
        str(small.checkpoint),
        "--seed",
        "3",
    ]
    options = ["--max-duration", "0.5", "--top-k", "5", "--temperature", "0.9", "--save-voice", str(saved)]
    out = subprocess.run(command + options, input=b"Hello\nthe music", capture_output=True, timeout=120)
    assert out.returncode == 0, out.stderr.decode()
    samples, rate = soundfile.read(io.BytesIO(out.stdout), dtype="int16")
    wanted = small.model.generate(
        **small.processor("Hello the music"), seed=3, max_duration=0.5, top_k=5, temperature=0.9
    )
    assert rate == 24_000
    # another process may run other thread counts: the last bit of a sample may differ
    np.testing.assert_allclose(samples.astype(int), to_pcm16(wanted[0].numpy()).astype(int), atol=1)
    assert bark_hf.Voice.load(saved).semantic_prompt.size == 25  # 0.5 s


def test_a_voice_file_is_taken_where_no_preset_has_that_name(small, tmp_path):
    path = tmp_path / "mine.npz"
    small.processor.voice("made/short").save(path)
    wavs = [tmp_path / "preset.wav", tmp_path / "file.wav"]
    for voice, wav in zip(("made/short", path), wavs, strict=True):
        assert run("speak", "Hello", "-m", small.checkpoint, "-v", voice, "-o", wav, "--seed", 1, "-q") == 0
    assert wavs[0].read_bytes() == wavs[1].read_bytes()


def test_errors_are_one_sentence_and_leave_no_file(small, tmp_path, capsys):
    wav = tmp_path / "x.wav"
    speak = ["speak", "Hello", "-o", wav, "-m", small.checkpoint]
    assert "nobody" in error(capsys, *speak, "--voice", "nobody")
    assert "made/short" in error(capsys, *speak, "--voice", "made/shrt")
    assert "No voice file" in error(capsys, *speak, "--voice", tmp_path / "none.npz")
    assert "empty" in error(capsys, "speak", "  ", "-o", wav, "-m", small.checkpoint)
    assert "no folder" in error(capsys, "speak", "Hello", "-o", tmp_path / "no" / "x.wav", "-m", small.checkpoint)
    assert "no folder" in error(capsys, "speak", "Hello", "-o", wav, "-m", tmp_path / "none")
    assert "cannot be loaded" in error(capsys, "speak", "Hello", "-o", wav, "-m", tmp_path)
    assert "temperature" in error(capsys, *speak, "--temperature", "-1")
    assert "seed" in error(capsys, *speak, "--seed", "-1")
    assert "Device" in error(capsys, *speak, "--device", "abacus")
    assert "save-voice" in error(capsys, *speak, "--save-voice", tmp_path / "v.txt")
    assert list(tmp_path.iterdir()) == []


def test_an_offline_hub_is_said_in_a_sentence(tmp_path, capsys):
    assert "cannot be loaded" in error(capsys, "speak", "Hello", "-o", tmp_path / "x.wav", "-m", "nobody/nothing")


def test_usage_errors_exit_with_2(capsys):
    assert run("speak") == 2
    assert run("sing", "x") == 2
    assert run("speak", "x", "--dtype", "int3") == 2
    assert "--dtype" in capsys.readouterr().err


def test_the_version_is_shown(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"bark-hf {bark_hf.__version__}\n"


def test_help_shows_an_example_for_every_command(capsys):
    for command in ("speak", "voices", "convert"):
        assert run(command, "--help") == 0
        assert f"bark-hf {command}" in capsys.readouterr().out


def test_a_cut_text_warns_on_stderr(small, tmp_path, capsys):
    wav = tmp_path / "x.wav"
    assert run("speak", "the " * 300, "-m", small.checkpoint, "-o", wav, "--max-duration", "0.1") == 0
    assert "warning: Text 0 has 300 ids, the model reads 256: 15% are cut" in capsys.readouterr().err


def test_voices_lists_names_languages_and_lengths(small, capsys):
    assert run("voices", "-m", small.checkpoint) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["voice", "language", "seconds"]
    assert ["made/long", "14.0"] in [line.split() for line in lines]
    assert run("voices", "-m", small.checkpoint, "--names-only") == 0
    assert capsys.readouterr().out.split() == ["made/int32", "made/long", "made/short", "made/uint16"]


def test_convert_and_the_script_write_the_same_folder(small, tmp_path, capsys):
    sources = {**small.sources, "generation-config": small.constants}
    arguments = [part for name, path in sources.items() for part in (f"--{name}", str(path))]
    assert run("convert", *arguments, "--output", tmp_path / "a", "--verify") == 0
    assert "logits agree" in capsys.readouterr().err
    script = [sys.executable, ROOT / "conversion" / "convert_suno_checkpoint.py"]
    subprocess.run([*script, *arguments, "--output", tmp_path / "b"], check=True, capture_output=True, timeout=120)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert "not an empty folder" in error(capsys, "convert", *arguments, "--output", tmp_path / "a")


def test_the_voice_script_converts_a_folder(small, tmp_path):
    script = [sys.executable, ROOT / "conversion" / "convert_voice_presets.py"]
    bank = tmp_path / "voices.safetensors"
    out = subprocess.run([*script, small.folder / "presets", bank], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert bank.is_file()
    out = subprocess.run([*script, tmp_path / "none", bank], capture_output=True, text=True, timeout=120)
    assert (out.returncode, out.stderr.count("\n")) == (1, 1)


def test_a_missing_extra_is_said_in_a_sentence(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    wav = tmp_path / "x.wav"
    assert 'pip install "bark-hf[longform]"' in error(
        capsys, "speak", "A.", "--long", "-m", small.checkpoint, "-o", wav
    )


def test_an_interruption_leaves_no_file_and_exits_130(small, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    speak = ["speak", "Hello", "-m", small.checkpoint, "-o", tmp_path / "x.wav"]
    for owner, name in ((Run, "fine"), (Path, "replace")):  # while computing, while writing
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            assert run(*speak) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
