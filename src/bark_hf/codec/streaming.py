"""EnCodec's decoder piece by piece: what comes out, joined, is what one decode of all codes gives, to float rounding.

Knows nothing of Bark's stages. Every convolution keeps the end of its input, every transposed one the end of its
output, every LSTM its state (Défossez et al., 2022: the 24 kHz model is causal)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .encodec import BarkCodec, is_offloaded


def check_causal(codec: BarkCodec) -> None:
    """Raises ValueError for a codec that looks ahead or normalizes over time: it cannot decode in pieces."""
    if not codec.is_causal:
        raise ValueError("This model's codec is not causal: it decodes whole utterances only; use `generate`.")


class CodecStream:
    """One utterance's decoding: `push` codes as they come, then `end`; what each returns can be heard at once.

    An offloaded codec has its weights for whole decodes only: everything then comes at the `end`."""

    def __init__(self, codec: BarkCodec):
        check_causal(codec)
        self.codec = codec
        self.steps = [_stateful(layer) for layer in codec.decoder.layers]
        self.needed: float = 1 + max(step.context for step in self.steps if isinstance(step, _Convolution))
        if is_offloaded(codec):
            self.needed = math.inf
        self.waiting: list[Tensor] = []  # until the first convolution can reflect its left edge

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """(K, T) codes, T >= 0 -> (N,) float32: all that they settle; the first few frames are held back."""
        self.waiting.append(codes)
        codes = torch.cat(self.waiting, dim=1)
        if codes.shape[1] < self.needed:
            self.waiting = [codes]
            return _silence()
        self.waiting, self.needed = [], 1
        with self.codec.in_float32():
            found = self.codec.quantizer.decode(codes[:, None].to(self.codec.device))
            for step in self.steps:
                found = step(found)
        return found[0, 0]

    @torch.inference_mode()
    def end(self) -> Tensor:
        """(N,) what was held back: an utterance shorter than the first convolution's reach, or all of it."""
        codes, self.waiting = self.waiting, []
        return self.codec.decode_all([torch.cat(codes, dim=1)])[0] if codes else _silence()


def _silence() -> Tensor:
    return torch.zeros(0, dtype=torch.float32, device="cpu")


class _Convolution:
    """A causal convolution that remembers the last samples of its input."""

    def __init__(self, layer: Any):
        self.conv, self.mode = layer.conv, layer.pad_mode
        self.context = (self.conv.kernel_size[0] - 1) * self.conv.dilation[0] + 1 - self.conv.stride[0]
        self.past: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.past is None:
            x = nn.functional.pad(x, (self.context, 0), mode=self.mode) if self.context else x
        else:
            x = torch.cat([self.past, x], dim=-1)
        self.past = x[..., x.shape[-1] - self.context :]
        return self.conv(x)


class _Upsampling:
    """A transposed convolution that keeps what the next samples still add to."""

    def __init__(self, layer: Any):
        self.conv = layer.conv
        self.tail: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        full = self.conv(x)
        settled = x.shape[-1] * self.conv.stride[0]
        if self.tail is not None:
            full[..., : self.tail.shape[-1]] += self.tail
        self.tail = full[..., settled:] - self.conv.bias[:, None]  # the next piece adds the bias itself
        return full[..., :settled]


class _Memory:
    """EnCodec's LSTM, which is added to its input."""

    def __init__(self, layer: Any):
        self.lstm = layer.lstm
        self.state: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        steps = x.permute(2, 0, 1)
        found, self.state = self.lstm(steps, self.state)
        return (found + steps).permute(1, 2, 0)


class _Residual:
    def __init__(self, layer: Any):
        self.block, self.shortcut = [_stateful(part) for part in layer.block], _stateful(layer.shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        found = x
        for step in self.block:
            found = step(found)
        return self.shortcut(x) + found


def _stateful(layer: Any):
    if hasattr(layer, "lstm"):
        return _Memory(layer)
    if hasattr(layer, "block"):
        return _Residual(layer)
    if hasattr(layer, "conv"):
        return _Upsampling(layer) if isinstance(layer.conv, nn.ConvTranspose1d) else _Convolution(layer)
    return layer
