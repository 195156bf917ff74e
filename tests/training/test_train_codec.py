"""Training a codec: what is learnt is what `BarkCodec` says, a killed run goes on, crops are what is on disk."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from synthetic import speech
from transformers import EncodecConfig, TrainerControl, TrainerState
from transformers.audio_utils import mel_filter_bank

from bark_hf.codec import BarkCodec
from bark_hf.training.codec import CodecTrainingArguments, Phases, codec_config, codec_metrics, main, train_codec
from bark_hf.training.codec_network import CodecForTraining, LossWeights, SpectralDistance
from bark_hf.training.crops import Crops, find_recordings

RATE = 16_000


def tiny(**fields) -> EncodecConfig:
    """Frames of 40 samples, 3 codebooks of 8 entries."""
    small = {"num_filters": 4, "upsampling_ratios": [5, 8], "hidden_size": 8, "n_codebooks": 3, "codebook_size": 8}
    return codec_config(RATE, **{**small, **fields})


def waves(count: int = 8, seconds: float = 0.2) -> torch.Tensor:
    return torch.from_numpy(np.stack([speech(seconds, pitch=100 + 20 * i, seed=i) for i in range(count)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six recordings of half a second."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", speech(0.5, pitch=100 + 20 * number, seed=number), RATE)
    return folder


def arguments(output: Path, **options) -> CodecTrainingArguments:
    defaults = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 2, "crop_seconds": 0.2,
                "eval_crops": 4, "use_cpu": True, "disable_tqdm": True, "report_to": "none"}  # fmt: skip
    return CodecTrainingArguments(str(output), **{**defaults, **options})


def quantizing(**options) -> CodecForTraining:
    """A fresh network that has its codebooks."""
    torch.manual_seed(0)
    network = CodecForTraining(tiny(), **options)
    network.scale_layers(waves())
    network.start_quantizing([waves(), waves()])
    return network


def test_the_saved_codec_gives_the_codes_and_the_audio_that_were_trained(tmp_path):
    network = quantizing().train()
    for _ in range(3):
        network(waves())
    audio = waves()
    wanted = network.eval()(audio)
    network.finished().save_pretrained(tmp_path)
    codec = BarkCodec.from_pretrained(tmp_path).eval()
    codes = torch.stack(codec.encode_all(list(audio), 3))
    assert torch.equal(codes, wanted["codes"])
    assert len(codes[:, 0].unique()) > 4
    decoded = torch.stack(codec.decode_all(list(codes)))[:, : audio.shape[1]]
    mel, magnitude, convergence = network.spectral(decoded, audio)
    torch.testing.assert_close(mel, wanted["mel"])
    weights = network.weights
    loss = weights.mel * mel.mean() + weights.magnitude * magnitude.mean() + weights.convergence * convergence
    torch.testing.assert_close(loss + weights.waveform * (decoded - audio).abs().mean(), wanted["loss"])


@pytest.mark.parametrize("n_codebooks", [1, 2, 3, 5, 8, 12, 32])
@pytest.mark.parametrize("codebook_size", [64, 256, 1024])
def test_a_config_has_the_codebooks_that_were_asked_for(n_codebooks, codebook_size):
    """EncodecConfig derives their number from a bandwidth, rounding down; BarkCodec takes each smaller number too."""
    for rate, ratios in ((16_000, [2, 4, 5, 8]), (24_000, [8, 5, 4, 2]), (22_050, [2, 4, 5, 8])):
        config = codec_config(rate, n_codebooks, codebook_size, upsampling_ratios=ratios)
        assert config.num_quantizers == n_codebooks
        assert len(config.target_bandwidths) == n_codebooks


def test_spectral_distances_are_those_of_their_definitions():
    """Half the amplitude: half the target's norm away, and log 2 wherever there is sound; by hand for one size."""
    distance = SpectralDistance(RATE)
    target = waves(2) + 0.05 * torch.randn(2, 3200)
    mel, magnitude, convergence = distance(target / 2, target)
    torch.testing.assert_close(convergence, torch.tensor(0.5))
    torch.testing.assert_close(mel, torch.full((2,), 0.693), rtol=0, atol=0.02)
    torch.testing.assert_close(magnitude, torch.full((2,), 0.693), rtol=0, atol=0.05)
    assert all(part.abs().max() == 0 for part in distance(target, target))
    audio, found = torch.roll(target, 1, 0), []
    for wave in (audio[0], target[0]):
        padded, window = np.pad(wave.numpy(), 256, mode="reflect"), np.hanning(513)[:-1]
        frames = [padded[at : at + 512] * window for at in range(0, 3201, 128)]
        magnitudes = np.abs(np.fft.rfft(frames)).T * 2 / window.sum()
        filters = mel_filter_bank(257, 40, 0.0, RATE / 2, RATE)
        found.append(np.log(filters.T @ magnitudes + 1e-4))
    by_hand = np.abs(found[0] - found[1]).mean()
    assert distance.at(512, audio, target)[0][0].item() == pytest.approx(by_hand, rel=1e-4)


def test_the_encoder_learns_through_the_quantizer_until_it_is_frozen():
    network = quantizing().train()
    books = network.quantizer.codebooks.clone()
    network(waves())["loss"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in network.codec.encoder.parameters())
    assert not torch.equal(network.quantizer.codebooks, books)
    network.zero_grad()
    network.encoder_frozen = True
    books = network.quantizer.codebooks.clone()
    network(waves())["loss"].backward()
    assert all(weight.grad is None for weight in network.codec.encoder.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in network.codec.decoder.parameters())
    assert torch.equal(network.quantizer.codebooks, books)


def test_gradients_pass_the_quantizer_once():
    """The library's own straight-through estimator counts each codebook, eight times the gradient for eight."""
    network = quantizing(weights=LossWeights(commitment=0.0)).train()
    frames = []
    network.codec.encoder.register_forward_hook(lambda module, inputs, output: frames.append(output))
    network.codec.decoder.register_forward_pre_hook(lambda module, inputs: frames.append(inputs[0]))
    loss = network(waves())["loss"]
    encoded, decoded = torch.autograd.grad(loss, frames)
    torch.testing.assert_close(encoded, decoded)


def test_layers_are_scaled_by_data():
    torch.manual_seed(0)
    network = CodecForTraining(tiny())
    before = network.codec.encoder(waves()[:, None]).std()
    network.scale_layers(waves())
    frames = network.codec.encoder(waves()[:, None])
    audio = network.codec.decoder(frames)
    assert before < 0.3
    torch.testing.assert_close(frames.std((0, 2)), torch.ones(8), rtol=0, atol=1e-3)
    torch.testing.assert_close(audio.std(), waves().std(), rtol=1e-3, atol=0)


def test_codebooks_share_a_frame_where_it_is_split():
    """The first tells its first three numbers, the second the next two, the third the others."""
    torch.manual_seed(0)
    network = CodecForTraining(tiny())
    network.scale_layers(waves())
    network.start_quantizing([waves(), waves()], split=[3, 5])
    books = network.quantizer.codebooks
    told = [[bool(part.any()) for part in (book[:, :3], book[:, 3:5], book[:, 5:])] for book in books]
    assert told == [[True, False, False], [False, True, False], [False, False, True]]
    frames = network.codec.encoder(waves()[:, None]).transpose(1, 2)
    codes = network.finished().quantizer.encode(frames.transpose(1, 2), 1e9)
    for book, (a, b) in enumerate([(0, 3), (3, 5), (5, 8)]):
        assert torch.equal(codes[book], torch.cdist(frames[..., a:b], books[book][None, :, a:b]).argmin(-1))


def test_what_is_left_goes_to_the_codebooks_behind_the_parts():
    torch.manual_seed(0)
    network = CodecForTraining(tiny())
    network.scale_layers(waves())
    network.start_quantizing([waves(), waves()], split=[3])
    first, second, third = network.quantizer.codebooks
    told = [[bool(part.any()) for part in (book[:, :3], book[:, 3:])] for book in (first, second, third)]
    assert told == [[True, False], [False, True], [True, True]]


def test_dropped_codebooks_are_there_from_the_start():
    """k-means must see all of them even where every batch drops some."""
    network = quantizing(quantizer_dropout=True).train()
    books = network.quantizer.codebooks
    assert all(len(book.unique(dim=0)) == 8 for book in books)
    used = {int((network(waves(2))["codes"][0, :, 0] >= 0).sum()) for _ in range(12)}
    assert used == {1, 2, 3}


def state(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


@pytest.mark.parametrize("halt", [3, 5], ids=["without quantizer", "with it"])
def test_a_run_that_broke_ends_with_the_same_weights(folder, tmp_path, monkeypatch, halt):
    """Crops, codebooks, dead entries and dropped codebooks are the same as without the break."""
    options = {"quantize_from": 4, "quantizer_dropout": True, "freeze_encoder_from": 0.9}
    wanted = state(train_codec(tiny(), folder, arguments(tmp_path / "whole", **options)).parent)
    on_step_begin, steps = Phases.on_step_begin, []

    def breaks(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if steps == list(range(halt + 1)):
            raise RuntimeError("power cut")
        on_step_begin(self, args, state, control, **kwargs)

    monkeypatch.setattr(Phases, "on_step_begin", breaks)
    with pytest.raises(RuntimeError, match="power cut"):
        train_codec(tiny(), folder, arguments(tmp_path / "broken", **options))
    assert not (tmp_path / "broken" / "model").exists()
    for left in (list(range(halt - 1, 6)), []):  # from the last checkpoint to the end, then nothing to do
        steps.clear()
        found = state(train_codec(tiny(), folder, arguments(tmp_path / "broken", **options)).parent)
        assert steps == left
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_phases_begin_at_their_steps_and_after_a_break_too(tmp_path):
    found = []
    options = arguments(tmp_path, max_steps=10, quantize_from=0.2, freeze_encoder_from=0.5)
    crops = Crops([speech(1.0)], RATE, 3200, 4)
    network = CodecForTraining(tiny())
    for step in (0, 1, 2, 4, 5, 9, 1):
        Phases(crops).on_step_begin(options, TrainerState(global_step=step), TrainerControl(), model=network)
        found.append((bool(network.quantizing), network.encoder_frozen))
    assert found == [(False, False)] * 2 + [(True, False)] * 2 + [(True, True)] * 2 + [(True, False)]


def test_sigterm_leaves_a_checkpoint_from_which_the_same_command_goes_on(folder, tmp_path):
    (tmp_path / "codec.json").write_text(tiny().to_json_string())
    options = {"data": folder, "config": tmp_path / "codec.json", "output_dir": tmp_path / "out", "max_steps": 4,
               "save_steps": 1, "per_device_train_batch_size": 2, "crop_seconds": 0.2, "eval_strategy": "no",
               "use_cpu": True, "disable_tqdm": True, "report_to": "none"}  # fmt: skip
    command = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    code = (
        "import os, signal, sys, torch; torch.set_num_threads(1); from bark_hf.training import codec\n"
        "def kill(self, args, state, control, **kwargs):\n"
        "    if state.global_step == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "codec.Phases.on_step_end = kill; codec.main(sys.argv[1:])"
    )
    killed = subprocess.run([sys.executable, "-c", code, *command], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGTERM
    (tmp_path / "out" / "checkpoint-9").mkdir()  # as if it had been killed while it saved
    result = main(command)
    assert BarkCodec.from_pretrained(result).config.num_quantizers == 3
    report = json.loads((result.parent / "training.json").read_text())
    assert report["recordings"] == 6
    assert report["hours"] == pytest.approx(3 / 3600, abs=1e-3)


def test_a_run_learns_and_measures_what_it_keeps_apart(folder, tmp_path):
    options = {"max_steps": 30, "save_steps": 10, "learning_rate": 5e-3, "per_device_train_batch_size": 4}
    result = train_codec(tiny(), folder, arguments(tmp_path, **options))
    report = json.loads((tmp_path / "training.json").read_text())
    measured = [entry["eval_mel"] for entry in report["log"] if "eval_mel" in entry]
    assert measured[-1] == report["metrics"]["eval_mel"] < 0.9 * measured[0]
    assert all(1 < report["metrics"][f"eval_used_codebook_{k}"] <= 8 for k in range(3))
    assert report["recordings"] == 6
    assert report["hours"] == pytest.approx(2.5 / 3600, abs=1e-3)  # one of six is not trained on
    assert json.loads((result / "preprocessor_config.json").read_text())["sampling_rate"] == RATE


def test_used_entries_are_counted_by_entropy():
    codes = np.zeros((2, 2, 4), dtype=int)
    codes[:, 1] = [0, 1, 2, 3]
    found = codec_metrics(type("Prediction", (), {"predictions": (np.array([1.0, 3.0]), codes)}))
    assert found == pytest.approx({"mel": 2.0, "used_codebook_0": 1.0, "used_codebook_1": 4.0})


def test_crops_are_what_is_on_disk_by_seed_and_number(folder):
    paths = find_recordings(folder)
    assert [path.name for path in paths] == [f"{i}.wav" for i in range(6)]
    crops = Crops(paths, RATE, 1000, 20, seed=1)
    sounds = [soundfile.read(path, dtype="float32")[0] for path in paths]
    found = set()
    for number in range(len(crops)):
        crop = crops[number]["input_values"]
        windows = [np.lib.stride_tricks.sliding_window_view(sound, 1000) for sound in sounds]
        (place,) = [(i, int(at)) for i, w in enumerate(windows) for at in np.flatnonzero((w == crop).all(1))]
        found.add(place)
        assert np.array_equal(crop, Crops(paths, RATE, 1000, 20, seed=1)[number]["input_values"])
        assert not np.array_equal(crop, Crops(paths, RATE, 1000, 20, seed=2)[number]["input_values"])
    assert len({row for row, _ in found}) > 3
    assert len(found) == 20


def test_crops_of_other_rates_channels_and_types(tmp_path):
    wave = np.sin(np.arange(24_000) * 2 * np.pi * 200 / 48_000).astype(np.float32) / 2
    soundfile.write(tmp_path / "stereo.flac", np.stack([wave, -wave / 2], axis=1), 48_000)
    (crop,) = [Crops([tmp_path / "stereo.flac"], RATE, 4000, 1)[0]["input_values"]]
    assert crop.shape == (4000,)
    spectrum = np.abs(np.fft.rfft(crop))
    assert spectrum.argmax() == 50  # 200 Hz
    assert np.abs(crop[500:-500]).max() == pytest.approx(0.125, abs=1e-3)  # the channels' mean
    short = Crops([np.full(10, 16384, np.int16)], RATE, 16, 1)[0]["input_values"]
    assert short.tolist() == [0.5] * 10 + [0.0] * 6


def test_long_recordings_give_more_crops():
    crops = Crops([np.full(900, 0.1), np.full(100, 0.2)], RATE, 10, 200)
    assert sum(crops[i]["input_values"][0] > 0.15 for i in range(200)) in range(8, 36)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"max_steps": -1}, "--max_steps must be"),
        ({"quantize_from": 6}, "--quantize_from must be"),
        ({"freeze_encoder_from": 1.1}, "--freeze_encoder_from must be"),
        ({"eval_share": 1.0}, "--eval_share must be"),
        ({"split": [0]}, "--split must be"),
        ({"split": [4, 4]}, "--split must be"),
    ],
)
def test_wrong_arguments_are_said_in_a_sentence(tmp_path, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        arguments(tmp_path, **wrong)


def test_what_cannot_be_trained_is_said_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="no recordings"):
        find_recordings(tmp_path)
    with pytest.raises(ValueError, match=r"Of 1 recordings --eval_share 0\.05 keeps 1"):
        train_codec(tiny(), [np.zeros(8000, np.float32)], arguments(tmp_path))
    with pytest.raises(ValueError, match=r"--crop_seconds 0\.05 is 800 samples"):
        train_codec(tiny(), [np.zeros(8000, np.float32)] * 30, arguments(tmp_path, crop_seconds=0.05))
    with pytest.raises(ValueError, match=r"a frame of \d+ numbers; \[3, 99\] leaves none"):
        train_codec(tiny(), [np.zeros(8000, np.float32)] * 30, arguments(tmp_path, split=[3, 99]))
    with pytest.raises(ValueError, match="`normalize` False only"):
        CodecForTraining(tiny(normalize=True))
    with pytest.raises(ValueError, match="must equal `hidden_size`"):
        CodecForTraining(tiny(codebook_dim=4))
    (tmp_path / "x.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"x\.wav is not audio"):
        Crops([tmp_path / "x.wav"], RATE, 10, 1)
    with pytest.raises(ValueError, match=r"got \(2, 10\)"):
        Crops([np.zeros((2, 10))], RATE, 10, 1)
    with pytest.raises(ValueError, match="no recordings to take"):
        Crops([], RATE, 10, 1)
