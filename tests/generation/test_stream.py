"""Streams: at full look-ahead the samples of `generate`; with less the same coarse codes, sooner; nothing is kept."""

import gc
import weakref

import numpy as np
import pytest
import torch
from transformers import EncodecConfig

from bark_hf.codec import BarkCodec, CodecStream
from bark_hf.generation import stages as generation_stages
from bark_hf.generation import stream as generation_stream

TEXT = "Hello world, this is the music."


def spoken(small, voice=None, text=TEXT, **options):
    """(offline result, the stream's pieces) for the same seed."""
    inputs = small.processor(text, voice_preset=voice)
    keys = ("lookahead", "overlap")
    offline = {name: value for name, value in options.items() if name not in keys}
    out = small.model.generate(**inputs, seed=3, return_dict_in_generate=True, **offline)
    return out, list(small.model.stream(**inputs, seed=3, **options))


# -------------------------------------------------------------------------------------------------------------- codec


@pytest.fixture(scope="module", params=["residual", "conv shortcut", "plain"])
def codec(request):
    torch.manual_seed(1)
    shape = {
        "residual": {"num_residual_layers": 2, "use_conv_shortcut": False, "upsampling_ratios": [4, 2, 5]},
        "conv shortcut": {},
        "plain": {"num_residual_layers": 0, "upsampling_ratios": [8, 40], "num_lstm_layers": 1},
    }[request.param]
    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_size=32, codebook_dim=16, **shape)
    return BarkCodec(config).eval()


@pytest.mark.parametrize("frames", [1, 6, 7, 8, 50])
@pytest.mark.parametrize("piece", [1, 7, 30])
def test_pieces_of_codes_give_the_samples_of_one_decode(codec, frames, piece):
    codes = torch.randint(0, 32, (8, frames))
    with torch.no_grad():
        (whole,) = codec.decode_all([codes])
    stream = CodecStream(codec)
    pieces = [stream.push(codes[:, i : i + piece]) for i in range(0, frames, piece)]
    made = torch.cat([*pieces, stream.end()])
    assert made.shape == whole.shape
    assert torch.allclose(made, whole, atol=1e-5 * float(whole.abs().max()))


def test_all_but_the_first_frames_are_heard_at_once(codec):
    stream = CodecStream(codec)
    codes = torch.randint(0, 32, (8, 20))
    hop = codec.config.hop_length
    lengths = [len(stream.push(codes[:, :6])), len(stream.push(codes[:, 6:7])), len(stream.push(codes[:, 7:20]))]
    assert lengths == [0, 7 * hop, 13 * hop]
    assert not len(stream.end())


def test_a_codec_that_is_not_causal_is_refused(small):
    codec = BarkCodec(EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16, use_causal_conv=False))
    with pytest.raises(ValueError, match="not causal"):
        CodecStream(codec)


# --------------------------------------------------------------------------------------------- full look-ahead: equal


@pytest.mark.parametrize("voice", [None, "made/short", "made/long"])
def test_full_lookahead_gives_the_samples_of_generate(small, voice):
    out, pieces = spoken(small, voice, lookahead=None)
    made = np.concatenate(pieces)
    assert len(made) == int(out.audio_lengths[0]) > 0
    assert np.allclose(made, out.audio[0].numpy(), atol=1e-5)


def test_full_lookahead_over_several_fine_windows(small):
    """Fails where a window is filled before its last coarse code, or frames leave before their last window."""
    out, pieces = spoken(small, "made/long", lookahead=None, allow_early_stop=False, max_new_tokens=760)
    frames = out.fine_codes[0].shape[1]
    window = small.model.generation_config.fine_acoustics_config.max_fine_input_length
    assert frames > window
    assert len(pieces) >= 2
    assert np.allclose(np.concatenate(pieces), out.audio[0].numpy(), atol=1e-5)


def test_a_lookahead_longer_than_the_text_is_full_too(small):
    out, pieces = spoken(small, "made/short", lookahead=1000.0, max_new_tokens=100)
    assert len(pieces) == 1
    assert np.allclose(pieces[0], out.audio[0].numpy(), atol=1e-5)


# ---------------------------------------------------------------------------------------------------- less look-ahead


def pushed(monkeypatch):
    """The codes that reach the codec's stream."""
    found = []
    push = generation_stream.CodecStream.push

    def recording(self, codes):
        found.append(codes)
        return push(self, codes)

    monkeypatch.setattr(generation_stream.CodecStream, "push", recording)
    return found


@pytest.mark.parametrize("lookahead", [0.0, 0.3])
def test_less_lookahead_keeps_the_coarse_codes_and_comes_in_many_pieces(small, monkeypatch, lookahead):
    found = pushed(monkeypatch)
    out, pieces = spoken(small, "made/short", lookahead=lookahead, allow_early_stop=False, max_new_tokens=200)
    codes = torch.cat(found, dim=1)
    assert len(pieces) > 3
    assert torch.equal(codes[:2], out.coarse_codes[0])
    assert codes.shape == out.fine_codes[0].shape
    assert len(np.concatenate(pieces)) == int(out.audio_lengths[0])
    assert int(codes.max()) < 64


def test_the_first_piece_waits_for_the_lookahead_only(small, monkeypatch):
    found = pushed(monkeypatch)
    spoken(small, lookahead=0.2, allow_early_stop=False, max_new_tokens=200)
    step = small.model.generation_config.coarse_acoustics_config.sliding_window_len // 2
    assert found[0].shape[1] == step - round(0.2 * 75)
    assert sum(one.shape[1] for one in found[:-1]) == sum(one.shape[1] for one in found) - found[-1].shape[1]
    assert all(one.shape[1] == step for one in found[1:-1])


def test_settled_frames_know_what_follows_them(small, monkeypatch):
    """A fine window holds the coarse codes of `lookahead` frames behind the last frame that is taken from it."""
    seen = []
    make = generation_stream.FineWindow

    def recording(model, frames, firsts, vocabulary):
        seen.append(int((frames[0, :, 0] < 64).sum()))
        return make(model, frames, firsts, vocabulary)

    monkeypatch.setattr(generation_stream, "FineWindow", recording)
    found = pushed(monkeypatch)
    spoken(small, lookahead=0.2, allow_early_stop=False, max_new_tokens=200)
    settled = np.cumsum([one.shape[1] for one in found])
    assert [known - taken for known, taken in zip(seen[:-1], settled[:-1], strict=True)] == [15] * (len(seen) - 1)


def test_a_long_stream_moves_its_fine_window_along(small):
    out, pieces = spoken(small, "made/long", lookahead=0.3, allow_early_stop=False, max_new_tokens=760)
    assert len(np.concatenate(pieces)) == int(out.audio_lengths[0])


# ------------------------------------------------------------------------------------------------------------ overlap


def test_overlapping_stages_speak_the_same_semantic_ids(small, monkeypatch):
    jobs = []
    make = generation_stream.SemanticJob

    def recording(*args):
        jobs.append(make(*args))
        return jobs[-1]

    monkeypatch.setattr(generation_stream, "SemanticJob", recording)
    out, pieces = spoken(small, "made/short", overlap=0.5, allow_early_stop=False, max_new_tokens=150)
    assert torch.equal(jobs[0].ids, out.semantic_tokens[0])
    assert len(np.concatenate(pieces)) == int(out.audio_lengths[0])


def test_overlap_hears_the_first_window_before_the_last_semantic_id(small, monkeypatch):
    ids = []
    run = generation_stages.run_jobs
    stream = small.model.stream(
        **small.processor(TEXT), seed=3, overlap=0.5, allow_early_stop=False, max_new_tokens=300, lookahead=0.0,
        progress=lambda one: ids.append(one.stage),
    )  # fmt: skip
    next(stream)
    assert 0 < ids.count("semantic") < 100
    assert sum(map(len, stream)) > 0
    assert ids.count("semantic") == 300
    assert generation_stages.run_jobs is run


@pytest.mark.parametrize("limit", [1, 2, 3, 19, 20, 21, 41])
def test_overlap_ends_where_the_text_ends(small, limit):
    """Whatever the rest after the last whole window: as many samples as offline, none invented."""
    out, pieces = spoken(small, overlap=0.0, lookahead=0.0, allow_early_stop=False, max_new_tokens=limit)
    assert sum(map(len, pieces)) == int(out.audio_lengths[0])


@pytest.mark.parametrize(("window", "length"), [(3, 1), (87, 29), (87, 30), (87, 58)])
def test_overlap_with_odd_windows_ends_where_the_text_ends(small, window, length):
    """A window that ends within a frame once took more ids than the text has, which ended right behind it."""

    def end_there(ids, scores):
        if scores.shape[1] == 248:  # the semantic stage's
            scores[:, 200] = 1e4 if ids.shape[1] == length else -torch.inf
        return scores

    options = {"sliding_window_len": window, "logits_processor": end_there, "min_eos_p": None}
    out, pieces = spoken(small, overlap=0.0, lookahead=0.0, **options)
    assert len(out.semantic_tokens[0]) == length
    assert sum(map(len, pieces)) == int(out.audio_lengths[0])


# -------------------------------------------------------------------------------------------------------------- doors


def test_the_same_seed_gives_the_same_stream(small):
    inputs = small.processor(TEXT)
    first, second = (np.concatenate(list(small.model.stream(**inputs, seed=5))) for _ in range(2))
    assert np.array_equal(first, second)


def test_pieces_are_plain_float32(small):
    piece = next(small.model.stream(**small.processor(TEXT), seed=3))
    assert isinstance(piece, np.ndarray)
    assert piece.dtype == np.float32
    assert piece.ndim == 1


def test_bad_input_is_refused_before_the_first_piece(small):
    stream, inputs = small.model.stream, small.processor(TEXT)
    with pytest.raises(ValueError, match="one text, got 2"):
        stream(**small.processor([TEXT, TEXT]))
    for name in ("lookahead", "overlap"):
        for value in (-0.1, float("nan"), float("inf"), "0.3", True, [0.3]):
            with pytest.raises(ValueError, match=f"`{name}` is in seconds"):
                stream(**inputs, **{name: value})
    with pytest.raises((TypeError, ValueError), match="temperatur"):
        stream(**inputs, temperatur=0.5)


@pytest.mark.parametrize("lookahead", [None, 0.2])
@pytest.mark.parametrize("overlap", [None, 0.3])
def test_progress_tells_of_every_stage(small, lookahead, overlap):
    told = []
    options = {"lookahead": lookahead, "overlap": overlap, "max_new_tokens": 80, "allow_early_stop": False}
    pieces = list(small.model.stream(**small.processor(TEXT), seed=3, progress=told.append, **options))
    for stage in ("semantic", "coarse", "fine", "codec"):
        done = [(one.done, one.total) for one in told if one.stage == stage]
        assert [one for one, _ in done] == sorted({one for one, _ in done}), stage
        assert done[-1][0] == done[-1][1], stage
    assert sum(one.stage == "codec" for one in told) == len(pieces)


def test_a_text_without_speech_is_an_empty_stream_and_a_warning(small):
    def end_at_once(ids, scores):
        scores[:, 200] = 1e4
        return scores

    for overlap in (None, 1.0):
        stream = small.model.stream(**small.processor(TEXT), seed=1, logits_processor=end_at_once, overlap=overlap)
        with pytest.warns(UserWarning, match="ended at once"):
            assert list(stream) == []


@pytest.mark.parametrize("overlap", [None, 0.5])
def test_a_stream_that_is_closed_frees_its_caches(small, overlap, monkeypatch):
    codecs = []
    make = generation_stream.CodecStream

    def recording(codec):
        one = make(codec)
        codecs.append(weakref.ref(one))
        return one

    monkeypatch.setattr(generation_stream, "CodecStream", recording)
    small.model.sessions.clear()
    stream = small.model.stream(**small.processor(TEXT), seed=3, overlap=overlap, max_new_tokens=200)
    next(stream)
    stream.close()
    del stream
    gc.collect()
    assert codecs[0]() is None
    held = [session for _, session in small.model.sessions._free if session.cache.rows.stop]
    assert len(held) <= 1  # the finished semantic stage's own session may be kept for the next call


def test_two_streams_at_once_are_what_each_is_alone(small):
    inputs = [small.processor(text) for text in (TEXT, "the song")]
    alone = [np.concatenate(list(small.model.stream(**one, seed=7))) for one in inputs]
    streams, together = [small.model.stream(**one, seed=7) for one in inputs], [[], []]
    while streams[0] is not None or streams[1] is not None:
        for i, stream in enumerate(streams):
            if stream is not None and (piece := next(stream, None)) is not None:
                together[i].append(piece)
            elif stream is not None:
                streams[i] = None
    for one, pieces in zip(alone, together, strict=True):
        assert np.array_equal(one, np.concatenate(pieces))
