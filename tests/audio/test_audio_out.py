"""Audio on its way out: other programs read every format, streams among them, at the right rate, length, loudness."""

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyloudnorm
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import noise, speech

from bark_hf.audio import (
    FORMATS,
    audio_bytes,
    audio_writer,
    check_ending,
    provenance,
    read_metadata,
    resample,
    resample_pieces,
    to_pcm16,
    write_audio,
)
from bark_hf.audio import loudness as loudness_module
from bark_hf.audio.files import RATES, RAW, PcmStream, SampleFile, WavStream, frame_levels, heard, ramp
from bark_hf.audio.loudness import fade, leveled, loudness, to_loudness, trim_silence, true_peak

RATE = 24_000
SAID = np.pad(speech(1.5, RATE), (1000, 2345))
LOUD = to_loudness(SAID, RATE, -16.0).audio
ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg, which reads on its own")
sox = pytest.mark.skipif(shutil.which("sox") is None, reason="needs sox, which reads on its own")
some = settings(max_examples=25, deadline=None)


def decoded(*command, stdin=None):
    """What a command gives on stdout, as float32 samples."""
    done = subprocess.run([str(one) for one in command], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, "<f4")


def by_ffmpeg(path, *before):
    return decoded("ffmpeg", "-v", "error", *before, "-i", path, "-f", "f32le", "-")


def by_sox(path, *before):
    return decoded("sox", *before, path, "-t", "f32", "-")


def ffmpegs_meter(path, *before):
    """Rate in Hz, loudness in LUFS and true peak in dBTP, as ffmpeg finds them."""
    command = ["ffmpeg", "-nostats", *before, "-i", str(path), "-af", "ebur128=peak=true", "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr
    summary = said[said.rindex("Summary") :]
    found = [re.search(rf"{name}:\s+(\S+) ", summary)[1] for name in ("I", "Peak")]
    return int(re.search(r"Audio: .*?(\d+) Hz", said)[1]), *map(float, found)


WRITTEN = [
    (".wav", None, 8000),
    (".wav", 24, 96_000),
    (".wav", "float", 22_050),
    (".flac", None, 96_000),
    (".flac", 24, 8000),
    (".mp3", None, 8000),
    (".mp3", None, 24_000),
    (".mp3", None, 48_000),
    (".ogg", None, 8000),
    (".ogg", None, 44_100),
    (".ogg", None, 96_000),
    (".opus", None, 8000),
    (".opus", None, 24_000),
    (".opus", None, 48_000),
    (".pcm", None, 16_000),
    (".raw", 24, 16_000),
]


@ffmpeg
@pytest.mark.parametrize(("ending", "bits", "rate"), WRITTEN)
def test_ffmpeg_reads_rate_length_and_loudness(ending, bits, rate, tmp_path):
    path = tmp_path / f"x{ending}"
    audio = resample(LOUD, RATE, rate)
    write_audio(path, audio, rate, provenance(model="m"), bits)
    raw = ["-f", "s24le" if bits == 24 else "s16le", "-ar", rate, "-ac", 1] if ending in RAW else []
    read_rate, lufs, _ = ffmpegs_meter(path, *map(str, raw))
    assert read_rate == (48_000 if ending == ".opus" else rate)
    assert lufs == pytest.approx(-16, abs=0.5)
    read = by_ffmpeg(path, *raw)
    wanted = len(audio) * read_rate // rate
    assert len(read) == pytest.approx(wanted, abs=0.04 * rate if ending == ".ogg" else 0)
    read = resample(read, read_rate, rate)[: len(audio)]
    assert np.corrcoef(read, audio[: len(read)])[0, 1] > 0.95  # in time, too: speech moved by 1 ms has 0.4


@sox
@pytest.mark.parametrize(("ending", "bits", "rate"), [one for one in WRITTEN if one[0] not in (".mp3", ".opus")])
def test_sox_reads_rate_and_length(ending, bits, rate, tmp_path):
    path = tmp_path / f"x{ending}"
    audio = resample(LOUD, RATE, rate)
    write_audio(path, audio, rate, bits=bits)
    raw = ["-t", "raw", "-e", "signed", "-b", bits or 16, "-r", rate, "-c", 1] if ending in RAW else []
    read = by_sox(path, *raw)
    assert len(read) == len(audio)
    assert loudness(read, rate) == pytest.approx(-16, abs=0.5)
    if not raw:
        assert int(subprocess.check_output(["soxi", "-r", path])) == rate


def test_more_bits_hold_more():
    quiet = noise(0.1, RATE, 1e-5)
    for bits, error in ((16, 2**-15), (24, 2**-23), ("float", 0)):
        for ending in (".wav", ".flac") if bits != "float" else (".wav",):
            read, _ = soundfile.read(io.BytesIO(audio_bytes(quiet, RATE, ending, bits=bits)), dtype="float32")
            assert np.abs(read - quiet).max() <= error
            assert (np.abs(read - quiet).max() > error / 4) == (bits != "float")
    over = np.array([2, -2, 0.5], np.float32)
    read = {bits: soundfile.read(io.BytesIO(audio_bytes(over, RATE, bits=bits)))[0] for bits in (16, 24, "float")}
    np.testing.assert_array_equal(read["float"], over)
    for bits in (16, 24):
        np.testing.assert_allclose(read[bits], [1, -1, 0.5], atol=1e-4)


def test_raw_samples_are_little_endian_and_alone():
    assert audio_bytes(SAID, RATE, ".pcm", {"title": "x"}) == to_pcm16(SAID).astype("<i2").tobytes()
    assert audio_bytes(SAID, RATE, ".RAW", bits="float") == SAID.astype("<f4").tobytes()
    assert audio_bytes(np.zeros(0), RATE, ".pcm") == b""


def test_what_a_format_cannot_hold_is_said_with_what_it_can(tmp_path):
    for ending, rate, held in (
        (".mp3", 96_000, r"MP3 cannot hold audio at 96000 Hz; resample it to one of 8000, 11025, .*48000, or"),
        (".opus", 22_050, r"OPUS cannot hold audio at 22050 Hz; .* 8000, 12000, 16000, 24000, 48000, or"),
        (".wav", 4000, r"WAV cannot hold audio at 4000 Hz; .* 8000 to 96000"),
    ):
        with pytest.raises(ValueError, match=held):
            check_ending(f"x{ending}", rate)
        with pytest.raises(ValueError, match=held):
            write_audio(tmp_path / f"x{ending}", SAID, rate)
    for ending, bits, held in ((".flac", "float", "16, 24"), (".opus", 16, "none to choose"), (".wav", 32, "'float'")):
        for ask in (check_ending, lambda path, *given: audio_bytes(SAID, given[0], path[1:], bits=given[1])):
            with pytest.raises(ValueError, match=f"has no {bits!r} bits: it has .*{held}"):
                ask(f"x{ending}", RATE, bits)
    assert list(tmp_path.iterdir()) == []
    for ending in FORMATS | RAW:
        for rate in RATES.get(ending, (8000, 11_025, 96_000)):
            check_ending(f"x{ending}", rate)
            assert len(audio_bytes(np.zeros(rate // 10), rate, ending)) > 90


@pytest.mark.parametrize(("ending", "bits", "rate"), WRITTEN)
def test_pieces_make_the_file_that_the_whole_makes(ending, bits, rate, tmp_path):
    audio = resample(LOUD, RATE, rate)
    with audio_writer(tmp_path / f"x{ending}", rate, provenance(model="m"), bits) as write:
        for piece in np.split(audio, [0, 1, 777, 778]):
            write(piece)
    whole = audio_bytes(audio, rate, ending, provenance(model="m"), bits)
    if ending in (".ogg", ".opus"):  # a stream has a number of its own, and its pages are summed with it
        written, known = (soundfile.read(file)[0] for file in (tmp_path / f"x{ending}", io.BytesIO(whole)))
        np.testing.assert_array_equal(written, known)
    else:
        assert (tmp_path / f"x{ending}").read_bytes() == whole


def test_a_file_that_is_not_written_to_its_end_is_not_there(tmp_path):
    def interrupted():
        with audio_writer(tmp_path / "x.wav", RATE) as write:
            write(SAID)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ValueError, match="MP3 has no empty files"), audio_writer(tmp_path / "x.mp3", RATE) as write:
        write(SAID[:0])
    for wrong in (np.zeros((2, 2)), np.array([np.nan])):
        with pytest.raises(ValueError, match="finite samples"), audio_writer(tmp_path / "x.wav", RATE) as write:
            write(wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [RATE, 8000, 44_100])
def test_pieces_are_resampled_as_the_whole(rate):
    pieces = list(resample_pieces(np.split(SAID, [0, 1, 999, 20_000]), RATE, rate))
    np.testing.assert_array_equal(np.concatenate(pieces), resample(SAID, RATE, rate))
    assert len(pieces[3]) > 0  # they come out on the way


@given(st.lists(st.integers(0, 3000), max_size=6), st.booleans())
@some
def test_a_stream_is_its_pieces_after_one_header(sizes, with_header):
    file = io.BytesIO()
    stream = WavStream(file, RATE, provenance(model="m")) if with_header else PcmStream(file)
    at = len(file.getvalue())
    for number, size in enumerate(sizes):
        stream.write(SAID[number : number + size])
        assert len(file.getvalue()) == at + 2 * sum(sizes[: number + 1])
    whole = np.concatenate([SAID[:0], *(SAID[number : number + size] for number, size in enumerate(sizes))])
    assert file.getvalue()[at:] == to_pcm16(whole).astype("<i2").tobytes()
    assert (at > 44) == with_header
    if with_header:
        file.seek(0)
        assert json.loads(read_metadata(file)["comment"])["model"] == "m"
        file.seek(0)
        assert soundfile.info(file).frames == sum(sizes)


@pytest.mark.parametrize("reader", [pytest.param("ffmpeg", marks=ffmpeg), pytest.param("sox", marks=sox)])
@pytest.mark.parametrize("header", [True, False])
def test_a_piped_stream_is_read_to_its_end(reader, header):
    file = io.BytesIO()
    stream = WavStream(file, RATE, provenance(model="m")) if header else PcmStream(file)
    for piece in np.array_split(SAID, 7):
        stream.write(piece)
    if reader == "ffmpeg":
        kind = [] if header else ["-f", "s16le", "-ar", RATE]
        command = ["ffmpeg", "-v", "quiet", *kind, "-i", "-", "-f", "f32le", "-"]
    else:
        kind = ["-t", "wav"] if header else ["-t", "raw", "-e", "signed", "-b", 16, "-r", RATE, "-c", 1]
        command = ["sox", *kind, "-", "-t", "f32", "-"]
    np.testing.assert_allclose(decoded(*command, stdin=file.getvalue()), SAID, atol=1e-4)


def test_a_piece_is_out_when_it_is_written(tmp_path):
    with (tmp_path / "x.wav").open("wb") as file:
        stream = WavStream(file, RATE)
        stream.write(SAID[:10])
        assert (tmp_path / "x.wav").stat().st_size == 44 + 20


def test_a_stream_takes_samples_alone():
    for wrong in (np.zeros((2, 2)), np.array([np.nan])):
        with pytest.raises(ValueError, match="finite samples"):
            WavStream(io.BytesIO(), RATE).write(wrong)


@pytest.mark.parametrize(("low", "high"), [(8000, 24_000), (22_050, 24_000), (24_000, 44_100), (24_000, 96_000)])
def test_resampling_neither_folds_nor_mirrors(low, high):
    """What the lower rate cannot hold is gone after a step down, and nothing comes in there by a step up."""

    def level(frequency, from_rate, to_rate):
        tone = resample(np.sin(2 * np.pi * frequency / from_rate * np.arange(from_rate)), from_rate, to_rate)
        return 10 * np.log10(2 * np.mean(tone[to_rate // 4 : -to_rate // 4].astype(float) ** 2))

    for frequency in np.linspace(0.505 * low, 0.495 * high, 5):
        assert level(frequency, high, low) < -100
    for frequency in np.linspace(0.01 * low, 0.45 * low, 5):
        assert level(frequency, high, low) == pytest.approx(0, abs=0.02)
        assert level(frequency, low, high) == pytest.approx(0, abs=0.02)
    power = np.abs(np.fft.rfft(resample(noise(2, low, 0.2), low, high) * np.hanning(2 * high))) ** 2
    assert 10 * np.log10(power[round(1.01 * low) :].sum() / power.sum()) < -100  # bins of half a hertz


@ffmpeg
@pytest.mark.parametrize("rate", [8000, 24_000, 48_000])
@pytest.mark.parametrize("seconds", [0.45, 1.5, 3.0])
def test_loudness_and_peaks_are_those_that_ffmpeg_finds(rate, seconds, tmp_path):
    audio = 0.5 * speech(seconds, rate, seed=3)
    write_audio(tmp_path / "x.wav", audio, rate, bits="float")
    _, lufs, peak = ffmpegs_meter(tmp_path / "x.wav")
    assert loudness(audio, rate) == pytest.approx(lufs, abs=0.15)
    assert true_peak(audio, rate) == pytest.approx(peak, abs=0.15)


@ffmpeg
@pytest.mark.parametrize("target", [-30.0, -23.0, -16.0, -14.0])
def test_the_target_is_met_under_the_peak(target, tmp_path):
    for number, audio in enumerate((SAID, 0.01 * SAID, SAID + 0.3 * np.roll(SAID, 999))):
        found = to_loudness(audio, RATE, target, -2.0)
        write_audio(tmp_path / "x.wav", found.audio, RATE, bits="float")
        _, lufs, peak = ffmpegs_meter(tmp_path / "x.wav")
        assert (lufs, peak) == pytest.approx((found.loudness, found.true_peak), abs=0.15), number
        assert lufs == pytest.approx(target, abs=0.2), number
        assert peak <= -1.9


def test_below_the_peak_loudness_is_a_gain_alone():
    found = to_loudness(SAID, RATE, -30.0)
    ratio = found.audio @ SAID / (SAID @ SAID)
    np.testing.assert_allclose(found.audio, ratio * SAID, atol=1e-6)
    assert 20 * np.log10(ratio) == pytest.approx(-30 - loudness(SAID, RATE), abs=0.01)


def test_a_loud_tone_is_limited_without_distortion():
    time = np.arange(2 * RATE) / RATE
    swelling = np.sin(2 * np.pi * 200 * time) * (1 - 0.6 * np.cos(2 * np.pi * time))
    found = to_loudness(swelling, RATE, -6.0)
    power = np.abs(np.fft.rfft(found.audio * np.hanning(len(found.audio)))) ** 2
    elsewhere = power.sum() - power[2 * 170 : 2 * 230].sum()
    assert found.true_peak == pytest.approx(-1, abs=0.1)
    assert 10 * np.log10(elsewhere / power.sum()) < -65  # clipped, it is above -20; by a gain in steps, -55


def test_peaks_between_samples_count():
    """A tone at a quarter of the rate can have no sample at its crest."""
    tone = np.sin(np.pi / 2 * np.arange(RATE) + np.pi / 4)
    assert np.abs(tone).max() == pytest.approx(0.5**0.5)
    inside = tone * np.hanning(RATE)
    assert true_peak(inside, RATE) == pytest.approx(0, abs=0.05)
    assert true_peak(to_loudness(inside, RATE, -3.0).audio, RATE) <= -0.99


def test_clicks_in_silence_stay_quiet_and_it_is_said():
    clicks = 1e-4 * np.sin(np.arange(RATE))
    clicks[::4000] = 0.5
    found = to_loudness(clicks, RATE, -10.0)
    raised = 20 * np.log10(np.abs(found.audio[1800:2200]).max() / np.abs(clicks[1800:2200]).max())
    assert raised == pytest.approx(-1 + 12 - true_peak(clicks, RATE), abs=0.1)  # and no more than that
    assert found.loudness < -12
    assert found.loudness == pytest.approx(loudness(found.audio, RATE))
    assert found.true_peak == pytest.approx(-1, abs=0.1)


def test_loudness_by_windows_is_that_of_the_whole(monkeypatch):
    """Of audio on disk too; peaks beside the edges of a window are lowered on both sides of it."""
    audio = np.tile(SAID, 40)  # 65 s: three windows
    audio[[30 * RATE - 1, 30 * RATE, 60 * RATE - 100]] = 0.9
    audio[31 * RATE : 45 * RATE] *= 0.01  # under the gate
    by_windows = to_loudness(audio, RATE, -14.0), loudness(audio, RATE), true_peak(audio, RATE)
    with SampleFile() as file:
        for piece in np.array_split(audio, 9):
            file.append(piece)
        np.testing.assert_array_equal(file[:], audio)
        np.testing.assert_array_equal(file[777:999], audio[777:999])
        pieces = list(leveled(file, RATE, -14.0))
    assert max(len(piece) for piece in pieces) == 30 * RATE
    np.testing.assert_array_equal(np.concatenate(pieces), by_windows[0].audio)
    monkeypatch.setattr(loudness_module, "_WINDOW", 1000)
    at_once = to_loudness(audio, RATE, -14.0), loudness(audio, RATE), true_peak(audio, RATE)
    np.testing.assert_allclose(by_windows[0].audio, at_once[0].audio, atol=1e-5)
    assert by_windows[0][1:] == pytest.approx(at_once[0][1:], abs=1e-4)
    assert by_windows[1:] == pytest.approx(at_once[1:], abs=1e-4)
    assert by_windows[0].loudness == pytest.approx(loudness(by_windows[0].audio, RATE), abs=1e-3)
    assert by_windows[0].true_peak == pytest.approx(true_peak(by_windows[0].audio, RATE), abs=1e-3)


def test_loudness_is_that_of_pyloudnorm():
    for rate in (8000, 11_025, 24_000, 44_100):
        audio = np.tile(resample(SAID, RATE, rate), 25)[: 31 * rate]
        assert loudness(audio, rate) == pytest.approx(
            pyloudnorm.Meter(rate, "DeMan").integrated_loudness(audio), abs=0.01
        )


def test_silence_and_short_sounds_have_a_loudness():
    for silent in (np.zeros(0), np.zeros(100), np.zeros(RATE)):
        found = to_loudness(silent, RATE)
        assert (found.loudness, found.true_peak) == (-np.inf, -np.inf)
        np.testing.assert_array_equal(found.audio, silent)
    tone = 0.1 * np.sin(2 * np.pi * 997 / RATE * np.arange(RATE))
    assert loudness(tone, RATE) == pytest.approx(-23, abs=0.1)  # by BS.1770 at 48 kHz: -3.01 LUFS at full scale
    for seconds in (0.05, 0.1, 0.39, 0.4, 0.41):
        assert loudness(tone[: int(seconds * RATE)], RATE) == pytest.approx(-23, abs=0.5)
        assert to_loudness(tone[: int(seconds * RATE)], RATE).loudness == pytest.approx(-16, abs=0.1)


@given(st.integers(1, 30_000), st.floats(-80, 12), st.sampled_from([8000, 24_000, 44_100]), st.integers(0, 99))
@some
def test_whatever_comes_is_finite_and_under_the_peak(size, decibels, rate, seed):
    audio = 10 ** (decibels / 20) * np.random.default_rng(seed).laplace(size=size) ** 3
    found = to_loudness(audio, rate, -14.0, -1.5)
    assert found.audio.shape == audio.shape
    assert found.audio.dtype == np.float32
    assert true_peak(found.audio, rate) <= -1.4999
    assert found.true_peak == pytest.approx(true_peak(found.audio, rate))


def test_loudness_doors_say_what_is_wrong(monkeypatch):
    for wrong in (np.zeros((2, 2)), np.array([np.nan])):
        for door in (loudness, true_peak, to_loudness, fade, trim_silence):
            with pytest.raises(ValueError, match="finite samples"):
                door(wrong, RATE)
    for given_wrong in ((1.0, -1.0), (-16.0, 0.5), (-99.0, -1.0)):
        with pytest.raises(ValueError, match="-70 to 0 dB"):
            to_loudness(SAID, RATE, *given_wrong)
    with pytest.raises(ValueError, match="0 seconds or more"):
        fade(SAID, RATE, -1.0)
    with pytest.raises(ValueError, match="`below` is negative"):
        trim_silence(SAID, RATE, 3.0)
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    with pytest.raises(ImportError, match=r"pip install 'bark-hf\[longform\]'"):
        loudness(SAID, RATE)


def test_fades_begin_and_end_at_nothing_and_leave_the_middle():
    ones = np.ones(RATE, np.float32)
    faded = fade(ones, RATE, 0.25, 0.5)
    assert (faded[0] < 1e-6, faded[-1] < 1e-6) == (True, True)
    np.testing.assert_array_equal(faded[RATE // 4 : RATE // 2], 1)
    assert (np.diff(faded[: RATE // 4]) > 0).all()
    assert (np.diff(faded[RATE // 2 :]) < 0).all()
    np.testing.assert_array_equal(ones, 1)
    assert fade(ones[:100], RATE, 1, 1).max() < 0.3  # both over all of it
    assert len(fade(ones[:0], RATE, 1, 1)) == 0
    np.testing.assert_allclose(ramp(77) + ramp(77)[::-1], 1, atol=1e-6)


@given(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(-30, 20), st.floats(0, 0.2))
@some
def test_trimming_takes_the_quiet_edges_alone_however_loud(before, after, decibels, keep):
    middle, quiet = noise(0.2, RATE, 0.05), noise(0.5, RATE, 5e-6)
    whole = np.concatenate([quiet[: int(before * RATE)], middle, quiet[: int(after * RATE)]]) * 10 ** (decibels / 20)
    trimmed = trim_silence(whole, RATE, keep=keep)
    wanted = 0.2 + min(keep, before) + min(keep, after)
    assert len(trimmed) / RATE == pytest.approx(wanted, abs=0.021)  # a frame at each edge
    assert np.abs(trimmed).max() == np.abs(whole.astype(np.float32)).max()


def test_nothing_is_left_of_silence_and_levels_are_decibels():
    assert len(trim_silence(np.zeros(RATE), RATE)) == len(trim_silence(np.zeros(0), RATE)) == 0
    levels = frame_levels(np.r_[np.ones(240), 0.1 * np.ones(240), np.zeros(240), np.ones(120)], RATE)
    np.testing.assert_allclose(levels, [0, -20, -120, 10 * np.log10(0.5)])
    np.testing.assert_array_equal(heard(np.r_[np.ones(240), 0.1 * np.ones(240), np.zeros(240)], RATE, -10), [1, 0, 0])
    assert not heard(np.full(RATE, 1e-4), RATE).any()
