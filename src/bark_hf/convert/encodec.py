"""Reads an original EnCodec state dict: its config from the tensors' shapes, its weights under transformers' names.

Knows nothing of Bark's stages."""

import re
from pathlib import Path

from torch import Tensor
from transformers import EncodecConfig

from .suno import check_tensors, load_pickle


def read_codec(path: Path, sample_rate: int = 24_000) -> tuple[EncodecConfig, dict[str, Tensor]]:
    """An EnCodec `.th` file -> config and weights. Raises ValueError, in a sentence, for a wrong file."""
    if not path.is_file():
        raise ValueError(f"There is no codec file {path}.")
    state = load_pickle(path)
    if not isinstance(state, dict) or "quantizer.vq.layers.0._codebook.embed" not in state:
        raise ValueError(f"{path} is not an EnCodec state dict: it has no quantizer.vq layers.")
    check_tensors(path, state)
    try:
        config = _config(state, sample_rate)
    except KeyError as error:
        raise ValueError(f"{path} is not an EnCodec that Bark can use: it lacks {error}.") from error
    except (IndexError, ArithmeticError, ValueError) as error:
        raise ValueError(f"{path} is not an EnCodec that Bark can use: {error}") from error
    return config, {rename(name): tensor for name, tensor in state.items()}


def rename(name: str) -> str:
    """Original EnCodec's parameter name -> that of `transformers.EncodecModel`."""
    name = re.sub(r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook.", name)
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv|convtr)\.(conv|convtr)\.", ".conv.", name)
    name = name.replace(".weight_g", ".parametrizations.weight.original0")
    return name.replace(".weight_v", ".parametrizations.weight.original1")


def _config(state: dict[str, Tensor], sample_rate: int) -> EncodecConfig:
    if any(name.startswith("decoder") and "model.0.conv.norm" in name for name in state):
        raise ValueError("it has time-group norms (the 48 kHz model); Bark needs the 24 kHz one.")
    quantizers = 1 + max(int(m[1]) for k in state if (m := re.match(r"quantizer\.vq\.layers\.(\d+)\.", k)))
    codebook_size, hidden_size = state["quantizer.vq.layers.0._codebook.embed"].shape
    filters, channels, kernel = state["encoder.model.0.conv.conv.weight_v"].shape
    ratios = [tensor.shape[-1] // 2 for name, tensor in state.items() if name.endswith("convtr.convtr.weight_v")]
    lstm = "decoder.model.1.lstm.weight_ih_l"
    hop = 1
    for ratio in ratios:
        hop *= ratio
    per_codebook = -(-sample_rate // hop) * (codebook_size.bit_length() - 1) / 1000  # kbps of one codebook
    last = max(int(m[1]) for k in state if (m := re.match(r"decoder\.model\.(\d+)\.", k)))
    return EncodecConfig(
        target_bandwidths=sorted({per_codebook * n for n in (2, 4, 8, 16, 32) if n <= quantizers}
                                 | {per_codebook * quantizers}),
        sampling_rate=sample_rate,
        audio_channels=channels,
        hidden_size=hidden_size,
        num_filters=filters,
        upsampling_ratios=ratios,
        kernel_size=kernel,
        last_kernel_size=state[f"decoder.model.{last}.conv.conv.weight_v"].shape[-1],
        residual_kernel_size=state["encoder.model.1.block.1.conv.conv.weight_v"].shape[-1],
        compress=filters // state["encoder.model.1.block.1.conv.conv.weight_v"].shape[0],
        num_lstm_layers=sum(name.startswith(lstm) for name in state),
        codebook_size=codebook_size,
        use_conv_shortcut="encoder.model.1.shortcut.conv.conv.weight_v" in state,
    )  # fmt: skip
