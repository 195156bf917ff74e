"""Speaker similarity: what it must not hear (words, loudness, rate), what it must (who speaks), and its tables."""

import shutil
import subprocess

import numpy as np
import pytest
import torch
from synthetic import noise, speech

from bark_hf import speaker_similarity
from bark_hf.audio import read_audio, resample
from bark_hf.evaluation import median_pitch, nearest_speaker, similarity, speaker_finder
from bark_hf.evaluation.similarity import mfcc_pitch_statistics

RATE = 16_000
SPEAKERS = {
    "low": {"pitch": 95.0, "formants": (500.0, 1200.0, 2300.0)},
    "middle": {"pitch": 130.0, "formants": (600.0, 1500.0, 2600.0)},
    "high": {"pitch": 210.0, "formants": (750.0, 1800.0, 3000.0)},
}
SENTENCES = [
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
    "The boy was there when the sun rose.",
    "A rod is used to catch pink salmon.",
]  # the Harvard sentences' first list and two more
FLITE = ["rms", "slt", "awb", "kal16"]


def said(name, seed, seconds=3.0):
    return speech(seconds, seed=seed, **SPEAKERS[name])


def flite(folder, voice, number):
    path = folder / f"{voice}-{number}.wav"
    subprocess.run(["flite", "-voice", voice, "-t", SENTENCES[number], "-o", path], check=True, timeout=60)
    return read_audio(path)


def test_other_words_of_one_speaker_are_nearer_than_other_speakers():
    references = {name: said(name, 0) for name in SPEAKERS}
    for name in SPEAKERS:
        for seed in (1, 2, 3):
            found, scores = nearest_speaker(said(name, seed), references, RATE)
            assert found == name, scores
            assert list(scores) == list(SPEAKERS)
            assert scores[name] == speaker_similarity(said(name, seed), references[name], RATE)


def test_a_recording_is_like_itself_and_the_order_does_not_matter():
    a, b = said("low", 0), said("high", 0)
    assert speaker_similarity(a, a, RATE) == pytest.approx(1)
    assert speaker_similarity(a, b, RATE) == pytest.approx(speaker_similarity(b, a, RATE))
    assert -1 <= speaker_similarity(a, b, RATE) < 0.9


def test_loudness_channels_offset_and_silence_do_not_count():
    wave = said("middle", 0)
    wanted = mfcc_pitch_statistics(wave, RATE)
    assert wanted.shape == (40,)
    np.testing.assert_allclose(mfcc_pitch_statistics(0.01 * wave + 0.1, RATE), wanted, atol=0.02)
    np.testing.assert_allclose(mfcc_pitch_statistics(np.stack([wave, wave], axis=1), RATE), wanted, atol=1e-6)
    hum = 0.002 * np.sin(2 * np.pi * 100 * np.arange(3 * RATE, dtype=np.float32) / RATE)
    padded = np.concatenate([np.zeros(RATE, np.float32), hum, wave, noise(2, level=1e-4)])
    np.testing.assert_allclose(mfcc_pitch_statistics(padded, RATE), wanted, atol=0.3)


def test_the_rate_does_not_count():
    wave = said("middle", 0)
    wanted = mfcc_pitch_statistics(wave, RATE)
    for rate in (24_000, 48_000):
        found = mfcc_pitch_statistics(resample(wave, RATE, rate), rate)
        np.testing.assert_allclose(found, wanted, atol=0.3)


@pytest.mark.parametrize("pitch", [80.0, 150.0, 330.0])
def test_the_pitch_is_the_speakers(pitch):
    """An octave error would make a man of a woman."""
    scaled = mfcc_pitch_statistics(speech(3, pitch=pitch), RATE)[38]
    heard = np.exp(scaled * similarity._DEVIATION[38] + similarity._AVERAGE[38])
    assert heard == pytest.approx(pitch, rel=0.05)


@pytest.mark.parametrize("pitch", [95.0, 150.0, 210.0])
def test_the_median_pitch_is_in_hertz(pitch):
    assert median_pitch(speech(2.0, pitch=pitch, seed=1), RATE) == pytest.approx(pitch, rel=0.05)
    with pytest.raises(ValueError, match=r"0\.2 s are needed"):
        median_pitch(noise(1.0), RATE)


def test_blocks_give_what_all_frames_at_once_give(monkeypatch):
    wave = said("low", 0)
    whole = mfcc_pitch_statistics(wave, RATE)
    monkeypatch.setattr(similarity, "_BLOCK", 7)
    np.testing.assert_allclose(mfcc_pitch_statistics(wave, RATE), whole)


def test_an_embedding_of_ones_own_decides():
    seen = []

    def embed(samples, sampling_rate):
        seen.append((samples.shape, samples.dtype, sampling_rate))
        return torch.tensor([[float(samples.mean()), 1.0]], requires_grad=True)

    stereo = np.full((8000, 2), 1.0)
    assert speaker_similarity(stereo, stereo[:, 0], 8000, embed) == pytest.approx(1)
    assert speaker_similarity(stereo, -stereo, 8000, embed) == pytest.approx(0)
    assert set(seen) == {((8000,), np.dtype(np.float32), 8000)}
    assert nearest_speaker(stereo, {"a": -stereo, "b": stereo}, 8000, embed)[0] == "b"
    assert speaker_similarity(stereo, stereo, 8000, lambda samples, rate: [3, 4]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(0, np.float32), r"0\.00 s of voiced speech"),
        (np.zeros(RATE, np.float32), r"0\.00 s of voiced speech"),
        (noise(2, level=0.1), "s of voiced speech, 0.2 s are needed"),
        (np.array([0, np.nan]), "NaN"),
        (np.zeros((2, 9)), "time first"),
    ],
)
def test_what_has_no_voice_is_refused(wave, message):
    with pytest.raises(ValueError, match=message):
        speaker_similarity(said("low", 0), wave, RATE)


def test_references_are_embedded_once_for_many_samples():
    seen = []

    def embed(samples, sampling_rate):
        seen.append(len(samples))
        return [samples[0], 1.0]

    references = {"low": np.full(10, -1.0), "high": np.full(20, 1.0)}
    find = speaker_finder(references, RATE, embed)
    assert [find(np.full(30, value))[0] for value in (2.0, -2.0, 0.5)] == ["high", "low", "high"]
    assert seen == [10, 20, 30, 30, 30]


def test_empty_embeddings_and_references_are_refused():
    wave = said("low", 0)
    with pytest.raises(ValueError, match="at least one"):
        nearest_speaker(wave, {}, RATE)
    for vector in ([0, 0], [], [np.nan, 1]):
        with pytest.raises(ValueError, match="zero, empty or not finite"):
            speaker_similarity(wave, wave, RATE, lambda samples, rate, vector=vector: vector)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flites_voices_are_told_apart(tmp_path):
    references = {voice: flite(tmp_path, voice, 0)[0] for voice in FLITE}
    for voice in FLITE:
        for number in (1, 2):
            assert nearest_speaker(flite(tmp_path, voice, number)[0], references, RATE)[0] == voice


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("flite") and shutil.which("espeak-ng")), reason="needs flite and espeak-ng")
def test_the_tables_are_those_of_the_synthetic_voices(tmp_path, monkeypatch):
    monkeypatch.setattr(similarity, "_AVERAGE", 0)
    monkeypatch.setattr(similarity, "_DEVIATION", 1)
    espeak = [f"m{i}" for i in range(1, 9)] + [f"f{i}" for i in range(1, 6)]
    voices = []
    for voice in FLITE + espeak:
        found = []
        for number, sentence in enumerate(SENTENCES):
            if voice in FLITE:
                found.append(mfcc_pitch_statistics(*flite(tmp_path, voice, number)))
            else:
                path = tmp_path / f"{voice}-{number}.wav"
                subprocess.run(["espeak-ng", "-v", f"en-us+{voice}", "-w", path, sentence], check=True, timeout=60)
                found.append(mfcc_pitch_statistics(*read_audio(path)))
        voices.append(found)
    statistics = np.array(voices)  # (17, 12, 40)
    deviation = np.sqrt(statistics.var(axis=1, ddof=1).mean(axis=0))
    deviation[38] = max(deviation[38], 0.05)
    deviation[[*range(19, 38), 39]] *= 2
    monkeypatch.undo()
    np.testing.assert_allclose(statistics.mean(axis=(0, 1)), similarity._AVERAGE, atol=0.1)
    np.testing.assert_allclose(deviation, similarity._DEVIATION, atol=0.02, rtol=0.1)
