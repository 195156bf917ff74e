"""Cloning: what of a recording is kept, ids and codes that belong together, and the command on files of every kind."""

import io

import numpy as np
import pytest
import soundfile
import torch
from command_line import error, run
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import noise, speech
from transformers import EncodecConfig, HubertConfig

from bark_hf import BarkGenerationConfig, Voice, VoicePresets, clone_voice
from bark_hf.audio import resample, wav_bytes
from bark_hf.cloning import BarkSemanticTokenizer, BarkSemanticTokenizerConfig, encode_voice, prepare_reference
from bark_hf.cloning.clone import aligned
from bark_hf.codec import BarkCodec
from bark_hf.vocabulary import Vocabulary

RATE = 16_000


def recording(seconds=6.0, lead=1.0, tail=0.8, rate=RATE, seed=0):
    """Speech with a second of a quiet room before and some after it."""
    wave = np.concatenate(
        [np.zeros(round(lead * rate)), speech(seconds, rate, seed=seed), np.zeros(round(tail * rate))]
    )
    return (wave + noise(len(wave) / rate, rate)[: len(wave)]).astype(np.float32)


def level(samples):
    return 10 * np.log10(np.square(samples.astype(np.float64)).mean())


@pytest.fixture(scope="module")
def tokenizer():
    """A HuBERT of one layer, 16 wide, with Bark's frames and 200 random ids, those of the small goldens."""
    torch.manual_seed(3)
    hubert = HubertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    config = BarkSemanticTokenizerConfig(
        vocab_size=200, hidden_size=16, num_layers=1, hubert_config=hubert, feature_layer=1
    )
    return BarkSemanticTokenizer(config).eval()


@pytest.fixture(scope="module")
def codec():
    """An EnCodec of random weights, with codebooks from what its encoder makes of speech: no two frames are alike."""
    torch.manual_seed(4)
    config = EncodecConfig(
        num_filters=2, hidden_size=16, codebook_dim=16, codebook_size=64, num_lstm_layers=1, target_bandwidths=[3.6]
    )
    codec = BarkCodec(config).eval()
    with torch.no_grad():
        left = codec.encoder(torch.from_numpy(speech(4, 24_000))[None, None])
        for layer in codec.quantizer.layers:
            layer.codebook.embed.copy_(left[0].T[torch.randperm(left.shape[-1])[:64]])
            left = left - layer.decode(layer.encode(left))
    return codec


@pytest.fixture(scope="module")
def clone(small, tokenizer, codec):
    """`clone_voice` with the tiny networks."""
    return lambda audio, rate: clone_voice(audio, rate, tokenizer, codec, small.model.generation_config)


# ------------------------------------------------------------------------------------------------ the recording


def test_silence_goes_but_for_a_margin():
    samples, report = prepare_reference(recording(), RATE)
    assert report.seconds_given == pytest.approx(7.8)
    assert report.seconds_kept == pytest.approx(6.2, abs=0.05)
    assert report.seconds_kept == len(samples) / RATE
    assert not report.advice
    assert level(samples[: RATE // 20]) < -40  # the margin


def test_a_click_is_no_speech():
    """A mouse click after the last word would keep the silence before it."""
    wave = recording(tail=3.0)
    wave[-1000:-800] = 0.9
    assert prepare_reference(wave, RATE)[1].seconds_kept == pytest.approx(6.2, abs=0.05)


def test_a_steady_sound_is_kept_and_a_hiss_is_not():
    """The threshold stands between noise floor and loudest; there is no room for it where the two are one, and too
    much where the floor is digital silence."""
    steady = np.tile(0.1 * np.sin(2 * np.pi * np.arange(16) / 16), 5 * RATE // 16)
    assert prepare_reference(steady, RATE)[1].seconds_kept == 5
    hissing = np.concatenate([noise(1, level=2e-4), speech(6), np.zeros(RATE, np.float32)])
    assert prepare_reference(hissing, RATE)[1].seconds_kept == pytest.approx(6.2, abs=0.05)


@pytest.mark.parametrize("gain", [0.03, 0.1, 1.0])
def test_speech_is_leveled_and_its_peak_limited(gain):
    samples, report = prepare_reference(gain * speech(6) + 0.01 * gain, RATE)
    assert 10 ** (report.level / 20) == pytest.approx(gain * np.sqrt(np.square(speech(6)).mean()), rel=0.1)
    assert level(samples) == pytest.approx(-20, abs=0.5)
    assert samples.dtype == np.float32
    peaky = speech(6)
    peaky[40_000::20_000] = 6 * np.abs(peaky).max()
    assert np.abs(prepare_reference(peaky, RATE)[0]).max() == pytest.approx(10 ** (-1 / 20), rel=1e-3)


def test_a_long_recording_ends_at_its_last_pause_in_time():
    pause = np.zeros(RATE // 2, np.float32)
    parts = [speech(4, seed=0), pause, speech(5, seed=1), pause, speech(9, seed=2), pause, speech(9, seed=3)]
    samples, report = prepare_reference(np.concatenate(parts), RATE)
    assert report.seconds_kept == pytest.approx(9.6, abs=0.05)  # 4 + 0.5 + 5 and the margin
    assert not report.ends_in_speech
    np.testing.assert_allclose(samples, prepare_reference(np.concatenate(parts[:4]), RATE)[0], atol=1e-5)


def test_where_nobody_pauses_the_first_15_seconds_stay():
    samples, report = prepare_reference(speech(20), RATE)
    assert len(samples) == 15 * RATE
    assert report.ends_in_speech
    early = np.concatenate([speech(3), np.zeros(RATE // 2, np.float32), speech(20)])  # a pause before 7.5 s is no end
    assert prepare_reference(early, RATE)[1].seconds_kept == pytest.approx(15)


@pytest.mark.parametrize(
    ("wave", "rate", "words"),
    [
        (recording(2.0), RATE, ["2.2 s are left"]),
        (recording(14.0), RATE, ["14.2 of 15.8 s are kept"]),
        (recording(10.0, lead=25), RATE, ["10.2 of 35.8 s are kept"]),
        (recording(tail=0), RATE, ["middle of speech"]),
        (np.clip(4 * recording(), -1, 1), RATE, ["clipped: record at a lower level"]),
        (recording() / 20, RATE, ["quiet (-47 dBFS)"]),
        (recording() + noise(7.8, level=0.02, seed=1), RATE, ["only 14 dB below the speech"]),
        (recording(rate=8000), 8000, ["8000 Hz is telephone quality"]),
        (recording(2.0, tail=0, rate=8000), 8000, ["are left", "middle of speech", "telephone"]),
        (recording(rate=44_100), 44_100, []),
    ],
)
def test_the_report_advises(wave, rate, words):
    advice = prepare_reference(wave, rate)[1].advice
    assert len(advice) == len(words), advice
    for word, sentence in zip(words, advice, strict=True):
        assert word in sentence


def test_the_report_measures_clipping_and_noise():
    wave = np.clip(recording(), -0.3, 0.3) / 0.3
    report = prepare_reference(wave, RATE)[1]
    assert report.clipped == pytest.approx(np.mean(np.abs(wave) >= 0.999))
    assert report.clipped > 0.01
    assert prepare_reference(recording(), RATE)[1].noise_floor == pytest.approx(-60, abs=1)
    both = np.stack([wave, 0 * wave], axis=1)  # counted before mixing, which would hide it
    assert prepare_reference(both, RATE)[1].clipped == pytest.approx(report.clipped / 2)


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (np.zeros(0, np.float32), RATE, r"lasts 0\.00 s; a voice needs 1 s"),
        (speech(0.9), RATE, r"lasts 0\.90 s"),
        (np.zeros(5 * RATE, np.float32), RATE, "is silent: it reaches -120 dBFS"),
        (noise(5, level=3e-4), RATE, "is silent"),
        (np.full(5 * RATE, 0.5), RATE, "is silent"),  # an offset is no sound
        (recording(0.6, lead=3), RATE, r"holds 0\.\d\d s of speech; a voice needs 1 s"),
        ((speech(5) * 32767).astype(np.int16), RATE, "finite floats of -1..1; this is int16"),
        (np.append(speech(5), np.float32(np.nan)), RATE, "NaN"),
        (speech(5), 4000, "needs 8000 Hz at least"),
        (np.stack([speech(5), speech(5)]), RATE, "time first"),
    ],
)
def test_what_is_no_speech_is_refused(wave, rate, message):
    with pytest.raises(ValueError, match=message) as caught:
        prepare_reference(wave, rate)
    assert "\n" not in str(caught.value)


def test_single_clicks_are_no_speech():
    wave = np.zeros(10 * RATE, np.float32)
    wave[RATE // 3 :: RATE // 3] = 0.9
    with pytest.raises(ValueError, match=r"silent|0\.00 s of speech"):
        prepare_reference(wave, RATE)


# ------------------------------------------------------------------------------------------------- ids and codes


@given(samples=st.integers(16_000, 16_000 * 15), unpadded=st.booleans(), rate=st.sampled_from([49.9, 50.0]))
@settings(max_examples=200, deadline=None)
def test_ids_and_frames_are_one_stretch_and_end_together(samples, unpadded, rate):
    """Voice refuses other ratios; a drift at the end would make the first words of what is said fall together."""
    vocabulary = Vocabulary.of(BarkGenerationConfig())
    n_semantic = (samples - 400) // 320 + 1 if unpadded else samples // 320  # HuBERT's count; MFCC's
    n_frames = -(-samples * 24_000 // 16_000 // 320)
    ids, frames = aligned(n_semantic, n_frames, 50.0, vocabulary)
    kept, length = ids.stop - ids.start, frames.stop - frames.start
    assert ids.start >= 0
    assert ids.stop <= n_semantic
    assert frames.start >= 0
    assert frames.stop <= n_frames
    assert length == int(kept * 75 / 49.9)
    assert abs(ids.stop / 50 - frames.stop / 75) <= 1 / 75
    assert abs(ids.start / 50 - frames.start / 75) <= 0.03 + 1 / 75
    assert n_semantic - kept <= 3  # not more is lost than must be
    Voice(np.zeros(kept, int), np.zeros((2, length), int), np.zeros((8, length), int))


@given(n_semantic=st.integers(19, 2000), n_frames=st.integers(30, 3000))
@settings(max_examples=200, deadline=None)
def test_any_two_lengths_align(n_semantic, n_frames):
    ids, frames = aligned(n_semantic, n_frames, 50.0, Vocabulary.of(BarkGenerationConfig()))
    assert 0 <= ids.start <= ids.stop <= n_semantic
    assert 0 <= frames.start <= frames.stop <= n_frames
    assert frames.stop - frames.start == int((ids.stop - ids.start) * 75 / 49.9)


def test_clone_voice_warns_with_the_advice(clone):
    with pytest.warns(UserWarning, match="Only 2.2 s are left without silence: 4 to 12 s are better"):
        clone(recording(2.0), RATE)


def test_a_voice_is_the_same_each_time_and_speaks(small, clone):
    wave = recording()
    voice = clone(wave, RATE)
    assert voice == clone(wave.copy(), RATE)
    assert voice != clone(recording(seed=1), RATE)
    assert voice.seconds == pytest.approx(6.2, abs=0.1)
    inputs = small.processor("Hello", voice_preset=voice)
    assert len(small.model.generate(**inputs, seed=1, max_duration=0.5)[0])


def test_the_voice_holds_what_tokenizer_and_codec_say_of_the_end(clone, tokenizer, codec):
    """Ids and codes of one file are cut at the beginning, so that both end where the recording does."""
    wave = recording(rate=24_000)
    samples, _ = prepare_reference(wave, 24_000)
    voice = clone(wave, 24_000)
    ids = tokenizer.encode([resample(samples, 24_000, 16_000)])[0].numpy()
    codes = codec.encode_all([torch.from_numpy(samples)], 8)[0].numpy()
    assert len(np.unique(codes, axis=1).T) > 0.9 * codes.shape[1]  # or it would not matter which are kept
    kept, frames = aligned(len(ids), codes.shape[1], 50.0, Vocabulary.of(BarkGenerationConfig()))
    np.testing.assert_array_equal(voice.semantic_prompt, ids[kept])
    np.testing.assert_array_equal(voice.fine_prompt, codes[:, frames])
    np.testing.assert_array_equal(voice.coarse_prompt, voice.fine_prompt[:2])


def test_a_stand_in_of_three_members_is_a_tokenizer(small, codec):
    class Counting:
        sampling_rate, frame_rate = 8000, 50.0

        def encode(self, waves):
            return [torch.arange(len(wave) // 160) % 200 for wave in waves]

    voice = encode_voice(speech(3), RATE, Counting(), codec, small.model.generation_config)
    assert voice.semantic_prompt[-1] == 149
    known = encode_voice(speech(3), RATE, Counting(), codec, small.model.generation_config, semantic_ids=[7] * 150)
    assert set(known.semantic_prompt) == {7}
    np.testing.assert_array_equal(known.fine_prompt, voice.fine_prompt)
    constants = BarkGenerationConfig(semantic_config={"semantic_vocab_size": 100}, codebook_size=64)
    with pytest.raises(ValueError, match="holds id 149; this model's ids end at 99"):
        encode_voice(speech(3), RATE, Counting(), codec, constants)


def test_decoded_speech_encodes_as_the_codecs_own_round_trip_does(small, tokenizer, codec):
    """A cloned voice agrees with the codes that its audio was made of exactly as far as the codec lets it."""
    codes = codec.encode_all([torch.from_numpy(speech(6, 24_000))], 8)[0]
    wave = codec.decode_all([codes])[0].detach()
    again = codec.encode_all([wave], 8)[0]
    voice = encode_voice(wave.numpy(), 24_000, tokenizer, codec, small.model.generation_config)
    ids = tokenizer.config.count_frames(len(wave) * 2 // 3)
    kept = aligned(ids, codes.shape[1], 50.0, Vocabulary.of(small.model.generation_config))[1]
    own, cloned = again == codes, voice.fine_prompt == codes[:, kept].numpy()
    np.testing.assert_array_equal(cloned, own[:, kept].numpy())
    assert cloned.any()


# --------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folders(small, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return ["--tokenizer", folder, "--model", small.checkpoint]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_clone_writes_what_the_python_api_gives(small, tokenizer, folders, tmp_path, capsys):
    soundfile.write(tmp_path / "me.wav", recording(), RATE, subtype="FLOAT")
    wanted = clone_voice(recording(), RATE, tokenizer, small.model.codec_model, small.model.generation_config)
    for name in ("me.npz", "me.safetensors"):
        assert run("clone", tmp_path / "me.wav", "-o", tmp_path / name, *folders) == 0
        assert Voice.load(tmp_path / name) == wanted
    captured = capsys.readouterr()
    assert captured.out == ""
    said = captured.err.splitlines()
    assert said[0].endswith("6.2 of 7.8 s kept, speech at -21 dBFS, noise floor at -60 dBFS, 0.0% clipped")
    assert "me.npz: me (6.2 s); for --model " in said[1]
    assert names(tmp_path) == ["me.npz", "me.safetensors", "me.wav"]


def test_several_recordings_become_a_bank(folders, tmp_path, capsys):
    paths = [tmp_path / "anna b.wav", tmp_path / "ben.flac"]
    for seed, path in enumerate(paths):
        soundfile.write(path, recording(seed=seed), RATE)
    bank = tmp_path / "both.safetensors"
    assert run("clone", *paths, "-o", bank, *folders) == 0
    assert list(VoicePresets.load(bank)) == ["anna_b", "ben"]
    bank.unlink()
    capsys.readouterr()
    assert "one .safetensors" in error(capsys, "clone", *paths, "-o", tmp_path / "both.npz", *folders)
    assert "no two may be alike" in error(capsys, "clone", paths[0], paths[0], "-o", bank, *folders)
    assert names(tmp_path) == ["anna b.wav", "ben.flac"]


KINDS = {  # container, subtype, rate, channels
    "stereo.wav": ("WAV", "PCM_16", 44_100, 2),
    "phone.wav": ("WAV", "ULAW", 8000, 1),
    "studio.wav": ("WAV", "PCM_24", 96_000, 2),
    "deep.flac": ("FLAC", "PCM_24", 48_000, 1),
    "net.mp3": ("MP3", "MPEG_LAYER_III", 22_050, 2),
    "chat.ogg": ("OGG", "OPUS", 48_000, 1),
}


def test_files_of_every_kind_give_a_voice(folders, tmp_path, capsys):
    for name, (container, subtype, rate, channels) in KINDS.items():
        wave = np.stack([recording(4.0, rate=rate)] * channels, axis=1)
        soundfile.write(tmp_path / name, wave, rate, format=container, subtype=subtype)
    soundfile.write(tmp_path / "loud.wav", np.clip(4 * recording(), -1, 1), RATE)
    bank = tmp_path / "all.safetensors"
    assert run("clone", *(tmp_path / name for name in (*KINDS, "loud.wav")), "-o", bank, *folders) == 0
    assert "% of the samples are clipped" in capsys.readouterr().err
    voices = VoicePresets.load(bank)
    assert sorted(voices) == sorted(["loud", *(name.partition(".")[0] for name in KINDS)])
    assert all(3.8 < voice.seconds < 6.5 for voice in voices.values())
    assert names(tmp_path) == sorted([*KINDS, "loud.wav", "all.safetensors"])


def test_an_hour_is_not_read_whole(folders, tmp_path, capsys):
    path = tmp_path / "hour.wav"
    minute = np.concatenate([recording(9.0), np.zeros(RATE * 60, np.float32)])[: 8000 * 60]
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_U8") as file:
        for _ in range(60):
            file.write(minute)
    assert run("clone", path, "-o", tmp_path / "me.npz", *folders) == 0
    assert "of 60.0 s kept" in capsys.readouterr().err
    assert names(tmp_path) == ["hour.wav", "me.npz"]


def test_what_is_no_voice_is_said_in_one_sentence_and_leaves_no_file(small, folders, tmp_path, capsys):
    whole = wav_bytes(recording(), RATE)
    nan = io.BytesIO()
    soundfile.write(nan, np.append(speech(3), np.float32(np.nan)), RATE, format="WAV", subtype="FLOAT")
    contents = {
        "empty.wav": (b"", "no audio file"),
        "broken.wav": (whole[:20], "no audio file"),
        "text.mp3": (b"la la la " * 99, "no audio file"),
        "short.wav": (whole[:9000], "lasts 0.28 s"),
        "silent.wav": (wav_bytes(np.zeros(RATE * 3), RATE), "is silent"),
        "word.wav": (wav_bytes(recording(0.5), RATE), "of speech; a voice needs 1 s"),
        "nan.wav": (nan.getvalue(), "NaN"),
    }
    voice = tmp_path / "me.npz"
    for name, (data, message) in contents.items():
        (tmp_path / name).write_bytes(data)
        said = error(capsys, "clone", tmp_path / name, "-o", voice, *folders)
        assert message in said
        assert name in said
    assert "no audio file at" in error(capsys, "clone", tmp_path / "none.wav", "-o", voice, *folders)
    assert "no folder" in error(capsys, "clone", tmp_path / "x.wav", "-o", tmp_path / "no" / "me.npz", *folders)
    assert ".npz or .safetensors" in error(capsys, "clone", tmp_path / "x.wav", "-o", tmp_path / "me.wav", *folders)
    assert names(tmp_path) == sorted(contents)


def test_other_networks_are_refused(small, folders, tmp_path, capsys):
    """transformers would draw the weights that a checkpoint of another kind lacks: a voice of noise."""
    path, voice = tmp_path / "me.wav", tmp_path / "me.npz"
    path.write_bytes(wav_bytes(recording(), RATE))
    for tokenizer, model in ((small.checkpoint, small.checkpoint), (folders[1], folders[1])):
        assert run("clone", path, "-o", voice, "--tokenizer", tokenizer, "--model", model) == 1
        assert "its model_type is 'bark" in capsys.readouterr().err.splitlines()[-1]
    assert run("clone", path, "-o", voice, "--tokenizer", "nobody/nothing", "--model", small.checkpoint) == 1
    assert "nobody/nothing cannot be loaded" in capsys.readouterr().err
    assert run("clone", path, "-o", voice, "--model", small.checkpoint) == 2
    assert "--tokenizer" in capsys.readouterr().err
    assert names(tmp_path) == ["me.wav"]


def test_an_interruption_leaves_no_file(folders, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    path = tmp_path / "me.wav"
    path.write_bytes(wav_bytes(recording(), RATE))
    for owner, name in ((BarkCodec, "encode_all"), (type(tmp_path), "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupt)
            assert run("clone", path, "-o", tmp_path / "me.npz", *folders) == 130
    assert names(tmp_path) == ["me.wav"]


def test_help_asks_for_consent_and_shows_an_example(capsys):
    assert run("clone", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "clone only people who agreed" in said
    assert "bark-hf clone me.wav" in said
