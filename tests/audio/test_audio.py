"""Audio files: what goes in comes out, whole or not at all, with its metadata; what cannot be read is said."""

import contextlib
import io
import json
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from synthetic import noise, speech

import bark_hf
from bark_hf.audio import (
    FORMATS,
    audio_bytes,
    check_ending,
    provenance,
    read_audio,
    read_metadata,
    resample,
    to_mono,
    to_pcm16,
    wav_bytes,
    write_audio,
)
from bark_hf.audio.files import FIELDS
from bark_hf.files import whole_file

RATE = 24_000
TONE = (0.4 * np.sin(2 * np.pi * 440 / RATE * np.arange(RATE))).astype(np.float32)
LOST = {".wav": {"license"}, ".flac": set(), ".mp3": {"license", "copyright"}, ".ogg": set(), ".opus": set()}


def test_pcm_is_rounded_and_clipped():
    np.testing.assert_array_equal(
        to_pcm16(np.array([0, 1, -1, 2, -3, 0.6 / 32767])), [0, 32767, -32767, 32767, -32767, 1]
    )


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_written_is_read(ending, tmp_path):
    path = tmp_path / f"x{ending}"
    write_audio(path, TONE, RATE)
    samples, rate = read_audio(path)
    assert (rate, samples.shape, samples.dtype) == (RATE, (RATE,), np.float32)
    assert soundfile.info(path).format == FORMATS[ending][0]
    if ending in (".wav", ".flac"):
        np.testing.assert_array_equal(to_pcm16(samples * 32768 / 32767), to_pcm16(TONE))
    else:
        assert np.corrcoef(samples, TONE)[0, 1] > 0.99
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", FORMATS)
def test_metadata_survive_in_every_format(ending, tmp_path):
    path = tmp_path / f"x{ending.upper()}"
    texts = {name: f"{name} äöü ♪" for name in FIELDS if name != "software"}
    made = provenance(model="suno/bark-small ♪", voice="0123456789abcdef", seed=2**63)
    write_audio(path, TONE, RATE, {**texts, **made})
    found = read_metadata(path)
    wanted = {"model": "suno/bark-small ♪", "voice": "0123456789abcdef", "seed": 2**63, "bark_hf": bark_hf.__version__}
    assert json.loads(found["comment"]) == wanted
    software = found.pop("software")
    assert software.startswith("LAME" if ending == ".mp3" else f"bark_hf {bark_hf.__version__}")
    assert found == {name: {**texts, **made}[name] for name in texts if name not in LOST[ending]}


def test_the_longest_metadata_survive_and_longer_ones_are_refused(tmp_path):
    """libsndfile loses a text of 2046 bytes in a WAV file, and every one after it."""
    path = tmp_path / "x.wav"
    texts = {name: "é" * (50 if name == "software" else 1000) for name in FIELDS if name != "license"}
    write_audio(path, TONE, RATE, texts)
    found = read_metadata(path)
    assert found.pop("software").startswith(texts.pop("software"))
    assert found == texts
    with pytest.raises(ValueError, match="`software` must be a text of 1 to 100 bytes"):
        write_audio(path, TONE, RATE, {"software": "é" * 51})
    for text in ("x" * 2001, "é" * 1001, "", "a\0b"):
        with pytest.raises(ValueError, match="`comment` must be a text of 1 to 2000 bytes"):
            audio_bytes(TONE, RATE, metadata={"comment": text})
    with pytest.raises(ValueError, match="no field 'composer'; they have title"):
        audio_bytes(TONE, RATE, metadata={"composer": "me"})


def test_metadata_of_others_are_read_and_no_metadata_are_none(tmp_path):
    write_audio(tmp_path / "x.mp3", TONE, RATE, {"title": "short"})  # LAME writes an ID3v1 tag then, else ID3v2
    assert read_metadata(tmp_path / "x.mp3") == {"title": "short"}
    assert read_metadata(io.BytesIO(wav_bytes(TONE, RATE))) == {}


def test_bytes_in_memory_are_the_file(tmp_path):
    note = provenance(model="m")
    write_audio(tmp_path / "x.wav", TONE, RATE, note)
    assert (tmp_path / "x.wav").read_bytes() == wav_bytes(TONE, RATE, note) == audio_bytes(TONE, RATE, ".wav", note)
    assert json.loads(note["comment"])["voice"] is None


def test_minutes_of_ogg_are_written():
    """libsndfile's Vorbis encoder overflows the stack, and with it the process, when it gets 2 minutes at once."""
    data = audio_bytes(np.zeros(2_500_000, np.float32), RATE, ".ogg")
    assert soundfile.info(io.BytesIO(data)).frames == 2_500_000


def test_what_no_file_can_hold_is_refused(tmp_path):
    for audio in (np.zeros((2, 9)), np.array([0, np.nan]), np.array([np.inf])):
        with pytest.raises(ValueError, match=r"\(N,\) finite samples"):
            write_audio(tmp_path / "x.wav", audio, RATE)
    for ending in (".flac", ".mp3"):
        with pytest.raises(ValueError, match="There are no samples"):
            write_audio(tmp_path / f"x{ending}", np.zeros(0), RATE)
    with pytest.raises(ValueError, match="MP3 cannot hold audio at 96000 Hz"):
        write_audio(tmp_path / "x.mp3", TONE, 96_000)
    for name in ("x.m4a", "x", "x.wav.txt"):
        with pytest.raises(ValueError, match=r"written as \.wav, \.flac, \.mp3, \.ogg"):
            check_ending(tmp_path / name)
    check_ending("x.MP3")
    assert list(tmp_path.iterdir()) == []
    write_audio(tmp_path / "x.wav", np.zeros(0), RATE)  # a generation may be empty
    assert soundfile.info(tmp_path / "x.wav").frames == 0


def test_an_interruption_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    path = tmp_path / "x.wav"
    write_audio(path, TONE, RATE)
    before = path.read_bytes()
    monkeypatch.setattr(type(path), "replace", interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        write_audio(path, -TONE, RATE)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_whole_file_takes_the_old_ones_place_at_the_end(tmp_path):
    path = tmp_path / "x.npz"
    path.write_text("old")
    with contextlib.suppress(KeyboardInterrupt), whole_file(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert (path.read_text(), len(list(tmp_path.iterdir()))) == ("old", 1)
    with whole_file(path) as beside:
        assert (beside.suffix, beside.parent) == (".npz", tmp_path)
        beside.write_text("new")
    assert (path.read_text(), len(list(tmp_path.iterdir()))) == ("new", 1)


@pytest.mark.parametrize(
    ("ending", "subtype"),
    [
        ("wav", "PCM_U8"),
        ("wav", "PCM_24"),
        ("wav", "PCM_32"),
        ("wav", "FLOAT"),
        ("flac", "PCM_24"),
        ("aiff", "PCM_16"),
    ],
)
def test_stereo_of_any_depth_is_read(ending, subtype, tmp_path):
    stereo = np.stack([TONE, 0.5 * TONE], axis=1)
    soundfile.write(tmp_path / f"x.{ending}", stereo, 96_000, subtype=subtype)
    samples, rate = read_audio(tmp_path / f"x.{ending}")
    assert (samples.shape, rate) == ((RATE, 2), 96_000)
    np.testing.assert_allclose(samples, stereo, atol=0.01 if subtype == "PCM_U8" else 1e-4)
    with (tmp_path / f"x.{ending}").open("rb") as file:
        np.testing.assert_array_equal(read_audio(file)[0], samples)


def test_no_more_of_an_hour_is_read_than_asked_for(tmp_path):
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_U8") as file:
        for _ in range(60):
            file.write(np.full(60 * 8000, 0.25, np.float32))
    tracemalloc.start()
    samples, rate = read_audio(path, max_seconds=2.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(samples), rate) == (20_000, 8000)
    assert peak < 1_000_000
    assert len(read_audio(path, max_seconds=1e9)[0]) == 3600 * 8000


def test_blocks_of_an_mp3_join_without_a_seam():
    """A seek between two blocks, even to where one is, loses the bits that MP3 frames borrow from earlier ones."""
    data = io.BytesIO(audio_bytes(noise(30, RATE, level=0.3), RATE, ".mp3"))
    whole, _ = soundfile.read(data, dtype="float32")
    data.seek(0)
    np.testing.assert_allclose(read_audio(data)[0], whole, atol=1e-6)


@pytest.mark.parametrize("length", [0, 15 << 32])  # 0: a stream whose encoder could not know; 240 GiB of float32
def test_a_flac_whose_header_does_not_know_its_length_is_read(length, tmp_path):
    flac = io.BytesIO()
    soundfile.write(flac, TONE, RATE, format="FLAC")
    data = bytearray(flac.getvalue())
    data[21] = data[21] & 0xF0 | length >> 32  # STREAMINFO's count of samples, 36 bits
    data[22:26] = (length & 0xFFFFFFFF).to_bytes(4, "big")
    (tmp_path / "x.flac").write_bytes(data)
    tracemalloc.start()
    samples, _ = read_audio(tmp_path / "x.flac")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(samples, TONE, atol=1e-4)
    assert peak < 2_000_000


def test_files_that_are_no_audio_are_said_in_a_sentence(tmp_path):
    flac, nan, empty = (io.BytesIO() for _ in range(3))
    soundfile.write(flac, speech(2), 16_000, format="FLAC")
    soundfile.write(nan, np.array([0, np.nan, 0]), 8000, format="WAV", subtype="FLOAT")
    soundfile.write(empty, np.zeros(0), 8000, format="WAV")
    contents = {
        "text.wav": (b"hello " * 999, "no audio file that can be read"),
        "nothing.wav": (b"", "no audio file that can be read"),
        "cut.wav": (wav_bytes(TONE, RATE)[:30], "no audio file that can be read"),
        "phone.m4a": (b"\0\0\0\x20ftypM4A " + bytes(999), "ffmpeg"),
        "voice.raw": (bytes(999), "no audio file that can be read"),
        "hole.flac": (flac.getvalue()[:9000] + bytes(200) + flac.getvalue()[9200:], "is damaged"),
        "nan.wav": (nan.getvalue(), "NaN"),
        "empty.wav": (empty.getvalue(), "without samples"),
    }
    for name, (data, message) in contents.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            read_audio(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match="The file"):
            read_audio(io.BytesIO(data))
    for missing in (tmp_path / "none.wav", tmp_path):
        for read in (read_audio, read_metadata):
            with pytest.raises(FileNotFoundError, match="no audio file at"):
                read(missing)


def test_a_cut_wav_gives_what_is_there():
    samples, _ = read_audio(io.BytesIO(wav_bytes(TONE, RATE)[: 44 + 2000]))
    assert len(samples) == 1000


def test_channels_are_mixed_and_time_comes_first():
    stereo = np.stack([TONE, 0 * TONE], axis=1)
    np.testing.assert_allclose(to_mono(stereo), TONE / 2)
    assert to_mono(TONE.astype(np.float64)).dtype == np.float32
    for wrong in (stereo.T, np.zeros((1, 1, 1)), np.float32(0)):
        with pytest.raises(ValueError, match="time first"):
            to_mono(wrong)


def test_resampling_keeps_length_pitch_and_channels():
    half = resample(TONE, RATE, 12_000)
    assert (half.shape, half.dtype) == ((12_000,), np.float32)
    assert np.abs(np.fft.rfft(half)).argmax() == 440
    assert resample(np.stack([TONE, TONE], axis=1), RATE, 16_000).shape == (16_000, 2)
    np.testing.assert_array_equal(resample(TONE, RATE, RATE), TONE)


def test_resampling_without_soxr_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    np.testing.assert_array_equal(resample(TONE, RATE, RATE), TONE)
    with pytest.raises(ImportError, match=r'pip install "bark-hf\[clone\]"'):
        resample(TONE, RATE, 16_000)
