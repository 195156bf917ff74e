"""A codec that starts as a vocoder: it gives back how loud which band was, at once; training goes on from there."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from synthetic import speech
from transformers import EncodecModel

from bark_hf.codec import BarkCodec
from bark_hf.evaluation import median_pitch
from bark_hf.training import codec as training
from bark_hf.training.codec import CodecTrainingArguments, codec_config, train_codec
from bark_hf.training.codec_network import SpectralDistance
from bark_hf.training.codec_vocoder import PITCH_SCALE, SHAPE, Loudness, check_vocoder, start_as_vocoder

RATE = 16_000


def spoken(count: int, seconds: float = 2.0) -> list[torch.Tensor]:
    """Voices of several pitches, loud and soft, with half a second of silence behind them."""
    made = [speech(seconds, pitch=90 + 17 * (i % 9), seed=i) * 10 ** -(i % 3 / 2) for i in range(count)]
    return [torch.from_numpy(np.pad(one, (0, RATE // 2)).astype(np.float32)) for one in made]


@pytest.fixture(scope="module")
def vocoder():
    torch.manual_seed(0)
    codec = EncodecModel(codec_config(**SHAPE)).eval()
    missed = start_as_vocoder(codec, spoken(40))
    return codec, missed


def mel(codec: EncodecModel, wave: torch.Tensor) -> float:
    wave = wave[None, : len(wave) // 320 * 320]
    with torch.no_grad():
        return float(SpectralDistance(RATE)(codec.decoder(codec.encoder(wave[None]))[0], wave)[0])


def test_it_gives_speech_back_without_training(vocoder):
    codec, missed = vocoder
    random = EncodecModel(codec.config).eval()
    new = speech(2.0, pitch=130, seed=99)
    ours, theirs = (mel(one, torch.from_numpy(new).float()) for one in (codec, random))
    assert missed < 0.15
    assert ours < 1.0
    assert ours < theirs / 3


def test_the_encoder_measures_loudness_in_logarithms(vocoder):
    """Ten times quieter: all gains fall by the logarithm of 10, where they are not at the floor."""
    codec, _ = vocoder
    target = Loudness(codec.config, spoken(10))
    wave = spoken(1)[0][:RATE]
    fall = (target.logs(wave) - target.logs(wave / 10)).median()
    assert float(fall) == pytest.approx(np.log(10), rel=0.02)


def test_loudness_can_be_measured_as_a_codec_has_it(vocoder):
    """From the codec alone, and other recordings than it was fitted to."""
    codec, missed = vocoder
    fitted, found = Loudness(codec.config, spoken(40)), Loudness.of(codec, spoken(12)[::-1])
    wave = spoken(20)[19]
    assert float(found.scale) == pytest.approx(float(fitted.scale), rel=1e-4)
    apart = (found.cosines(wave) - fitted.cosines(wave)).square().sum(1).mean()
    assert float(apart) < missed * float(fitted.cosines(wave).var(0).sum())


def test_the_recipe_measures_frames_that_fit_the_codes(vocoder, tmp_path, monkeypatch):
    codec, _ = vocoder
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "from_scratch")
    monkeypatch.delitem(sys.modules, "recipe", raising=False)
    waves, rows = spoken(6), []
    for number, wave in enumerate(waves):
        soundfile.write(tmp_path / f"{number}.wav", wave.numpy(), RATE, subtype="FLOAT")
        codes = torch.arange(8)[:, None] + torch.arange(len(wave) // 320 - number % 2)
        rows.append({"codes": codes.tolist(), "speaker": ".", "source": f"{number}.wav"})
    measured = import_module("train_teacher").with_frames(Dataset.from_list(rows), tmp_path, codec)
    loudness = Loudness.of(codec, waves)
    for row, wave in zip(measured, waves, strict=True):
        codes, frames = torch.tensor(row["codes"]), torch.tensor(row["frames"])
        assert len(frames) == codes.shape[1]
        torch.testing.assert_close(frames[:, :-1], loudness.cosines(wave)[: len(frames)], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(frames[:, -1], codec.quantizer.decode(codes[:, None])[0, -1])


def test_silence_stays_silent(vocoder):
    codec, _ = vocoder
    with torch.no_grad():
        quiet = codec.decoder(codec.encoder(torch.zeros(1, 1, RATE)))[0, 0, 3200:]
    assert float(quiet.square().mean().sqrt()) < 1e-3


@pytest.mark.parametrize("gain", [1.0, 0.3, 0.1])
def test_what_comes_out_is_as_loud_as_what_went_in(vocoder, gain):
    """At every loudness that it was fitted to; a tenth of full scale is the softest."""
    codec, _ = vocoder
    wave = gain * spoken(1)[0][None, None, : RATE // 320 * 320]
    with torch.no_grad():
        out = codec.decoder(codec.encoder(wave))
    assert float(out.std() / wave.std()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("pitch", "given"), [(100, 100), (130, 150), (200, 200)])
def test_a_frames_last_number_gives_the_voice_a_multiple_of_the_frame_rate(vocoder, pitch, given):
    codec, _ = vocoder
    wave = torch.from_numpy(speech(2.0, pitch=137, seed=3)).float()[None, None, : 2 * RATE // 320 * 320]
    with torch.no_grad():
        frames = codec.encoder(wave)
        frames[:, -1] = PITCH_SCALE * np.log(pitch / 130)
        out = codec.decoder(frames)[0, 0].numpy()
    assert median_pitch(out, RATE) == pytest.approx(given, rel=0.01)
    power = np.abs(np.fft.rfft(out * np.hanning(len(out)))) ** 2
    lines = np.fft.rfftfreq(len(out), 1 / RATE)
    on = np.abs((lines + given / 2) % given - given / 2) < 10
    assert power[on].sum() > 0.8 * power.sum()


@pytest.mark.parametrize("pitch", [100, 200])
def test_the_encoder_guesses_the_pitch(vocoder, pitch):
    codec, _ = vocoder
    wave = torch.from_numpy(speech(2.0, pitch=pitch, seed=3)).float()[None, None, : 2 * RATE // 320 * 320]
    with torch.no_grad():
        assert median_pitch(codec.decoder(codec.encoder(wave))[0, 0].numpy(), RATE) == pytest.approx(pitch, rel=0.01)


def test_a_pitch_once_decided_does_not_follow_every_frame(vocoder):
    """A frame or two of another pitch, as a stage may guess them, change nothing."""
    codec, _ = vocoder
    wave = torch.from_numpy(speech(2.0, pitch=100, seed=3)).float()[None, None, : 2 * RATE // 320 * 320]
    with torch.no_grad():
        frames = codec.encoder(wave)
        plain = codec.decoder(frames)
        frames[:, -1, 40:42] = PITCH_SCALE * np.log(200 / 130)
        assert float((codec.decoder(frames) - plain).abs().max()) < 0.05 * float(plain.abs().max())
        frames[:, -1, 40:] = PITCH_SCALE * np.log(200 / 130)
        assert median_pitch(codec.decoder(frames)[0, 0, RATE:].numpy(), RATE) == pytest.approx(200, rel=0.01)


def test_the_same_seed_gives_the_same_codec():
    weights = []
    for _ in range(2):
        torch.manual_seed(1)
        codec = EncodecModel(codec_config(**SHAPE))
        start_as_vocoder(codec, spoken(6))
        weights.append(codec.state_dict())
    assert all(torch.equal(one, weights[1][name]) for name, one in weights[0].items())


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"upsampling_ratios": [8, 40]}, "three causal strides"),
        ({"use_causal_conv": False}, "three causal strides"),
        ({"num_residual_layers": 1}, "`num_residual_layers` 0, got 1"),
        ({"num_lstm_layers": 2}, "`num_lstm_layers` 1, got 2"),
        ({"hidden_size": 1}, "got 1: the last number of a frame is the pitch"),
        ({"num_filters": 16}, "`num_filters` of 32 at least; got 16"),
        ({"upsampling_ratios": [4, 2, 30]}, "got 240"),
    ],
)
def test_shapes_without_room_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_vocoder(codec_config(**{**SHAPE, **wrong}))


def test_one_recording_is_too_few():
    with pytest.raises(ValueError, match="1 of two frames or more is too few"):
        start_as_vocoder(EncodecModel(codec_config(**SHAPE)), [spoken(1)[0], torch.zeros(639)])


def arguments(folder, **options) -> CodecTrainingArguments:
    given = {"max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 2, "crop_seconds": 0.2, "eval_crops": 4,
             "quantize_from": 0, "freeze_encoder_from": 0, "start": "vocoder", "learning_rate": 1e-4,
             "use_cpu": True, "disable_tqdm": True, "report_to": "none"}  # fmt: skip
    return CodecTrainingArguments(str(folder), **{**given, **options})


def test_training_goes_on_from_it_with_the_decoder_alone(tmp_path, monkeypatch):
    starts = []
    begin = training.start_as_vocoder

    def recording(codec, waves):
        begin(codec, waves)
        starts.append({name: one.clone() for name, one in codec.state_dict().items()})

    monkeypatch.setattr(training, "start_as_vocoder", recording)
    waves = [one.numpy() for one in spoken(8)]
    config = codec_config(codebook_size=16, **SHAPE)
    made = BarkCodec.from_pretrained(train_codec(config, waves, arguments(tmp_path))).state_dict()
    (begun,) = starts
    assert all(torch.equal(one, made[name]) for name, one in begun.items() if name.startswith("encoder"))
    assert not all(torch.equal(one, made[name]) for name, one in begun.items() if name.startswith("decoder"))
    train_codec(config, waves, arguments(tmp_path, max_steps=4))
    assert len(starts) == 1, "a run that goes on does not start anew"
    train_codec(config, waves, arguments(tmp_path, max_steps=0))
    assert len(starts) == 2, "a run without steps has nothing to go on from"


def test_without_steps_it_is_quantized_and_saved_as_it_is(tmp_path):
    waves = [one.numpy() for one in spoken(8)]
    config = codec_config(codebook_size=16, **SHAPE)
    codec = BarkCodec.from_pretrained(train_codec(config, waves, arguments(tmp_path, max_steps=0))).eval()
    (codes,) = codec.encode_all([torch.from_numpy(waves[0])], 8)
    assert codes.shape == (8, len(waves[0]) // 320)
    assert len(codes[0].unique()) > 4
    with pytest.raises(ValueError, match="--max_steps must be 1 or more, or 0 with --start vocoder"):
        arguments(tmp_path, max_steps=0, start="random")


def test_an_unknown_start_is_said_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="--start must be one of random, vocoder, got 'x'"):
        arguments(tmp_path, start="x")
