"""Decoding rows of any length: few lengths reach the network, and what comes out is each row's own decode."""

import copy
import io

import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook
from transformers import EncodecConfig

from bark_hf.codec import BarkCodec, CodecStream

SIZES = {"num_filters": 4, "hidden_size": 16, "codebook_size": 32, "codebook_dim": 16}


def made(**config) -> BarkCodec:
    torch.manual_seed(1)
    return BarkCodec(EncodecConfig(**SIZES, **config)).eval()


@pytest.mark.parametrize("kernel", [7, 40])
def test_a_row_decodes_as_the_network_alone_does(kernel):
    codec = made(kernel_size=kernel)
    rows = [torch.randint(0, 32, (8, frames)) for frames in (0, 1, 6, 7, 16, 17, 33, 41, 41, 77, 250)]
    with torch.no_grad():
        waves = codec.decode_all(rows)
        wanted = [codec(audio_codes=row[None])[0] if row.shape[1] else torch.zeros(0) for row in rows]
    for wave, own, row in zip(waves, wanted, rows, strict=True):
        assert wave.shape == own.shape == (320 * row.shape[1],)
        torch.testing.assert_close(wave, own, atol=1e-6, rtol=1e-5)
    assert all(wave.untyped_storage().nbytes() == wave.nbytes for wave in waves), "no wave holds more than itself"


@pytest.mark.parametrize("config", [{"use_causal_conv": False}, {"norm_type": "time_group_norm"}])
def test_a_codec_that_looks_ahead_sees_no_frames_that_are_not_there(config):
    codec = made(**config)
    row = torch.randint(0, 32, (8, 77))
    with torch.no_grad():
        assert torch.equal(codec.decode_all([row])[0], codec(audio_codes=row[None])[0])


def test_texts_of_all_lengths_meet_few_lengths(monkeypatch):
    """A CPU's library keeps what it made for each length, hundreds of megabytes of it in ten minutes of chunks."""
    codec, seen = made(), []
    monkeypatch.setattr(
        BarkCodec,
        "forward",
        lambda self, audio_codes: seen.append(audio_codes.shape[-1]) or torch.zeros(1, 320 * audio_codes.shape[-1]),
    )
    for frames in range(1, 1025):
        (wave,) = codec.decode_all([torch.zeros(8, frames, dtype=torch.long)])
        assert len(wave) == 320 * frames
        assert frames <= seen[-1] <= max(frames, 9 * frames / 8)
    assert len(set(seen)) <= 16 + 8 * 6


def test_the_codec_runs_in_float32_under_autocast(small):
    """It gave bfloat16 audio, of which NumPy has no type, and a stream's pieces met in two types."""
    codec, codes = small.model.codec_model, torch.randint(0, 64, (8, 60))
    inputs = {**small.processor("Hello world"), "seed": 1, "max_new_tokens": 40, "allow_early_stop": False}
    wave = torch.randn(6400)
    wanted, ids = small.model.decode_audio([codes])[0], codec.encode_all([wave], 8)[0]
    with torch.autocast("cpu", torch.bfloat16):
        (made,) = small.model.decode_audio([codes])
        out = small.model.generate(**inputs, return_dict_in_generate=True)
        pieces = list(small.model.stream(**inputs))
        stream = CodecStream(codec)
        streamed = torch.cat([stream.push(codes[:, :20]), stream.push(codes[:, 20:]), stream.end()])
        assert torch.equal(codec.encode_all([wave.double()], 8)[0], ids)
    assert torch.equal(made, wanted)
    torch.testing.assert_close(streamed, wanted, atol=1e-5, rtol=0)
    assert out.audio.dtype == torch.float32
    assert torch.equal(out.audio[0], small.model.decode_audio(out.fine_codes)[0])
    assert {piece.dtype for piece in pieces} == {np.dtype("float32")}
    assert sum(map(len, pieces)) == out.audio.shape[1]


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_whole_model_is_saved_by_torch(small):
    """EncodecModel's weight norms refuse to be pickled."""
    inputs = small.processor("Hello", voice_preset="made/short")
    wanted = small.model.generate(**inputs, seed=1, max_new_tokens=5)
    state = torch.get_rng_state()
    again = saved(small.model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.generate(**inputs, seed=1, max_new_tokens=5), wanted)
    assert {n: p.dtype for n, p in again.state_dict().items()} == {
        n: p.dtype for n, p in small.model.state_dict().items()
    }


@pytest.mark.parametrize("again", [saved, copy.deepcopy])
def test_a_saved_or_copied_codec_is_all_that_it_was(again):
    codec = made().train()
    codec.encoder.requires_grad_(False)
    other = again(codec)
    row = torch.randint(0, 32, (1, 8, 7))
    with torch.no_grad():
        assert torch.equal(other(audio_codes=row), codec(audio_codes=row))
    assert other.training
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in codec.parameters()]
    assert not {p.data_ptr() for p in codec.parameters()} & {p.data_ptr() for p in other.parameters()}
    assert other.config.to_dict() == codec.config.to_dict()


def test_an_offloaded_codec_says_how_it_is_saved():
    codec = made()
    cpu_offload_with_hook(codec, "cpu")
    with pytest.raises(TypeError, match="save_pretrained"):
        torch.save(codec, io.BytesIO())
