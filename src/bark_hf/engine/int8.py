"""Int8 linear layers for CPUs: weights in 8 bits for each output, activations in 8 bits for each row, as they come.

A compiled step reads the weights alone and leaves activations as they are. Knows nothing of Bark: it replaces a
module's `nn.Linear`s in place. For other devices use transformers' quantizers."""

import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .cpu import sums_int8_in_16_bits

FEW_ROWS = 32  # up to here a product is bound by reading the weights, beyond by arithmetic: two kernels, two packings
TINY = torch.finfo(torch.float32).tiny
_packing = threading.Lock()  # it sets torch's engine for a moment


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8, symmetric for each output row; inference only, float32 in and out."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp(min=TINY) / 127  # (V,)
        self.weight = (weight / self.scales[:, None]).round().to(torch.int8)  # (V, D)
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self.packed: dict[str, Any] = {}  # by engine, when first needed

    def forward(self, hidden: Tensor) -> Tensor:
        rows = hidden.float().reshape(-1, self.in_features)
        few, many = _engines()
        engine = few if len(rows) <= FEW_ROWS else many
        if engine not in self.packed:
            with _packing:
                if engine not in self.packed:
                    self.packed[engine] = _pack(self, engine)
        if len(rows) == 1:
            output = torch.ops.quantized.linear_dynamic(rows, self.packed[engine], False)
        else:  # it has one scale for all rows: each is brought to 1 first, so that none depends on a louder one
            sizes = rows.abs().amax(1, keepdim=True).clamp(min=TINY)
            ends = torch.tensor([[1.0], [-1.0]], device="cpu").expand(2, self.in_features)
            output = torch.ops.quantized.linear_dynamic(torch.cat([rows / sizes, ends]), self.packed[engine], False)
            output = output[:-2].mul_(sizes)
        if self.bias is not None:
            output = output + self.bias
        return output.view(*hidden.shape[:-1], self.out_features).to(hidden.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, int8"

    def __deepcopy__(self, memo) -> "Int8Linear":
        return self  # never changed after it is made

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        raise TypeError("Int8 layers are made for one machine and are not saved: save before `quantize_int8`.")


def quantize_linears(module: nn.Module) -> int:
    """Replaces every `nn.Linear` below `module` by its int8 version; returns how many."""
    replaced = 0
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear:
            setattr(module, name, Int8Linear(child))
            replaced += 1
        else:
            replaced += quantize_linears(child)
    return replaced


def _engines() -> tuple[str, str]:
    """The kernels for few rows and for many."""
    known = torch.backends.quantized.supported_engines
    few = "fbgemm" if "fbgemm" in known else "qnnpack"
    return few, "onednn" if "onednn" in known and not sums_int8_in_16_bits() else few


def _pack(layer: Int8Linear, engine: str):
    zeros = torch.zeros(layer.out_features, dtype=torch.long, device="cpu")
    # fbgemm sums two products in 16 bits where a CPU has no VNNI: at 8 bits of both they overflow. Weights, which are
    # spread more evenly, lose less by 7 than activations
    scales = layer.scales * 2 if engine == "fbgemm" else layer.scales
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")  # to be replaced by a later torch
        weight = layer.weight * layer.scales[:, None]
        quantized = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
    before = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = engine
        return torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = before
