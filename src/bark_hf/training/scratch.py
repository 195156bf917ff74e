"""A Bark from nothing: a tokenizer, semantic units and a codec in, a composite of any size with random stages out.

Knows nothing of training: what it makes is trained by `run`, like any checkpoint. All ids follow from the sizes."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..codec.encodec import BarkCodec
from ..configuration_bark import BarkConfig
from ..generation_configuration_bark import BarkGenerationConfig
from ..modeling_bark import BarkModel
from .timing import look_at_the_moment


@dataclass(frozen=True)
class Size:
    """A stage's network."""

    layers: int
    heads: int
    width: int
    dropout: float = 0.0


@dataclass(frozen=True)
class Windows:
    """How much the stages see at once, in ids and frames; Bark's own by default."""

    text: int = 256  # text ids, and semantic ids of a voice
    semantic: int = 768  # new semantic ids at most
    coarse_semantic: int = 256  # semantic ids in a coarse window
    coarse_history: int = 630  # coarse ids of history in a window
    coarse_step: int = 60  # new coarse ids in a window
    fine: int = 1024  # frames in a fine window
    fine_history: int = 512  # of them history


def new_bark(
    codec: BarkCodec,
    text_vocab_size: int,
    semantic_vocab_size: int,
    semantic_rate_hz: float,
    *,
    semantic: Size,
    coarse: Size,
    fine: Size,
    windows: Windows | None = None,
    n_codebooks: int = 8,
    n_coarse_codebooks: int = 2,
    seed: int = 0,
) -> BarkModel:
    """A `BarkModel` whose stages are random (the coarse one knows the time, see `timing`) and whose codec is given.

    text_vocab_size: ids of the text's tokenizer. semantic_vocab_size and semantic_rate_hz: units, and units a second,
    of the audio's tokenizer. Sample rate, frame rate and codes follow from the codec. Ids are laid out without gaps:
    semantic ids, end, text, its pad, infer; semantic ids, codes, pad, infer; codes, pad.
    Raises ValueError for windows that hold too few ids, and where the codec has fewer codebooks."""
    w, frames = windows or Windows(), codec.config
    if n_codebooks > (most := frames.num_quantizers):
        raise ValueError(f"`n_codebooks` is {n_codebooks}, the codec has {most}.")
    codes, units = frames.codebook_size, semantic_vocab_size
    text_pad = units + 1 + text_vocab_size
    coarse_pad = units + n_coarse_codebooks * codes
    stages: dict[str, Any] = {
        "semantic_config": {
            **_network(semantic, w.text + 1 + w.semantic),
            "input_vocab_size": text_pad + 2,
            "output_vocab_size": units + 1,
        },
        "coarse_acoustics_config": {
            **_network(coarse, w.coarse_semantic + 1 + w.coarse_history + w.coarse_step),
            "input_vocab_size": coarse_pad + 2,
            "output_vocab_size": coarse_pad,
        },
        "fine_acoustics_config": {
            **_network(fine, w.fine),
            "input_vocab_size": codes + 1,
            "output_vocab_size": codes + 1,
            "n_codes_total": n_codebooks,
        },
    }
    torch.manual_seed(seed)
    model = BarkModel(BarkConfig(**stages, codec_config=frames.to_dict()))
    model.codec_model.load_state_dict(codec.state_dict())
    model.generation_config = BarkGenerationConfig(
        semantic_config={
            "max_new_tokens": w.semantic,
            "eos_token_id": units,
            "semantic_vocab_size": units,
            "text_encoding_offset": units + 1,
            "text_pad_token": text_pad,
            "semantic_infer_token": text_pad + 1,
            "max_input_semantic_length": w.text,
            "semantic_rate_hz": semantic_rate_hz,
        },
        coarse_acoustics_config={
            "coarse_semantic_pad_token": coarse_pad,
            "coarse_infer_token": coarse_pad + 1,
            "coarse_rate_hz": frames.frame_rate,
            "n_coarse_codebooks": n_coarse_codebooks,
            "max_coarse_input_length": w.coarse_semantic,
            "max_coarse_history": w.coarse_history,
            "sliding_window_len": w.coarse_step,
        },
        fine_acoustics_config={
            "max_fine_history_length": w.fine_history,
            "max_fine_input_length": w.fine,
            "n_fine_codebooks": n_codebooks,
        },
        sample_rate=frames.sampling_rate,
        codebook_size=codes,
    )
    ratio = model._vocabulary().ratio
    needed = math.floor(w.coarse_history / ratio) + math.ceil(w.coarse_step / ratio)
    if needed > w.coarse_semantic:
        raise ValueError(
            f"`windows.coarse_semantic` ({w.coarse_semantic}) must hold the {needed} semantic ids of "
            f"`windows.coarse_history` and `coarse_step` ({w.coarse_history} + {w.coarse_step} coarse ids)."
        )
    model._checked_generation_config()
    look_at_the_moment(model.coarse_acoustics, w.coarse_semantic, ratio)
    return model.eval()


def _network(size: Size, positions: int) -> dict[str, Any]:
    return {
        "num_layers": size.layers,
        "num_heads": size.heads,
        "hidden_size": size.width,
        "dropout": size.dropout,
        "bias": False,
        "block_size": positions,
    }
