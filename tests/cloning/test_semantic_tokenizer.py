"""The semantic tokenizer: against transformers' whole HuBERT and restated quantizers; alone, batched, in windows."""

import json
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import HubertConfig, HubertForCTC, HubertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor
from transformers.audio_utils import mel_filter_bank

from bark_hf import BarkSemanticTokenizer, BarkSemanticTokenizerConfig
from bark_hf.cloning.modeling_semantic_tokenizer import sample_rows, windows
from bark_hf.convert import convert_semantic_tokenizer

SCRIPT = Path(__file__).parents[2] / "conversion" / "convert_semantic_tokenizer.py"
LAYER = 3


def hubert_config(**changed) -> HubertConfig:
    """HuBERT base's convolutions, kernels and strides, very narrow; four layers."""
    sizes = {"conv_dim": (6,) * 7, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    return HubertConfig(**{**sizes, **changed})


def made_up_hubert(folder: Path, **changed) -> HubertModel:
    model = HubertModel(hubert_config(**changed)).eval()
    with torch.no_grad():
        for weight in model.parameters():  # fresh norms are all ones: others show which of them is applied
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    """(folder, model) of a random HuBERT."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    return folder, made_up_hubert(folder)


def quantizer_state(version=0, inputs=16, hidden=12, outputs=20, middle=24) -> dict:
    """A random quantizer under the community's names, of large weights: ids change from frame to frame."""
    parts = {"lstm": nn.LSTM(inputs, hidden, 2), "fc": nn.Linear(middle if version == 1 else hidden, outputs)}
    if version == 1:
        parts["intermediate"] = nn.Linear(hidden, middle)
    state = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    return {name: value * (3 if "weight" in name else 0.2) for name, value in state.items()}


def save_quantizer(path: Path, state: dict, info: dict | str | None = None) -> Path:
    """As the community's files are: a torch archive and, in newer ones, the sizes in a member `.info`."""
    torch.save(state, path)
    if info is not None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{path.stem}/.info", info if isinstance(info, str) else json.dumps(info))
    return path


def info(version=0, **changed) -> dict:
    return {"input_size": 16, "hidden_size": 12, "output_size": 20, "version": version, **changed}


def restated_quantizer(state: dict, features: np.ndarray) -> np.ndarray:
    """(S, D) -> (S, V) logits, by the equations of an LSTM, in float64."""
    w = {name: value.double().numpy() for name, value in state.items()}
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    x = features.astype(np.float64)
    for layer in range(2):
        h = c = np.zeros(w[f"lstm.weight_hh_l{layer}"].shape[1])
        out = []
        for frame in x:
            gates = w[f"lstm.weight_ih_l{layer}"] @ frame + w[f"lstm.bias_ih_l{layer}"]
            gates += w[f"lstm.weight_hh_l{layer}"] @ h + w[f"lstm.bias_hh_l{layer}"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out.append(h)
        x = np.stack(out)
    if "intermediate.weight" in w:
        x = x @ w["intermediate.weight"].T + w["intermediate.bias"]
    return x @ w["fc.weight"].T + w["fc.bias"]


def noise(samples: int, seed=0) -> np.ndarray:
    """A waveform whose color changes over time, so that frames differ."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    carrier = np.sin(2 * np.pi * (200 + 80 * np.sin(7 * time)) * time) * np.sin(3 * time)
    return (0.3 * carrier + 0.1 * random.standard_normal(samples)).astype(np.float32)


def converted(tmp_path, hubert, state, stated=None, **options) -> BarkSemanticTokenizer:
    source = save_quantizer(tmp_path / "quantizer.pth", state, stated)
    folder = convert_semantic_tokenizer(source, hubert[0], tmp_path / "out", LAYER, **options)
    return BarkSemanticTokenizer.from_pretrained(folder)


def mfcc_model(**changed) -> BarkSemanticTokenizer:
    fields = {"features": "mfcc", "quantizer": "kmeans", "vocab_size": 30, **changed}
    return BarkSemanticTokenizer(BarkSemanticTokenizerConfig(**fields)).eval()


# conversion and the community's model


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("stable", [False, True])
def test_converted_saved_and_loaded_it_equals_the_whole_hubert_and_the_restated_quantizer(tmp_path, version, stable):
    """Guards against a wrong layer, the final norm of stable HuBERTs, lost weight-norm tensors, swapped gates."""
    changed = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True} if stable else {}
    source = made_up_hubert(tmp_path / "hubert", **changed)
    state = quantizer_state(version)
    model = converted(tmp_path, (tmp_path / "hubert",), state, info(version))
    wave = noise(20_000)
    with torch.no_grad():
        hidden = source(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
        features, lengths = model.features(torch.from_numpy(wave)[None])
    assert len(hidden) == 5
    assert features.shape == (1, 62, 16)
    assert lengths.tolist() == [62]
    assert len(model.hubert.encoder.layers) == LAYER
    torch.testing.assert_close(features, hidden[LAYER], atol=1e-5, rtol=0)
    wanted = restated_quantizer(state, hidden[LAYER][0].numpy())
    model.save_pretrained(tmp_path / "again")
    for each in (model, BarkSemanticTokenizer.from_pretrained(tmp_path / "again")):
        with torch.no_grad():
            logits = each(torch.from_numpy(wave)[None]).logits
        np.testing.assert_allclose(logits[0].numpy(), wanted, atol=1e-5)
        np.testing.assert_array_equal(each.encode([wave])[0], wanted.argmax(1))
    assert len(set(wanted.argmax(1))) > 1


@pytest.mark.parametrize("version", [0, 1])
def test_a_quantizer_without_info_is_read_by_its_shapes(tmp_path, hubert, version):
    state = quantizer_state(version)
    model = converted(tmp_path, hubert, state)
    assert (model.config.vocab_size, model.config.hidden_size, model.config.num_layers) == (20, 12, 2)
    assert model.config.intermediate_size == (24 if version else None)
    assert (model.sampling_rate, model.frame_rate) == (16_000, 50.0)


def test_half_precision_sources_become_float32(tmp_path, hubert):
    HubertModel.from_pretrained(hubert[0]).half().save_pretrained(tmp_path / "half")
    state = {name: value.half() for name, value in quantizer_state().items()}
    model = converted(tmp_path, (tmp_path / "half",), state)
    assert model.config.hubert_config.dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_hubert_with_a_head_on_top_is_read_too(tmp_path, hubert):
    with_head = HubertForCTC(hubert[1].config)
    with_head.hubert.load_state_dict(hubert[1].state_dict())
    with_head.save_pretrained(tmp_path / "ctc")
    model = converted(tmp_path, (tmp_path / "ctc",), quantizer_state())
    assert all(torch.equal(value, hubert[1].state_dict()[name]) for name, value in model.hubert.state_dict().items())


def refused(tmp_path, match, quantizer, hubert, **options):
    """The conversion fails with one sentence and leaves nothing, not even its hidden working folder."""
    parent = tmp_path / "parent"
    with pytest.raises(ValueError, match=match) as caught:
        convert_semantic_tokenizer(quantizer, hubert, parent / "out", **{"feature_layer": LAYER, **options})
    assert "\n" not in str(caught.value)
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"fc.bias": None}, r"lacks 1 weights, fc\.bias among them"),
        ({"fc.weight": None}, r"not a whole quantizer: KeyError 'fc\.weight'"),
        ({"lstm.weight_ih_l0": None}, "not a quantizer's state dict"),
        ({"lstm.weight_ih_l0": torch.zeros(48)}, "not a whole quantizer"),
        ({"lstm.weight_hh_l1": torch.zeros(48, 13)}, r"other shapes for 1 weights, lstm\.weight_hh_l1"),
        ({"lstm.weight_ih_l0_reverse": torch.zeros(48, 16)}, r"has unknown 1 weights, lstm\.weight_ih_l0_reverse"),
        ({"fc.bias": "text"}, "is no tensor but str"),
    ],
)
def test_a_wrong_quantizer_is_refused(tmp_path, hubert, change, match):
    state = {name: value for name, value in {**quantizer_state(), **change}.items() if value is not None}
    refused(tmp_path, match, save_quantizer(tmp_path / "q.pth", state), hubert[0])


@pytest.mark.parametrize(
    ("stated", "match"),
    [
        (info(output_size=21), "states output_size 21, but its tensors have 20"),
        (info(input_size=768), "states input_size 768, but its tensors have 16"),
        (info(version=1), "states version 1, but its tensors have 0"),
        (info(version=2), "states version 2"),
        ("{", "is not JSON"),
        ("[" * 5000, "is not JSON"),
        ("[]", "must be a JSON object"),
    ],
)
def test_an_info_that_is_wrong_is_refused(tmp_path, hubert, stated, match):
    refused(tmp_path, match, save_quantizer(tmp_path / "q.pth", quantizer_state(), stated), hubert[0])


def test_files_that_are_no_quantizers_are_refused(tmp_path, hubert):
    refused(tmp_path, "There is no quantizer file", tmp_path / "none.pth", hubert[0])
    (tmp_path / "garbage.pth").write_bytes(b"not a checkpoint")
    refused(tmp_path, "cannot be loaded safely", tmp_path / "garbage.pth", hubert[0])
    whole = save_quantizer(tmp_path / "q.pth", quantizer_state(), info())
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:2000])
    refused(tmp_path, "cannot be loaded safely", tmp_path / "cut.pth", hubert[0])
    torch.save(nn.LSTM(2, 2), tmp_path / "code.pth")  # a module: loading it would run code
    refused(tmp_path, "could run code", tmp_path / "code.pth", hubert[0])
    torch.save([1], tmp_path / "list.pth")
    refused(tmp_path, "not a quantizer's state dict", tmp_path / "list.pth", hubert[0])


def test_huberts_that_do_not_fit_are_refused(tmp_path, hubert):
    good = save_quantizer(tmp_path / "q.pth", quantizer_state())
    refused(tmp_path, "is no HuBERT checkpoint", good, tmp_path / "none")
    refused(tmp_path, "has 4 layers, and no layer 5", good, hubert[0], feature_layer=5)
    wide = save_quantizer(tmp_path / "wide.pth", quantizer_state(inputs=17))
    refused(tmp_path, "reads 17 features a frame, .* gives 16", wide, hubert[0])
    Wav2Vec2Config().save_pretrained(tmp_path / "wav2vec2")
    refused(tmp_path, "is a wav2vec2 checkpoint", good, tmp_path / "wav2vec2")
    hubert_config().save_pretrained(tmp_path / "bare")
    refused(tmp_path, "has no weights", good, tmp_path / "bare")
    shutil.copytree(hubert[0], tmp_path / "part")
    weights = load_file(tmp_path / "part" / "model.safetensors")
    del weights["feature_projection.projection.bias"]
    save_file(weights, tmp_path / "part" / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, r"lacks 1 weights of a HuBERT, feature_projection\.projection\.bias", good, tmp_path / "part")


def test_an_existing_folder_is_refused_unless_empty(tmp_path, hubert):
    good = save_quantizer(tmp_path / "q.pth", quantizer_state())
    (tmp_path / "out").mkdir()
    convert_semantic_tokenizer(good, hubert[0], tmp_path / "out", LAYER)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        convert_semantic_tokenizer(good, hubert[0], tmp_path / "out", LAYER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "q.pth"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_the_script_converts_and_says_what_is_wrong(tmp_path, hubert, monkeypatch, capsys):
    good = save_quantizer(tmp_path / "q.pth", quantizer_state(1), info(1))
    command = [str(SCRIPT), str(good), str(hubert[0]), str(tmp_path / "out"), "--feature-layer", "2", "--normalize"]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    config = BarkSemanticTokenizerConfig.from_pretrained(tmp_path / "out")
    assert (config.feature_layer, config.normalize, config.intermediate_size) == (2, True, 24)
    with pytest.raises(SystemExit, match=r"error: .* exists and is not an empty folder"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "wrote" in capsys.readouterr().err


# the networks


@pytest.fixture(scope="module")
def tokenizer(hubert, tmp_path_factory):
    """A converted model of version 1. Do not change it."""
    torch.manual_seed(1)
    return converted(tmp_path_factory.mktemp("tokenizer"), hubert, quantizer_state(1), info(1))


LENGTHS = (9_000, 20_000, 400, 20_000)


@pytest.mark.parametrize("features", ["hubert", "mfcc"])
def test_a_row_never_depends_on_its_neighbors_or_its_pad(tokenizer, features):
    """HuBERT base normalizes over time: a padded row would change. Encoded, each is bit for bit what it is alone."""
    model = tokenizer if features == "hubert" else mfcc_model()
    waves = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    batch = torch.full((4, 20_000), 7.0)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    with torch.no_grad():
        together = model(batch, torch.tensor(LENGTHS))
        for row, wave in enumerate(waves):
            alone = model(torch.from_numpy(wave)[None])
            frames = together.lengths[row]
            assert frames == alone.lengths[0] == model.config.count_frames(len(wave)) == alone.logits.shape[1]
            torch.testing.assert_close(together.logits[row, :frames], alone.logits[0], atol=1e-5, rtol=1e-5)
    for row, ids in enumerate(model.encode(waves)):
        assert (ids.dtype, ids.device.type, ids.is_inference()) == (torch.int64, "cpu", False)
        assert torch.equal(ids, model.encode([waves[row]])[0])
        assert torch.equal(ids, together.logits[row, : together.lengths[row]].argmax(-1))


def test_normalize_is_what_the_feature_extractor_does(tmp_path):
    """Where it matters: HuBERT base's group norm undoes any gain and offset."""
    made_up_hubert(tmp_path / "hubert", feat_extract_norm="layer", conv_bias=True)
    (tmp_path / "other").mkdir()
    state = quantizer_state()
    tokenizer = converted(tmp_path, (tmp_path / "hubert",), state)
    model = converted(tmp_path / "other", (tmp_path / "hubert",), state, normalize=True)
    waves = [3 * noise(9_000) + 1, noise(12_000, 1)]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    normalized = [extractor(wave, sampling_rate=16_000).input_values[0] for wave in waves]
    with torch.no_grad():
        for wave, wanted in zip(waves, normalized, strict=True):
            got = model(torch.from_numpy(wave)[None]).logits
            torch.testing.assert_close(got, tokenizer(torch.from_numpy(wanted)[None]).logits, atol=1e-4, rtol=0)
    for got, wanted in zip(model.encode(waves), tokenizer.encode(normalized), strict=True):
        assert torch.equal(got, wanted)
    assert not torch.equal(model.encode(waves)[0], tokenizer.encode(waves)[0])


def test_features_are_the_same_in_training_mode_and_gradients_pass(tokenizer):
    """HuBERT's dropout, dropped layers and masks would make ids random."""
    model = BarkSemanticTokenizer(tokenizer.config)
    model.load_state_dict(tokenizer.state_dict())
    wave = noise(16_000)
    assert torch.equal(model.train().encode([wave])[0], tokenizer.encode([wave])[0])
    model(torch.from_numpy(wave)[None]).logits.logsumexp(-1).sum().backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is None} == set()


def test_attention_kernels_agree(tokenizer):
    model = BarkSemanticTokenizer(tokenizer.config).eval()
    model.load_state_dict(tokenizer.state_dict())
    wave = torch.from_numpy(noise(16_000))[None]
    outputs = []
    for kernel in ("sdpa", "eager"):
        model.set_attn_implementation(kernel)
        assert model.hubert.config._attn_implementation == kernel
        with torch.no_grad():
            outputs.append(model(wave).logits)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)


def test_bfloat16_loads_and_runs(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    model = BarkSemanticTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert len(model.encode([noise(16_000)])[0]) == 49


def test_audio_comes_in_any_float_form(tokenizer):
    wave = noise(16_000)
    fixed = wave.copy()
    fixed.setflags(write=False)
    forms = [fixed, wave[::-1].copy()[::-1], wave.astype(np.float64), torch.from_numpy(wave).requires_grad_()]
    wanted = tokenizer.encode([wave])[0]
    for ids in tokenizer.encode(forms):
        assert torch.equal(ids, wanted)
    assert tokenizer.encode([]) == []


@pytest.mark.parametrize(
    ("wave", "match"),
    [
        (np.zeros(399, np.float32), "Audio 1 has 399 samples; one frame needs 400, 0.025 s at 16000 Hz"),
        (np.zeros((1, 900), np.float32), r"Audio 1 must be one row of floats, .* got float32 of shape \(1, 900\)"),
        (np.zeros(900, np.int16), "got int16 of shape"),
        ("speech.wav", "must be one row of floats"),
        (torch.full((900,), torch.nan), "Audio 1 holds values that are not finite"),
    ],
)
def test_wrong_audio_is_refused_by_its_place(tokenizer, wave, match):
    with pytest.raises(ValueError, match=match):
        tokenizer.encode([noise(900), wave])


def test_wrong_lengths_are_refused(tokenizer):
    batch = torch.zeros(2, 900)
    for lengths in ([900], [900, 901]):
        with pytest.raises(ValueError, match="`lengths` must be 2 numbers of at most 900 samples"):
            tokenizer(batch, torch.tensor(lengths))
    with pytest.raises(ValueError, match="has 399 samples"):
        tokenizer(batch, torch.tensor([900, 399]))


# long audio


@given(st.integers(0, 400), st.integers(1, 60), st.integers(0, 25))
def test_windows_keep_each_frame_once_with_its_context(total, step, context):
    window = step + 2 * context
    kept = []
    for first, last, keep in windows(total, window, context):
        assert 0 <= first < last <= total
        assert last - first == min(window, total)
        for frame in range(first, last)[keep]:
            assert frame - first >= context or first == 0
            assert last - 1 - frame >= context or last == total
            kept.append(frame)
    assert kept == list(range(total))


def with_windows(model, window: float, context: float) -> BarkSemanticTokenizer:
    """The same weights, other windows."""
    fields = {**model.config.to_dict(), "window_seconds": window, "context_seconds": context}
    changed = BarkSemanticTokenizer(BarkSemanticTokenizerConfig(**fields)).eval()
    changed.load_state_dict(model.state_dict())
    return changed


def test_a_minute_goes_through_hubert_in_bounded_windows(tokenizer):
    """The longest input is a window; the ids are as many as of the whole and mostly the same, since HuBERT sees less.

    Features of this random HuBERT: more alike with more context. What a trained one loses is not known from this."""
    wave = noise(60 * 16_000 + 123)
    model = with_windows(tokenizer, 8, 1)
    seen = []
    hook = model.hubert.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    ids = model.encode([wave])[0]
    hook.remove()
    assert len(seen) == 10
    assert set(seen[:-1]) == {(1, 399 * 320 + 400)}  # 400 frames, the last of them 400 samples wide
    assert seen[-1] == (1, 399 * 320 + 400 + 43)  # and the rest that makes no frame
    whole = with_windows(tokenizer, 61, 1).encode([wave])[0]
    assert len(ids) == len(whole) == 3_000
    assert (ids == whole).float().mean() > 0.9


def test_audio_of_one_window_is_exact(tokenizer):
    wave = noise(40_000)
    assert torch.equal(with_windows(tokenizer, 3, 0.5).encode([wave])[0], tokenizer.encode([wave])[0])


@pytest.mark.parametrize("quantizer", ["kmeans", "lstm"])
def test_windows_of_mfcc_equal_the_whole_and_carry_the_lstm_state(quantizer):
    wave = noise(20 * 16_000 + 77)
    model = mfcc_model(quantizer=quantizer, hidden_size=16, window_seconds=30)
    whole = model.encode([wave])[0]
    assert len(whole) == 1_000
    assert len(set(whole.tolist())) > 2
    assert torch.equal(with_windows(model, 2, 0.2).encode([wave])[0], whole)


# MFCC


def test_mfcc_are_the_textbooks():
    """A frame in the middle: Hann window, power spectrum, mel filters, log, orthonormal DCT; then the deltas."""
    wave = noise(16_000)
    model = mfcc_model(smoothing_width=1, n_deltas=1)
    got = model.features(torch.from_numpy(wave)[None])[0][0].numpy()
    filters = mel_filter_bank(257, 40, 20.0, 8_000.0, 16_000)

    def coefficients(frame):
        start = frame * 320 - 96
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
        power = np.abs(np.fft.rfft(wave[start : start + 512] * hann)) ** 2
        return scipy.fft.dct(np.log(power @ filters), norm="ortho")[:13]

    around = np.stack([coefficients(frame) for frame in range(18, 23)])
    slope = np.polyfit(np.arange(5), around, 1)[0]
    np.testing.assert_allclose(got[20], np.concatenate([around[2], slope]), atol=1e-4)
    assert got.shape == (50, 26)


def test_mfcc_move_with_the_audio():
    """A shift by whole frames shifts the features: no frame depends on where the audio begins."""
    wave = noise(32_000)
    model = mfcc_model()
    features = [model.features(torch.from_numpy(wave[start:])[None])[0][0] for start in (0, 3 * 320)]
    assert [len(each) for each in features] == [100, 97]
    torch.testing.assert_close(features[0][3 + 8 :], features[1][8:], atol=1e-4, rtol=0)
    assert torch.equal(model.encode([wave])[0][11:], model.encode([wave[960:]])[0][8:])


def test_every_silence_is_one_sound():
    """Digital zeros, and the dither of 16-bit samples, must not be different units."""
    dither = np.random.default_rng(0).integers(-1, 2, 16_000) / 32_768
    features = mfcc_model().features(torch.tensor(np.stack([np.zeros(16_000), dither]), dtype=torch.float32))[0]
    assert torch.equal(features[0], features[1])


def test_smoothing_is_a_mean_over_time():
    wave = torch.from_numpy(noise(16_000))[None]
    rough, smooth = (mfcc_model(smoothing_width=w, n_deltas=0).features(wave)[0][0] for w in (1, 3))
    wanted = (rough[:-2] + 2 * rough[1:-1] + rough[2:]) / 4
    torch.testing.assert_close(smooth[1:-1], wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(smooth[0], (3 * rough[0] + rough[1]) / 4, atol=1e-4, rtol=0)


# k-means


def test_the_nearest_centroid_by_brute_force():
    quantizer = mfcc_model().quantizer
    features = 3 * torch.randn(2, 40, 39)
    logits, state = quantizer(features)
    wanted = -(features[:, :, None] - quantizer.centroids).square().sum(-1)
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=0)
    assert torch.equal(logits.argmax(-1), wanted.argmax(-1))
    assert state is None


def test_fit_finds_planted_clusters_and_is_seeded():
    random = np.random.default_rng(0)
    places = 10 * random.standard_normal((30, 39))
    frames = (places[random.integers(30, size=6_000)] + 0.1 * random.standard_normal((6_000, 39))).astype(np.float32)
    quantizer = mfcc_model().quantizer
    distance = quantizer.fit(frames, seed=3, batch_size=1_000)
    assert distance == pytest.approx(39 * 0.01, rel=0.05)
    nearest = torch.cdist(torch.tensor(places, dtype=torch.float32), quantizer.centroids.detach())
    assert nearest.min(1).values.max() < 0.2
    again = mfcc_model().quantizer
    again.fit(frames, seed=3, batch_size=1_000)
    assert torch.equal(again.centroids, quantizer.centroids)


def tones() -> list[np.ndarray]:
    """A second each of six tones in faint noise."""
    time = np.arange(16_000) / 16_000
    pitches = (200, 400, 800, 1_600, 3_200, 6_000)
    return [0.3 * np.sin(2 * np.pi * pitch * time) + noise(16_000, i) / 300 for i, pitch in enumerate(pitches)]


def test_fit_on_audio_tells_sounds_apart_and_survives_saving(tmp_path):
    model = mfcc_model(vocab_size=6, n_deltas=0)
    model.fit(iter(tones()), seed=0)
    features = torch.cat([model.features(torch.from_numpy(wave)[None])[0][0] for wave in tones()])
    torch.testing.assert_close(features.mean(0), torch.zeros(13), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(13), atol=1e-4, rtol=0)
    ids = model.encode(tones())
    assert sorted(one.mode().values.item() for one in ids) == list(range(6))
    assert all((one == one.mode().values).float().mean() > 0.9 for one in ids)
    model.save_pretrained(tmp_path)
    loaded = BarkSemanticTokenizer.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(ids, loaded.encode(tones()), strict=True))
    names = load_file(tmp_path / "model.safetensors").keys()
    assert set(names) == {"mfcc.mean", "mfcc.std", "quantizer.centroids"}


def test_fit_learns_units_of_hubert_features_too(tokenizer):
    fields = {**tokenizer.config.to_dict(), "quantizer": "kmeans", "vocab_size": 8}
    model = BarkSemanticTokenizer(BarkSemanticTokenizerConfig(**fields)).eval()
    waves = [noise(16_000, 5), noise(80_000, 6)]
    assert model.fit(waves) == pytest.approx(model.fit(waves, max_frames=10_000))
    assert len(set(torch.cat(model.encode(waves)).tolist())) > 4


def test_a_fit_that_fails_changes_nothing(monkeypatch, tokenizer):
    model = mfcc_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for waves, match in (([], "no audio"), ([noise(3_200)], "10 frames cannot make 30 units")):
        with pytest.raises(ValueError, match=match):
            model.fit(waves)
    with pytest.raises(ValueError, match="`quantizer` is 'lstm'"):
        tokenizer.fit([noise(16_000)])
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"pip install 'bark-hf\[train\]'"):
        model.fit([noise(16_000)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_sample_of_frames_is_bounded_and_even():
    """A reservoir that favored early or late rows would learn its units from some of the speakers."""
    blocks = [np.full((size, 2), number, np.float32) for number, size in enumerate((700, 300, 1, 999))]
    assert np.array_equal(sample_rows(blocks, 5_000, np.random.default_rng(0)), np.concatenate(blocks))
    drawn = [sample_rows(blocks, 50, np.random.default_rng(seed)) for seed in range(200)]
    assert {rows.shape for rows in drawn} == {(50, 2)}
    shares = np.bincount(np.concatenate(drawn)[:, 0].astype(int), minlength=4) / 10_000
    np.testing.assert_allclose(shares, [0.35, 0.15, 0.0005, 0.4995], atol=0.02)


# configuration


def test_the_config_cuts_a_copy_and_round_trips(tmp_path):
    given = hubert_config()
    config = BarkSemanticTokenizerConfig(hubert_config=given, feature_layer=2, vocab_size=7)
    assert (given.num_hidden_layers, given.hidden_dropout) == (4, 0.1)
    assert (config.hubert_config.num_hidden_layers, config.hubert_config.hidden_dropout) == (2, 0.0)
    config.save_pretrained(tmp_path)
    loaded = BarkSemanticTokenizerConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.feature_size, loaded.samples_per_frame, loaded.min_samples) == (16, 320, 400)


def test_the_defaults_are_the_communitys():
    config = BarkSemanticTokenizerConfig()
    assert (config.feature_size, config.hidden_size, config.vocab_size) == (768, 1024, 10_000)
    assert (config.frame_rate, config.hubert_config.num_hidden_layers, config.normalize) == (50.0, 9, False)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"features": "wavlm"}, "expected one of"),
        ({"quantizer": "vq"}, "expected one of"),
        ({"vocab_size": 0}, r"`vocab_size` \(0\) must be at least 1"),
        ({"intermediate_size": 0}, r"`intermediate_size` \(0\)"),
        ({"feature_layer": 13}, r"`feature_layer` \(13\) must be at most `num_hidden_layers` \(12\)"),
        ({"window_seconds": 4}, r"`window_seconds` \(4\) must exceed twice `context_seconds` \(2.0\)"),
        ({"context_seconds": -1}, "must not be negative"),
        ({"hubert_config": Wav2Vec2Config()}, "must be a HubertConfig, got Wav2Vec2Config"),
        ({"features": "mfcc", "hubert_config": {}}, "`hubert_config` is given but `features` is 'mfcc'"),
        ({"features": "mfcc", "n_mfcc": 41}, r"`n_mfcc` \(41\) must be at most `n_mels` \(40\)"),
        ({"features": "mfcc", "n_deltas": -1}, r"`n_deltas` \(-1\)"),
        ({"features": "mfcc", "smoothing_width": 4}, r"`smoothing_width` \(4\) must be odd"),
        ({"features": "mfcc", "n_fft": 300}, r"`n_fft` \(300\) must be `hop_length` \(320\) or an even number"),
        ({"features": "mfcc", "n_fft": 1024}, "below 960"),
        ({"features": "mfcc", "n_fft": 513}, "even number of samples more"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, match):
    with pytest.raises((ValueError, StrictDataclassError), match=match):
        BarkSemanticTokenizerConfig(**fields)
