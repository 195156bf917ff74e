"""A stage's step on a CPU, compiled by numba: reads float32, bfloat16 or int8 weights, sums in float32.

Computes what `step` does; knows nothing of what ids mean, or of sampling. The first call on a machine compiles
for some seconds, and numba keeps the result on disk."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .int8 import Int8Linear

try:
    import numba
except ImportError:  # absent, or not for this numpy: the step is torch's then
    numba = None

Array = np.ndarray
Linear = tuple[Array, Array, Array]  # weight (V, D), a factor (V,) and a bias (V,) for each output
Norm = tuple[Array, Array, float]  # weight (D,), bias (D,), epsilon
# only the loops that say so run on all cores, not whole-array expressions
PARALLEL = {"prange": True} | dict.fromkeys(
    ["comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"], False
)
SET, GELU, ADD = range(3)  # what becomes of a product: it is put, put through GELU, or added


def _compiled(**options) -> Callable[[Callable], Callable]:
    # sums in any order, as torch's; infinities and NaNs stay what they are
    options |= {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}

    def compile_(function: Callable) -> Callable:
        if numba is None:
            return function
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder that it may write to
            return numba.njit(**options)(function)

    return compile_


def _number(stored: Any) -> np.float32:
    """What an element stands for; the bits of a bfloat16 are the upper ones of a float32."""
    raise NotImplementedError  # compiled, it is what `_number_of` gives


def _put(array: Array, at: int, number: np.float32) -> None:
    """array[at] = number, rounded to the nearest bfloat16, of two the even one, where the array holds such."""
    raise NotImplementedError  # compiled, it is what `_put_into` gives


if numba is not None:

    @numba.extending.overload(_number)
    def _number_of(stored):
        if stored == numba.types.uint16:
            return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
        return lambda stored: np.float32(stored)

    @numba.extending.overload(_put)
    def _put_into(array, at, number):
        def rounded(array, at, number):
            bits = np.float32(number).view(np.uint32)
            array[at] = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16)

        def as_it_is(array, at, number):
            array[at] = number

        return rounded if array.dtype == numba.types.uint16 else as_it_is


@_compiled()
def _dot(numbers: Array, stored: Array) -> np.float32:
    total = np.float32(0)
    for i in range(len(numbers)):
        total += numbers[i] * _number(stored[i])
    return total


@_compiled()
def _normalize(x: Array, norm: Norm, out: Array) -> None:
    weight, bias, eps = norm
    width = np.float32(x.shape[1])
    for r in range(len(x)):
        mean, square = np.float32(0), np.float32(0)
        for j in range(x.shape[1]):
            mean += x[r, j] / width
        for j in range(x.shape[1]):
            square += (x[r, j] - mean) * (x[r, j] - mean)
        scale = np.float32(1 / math.sqrt(square / width + eps))
        for j in range(x.shape[1]):
            out[r, j] = (x[r, j] - mean) * scale * weight[j] + bias[j]


@_compiled()
def _settle(out: Array, r: int, v: int, number: np.float32, then: int) -> None:
    if then == ADD:
        out[r, v] += number
    elif then == GELU:
        out[r, v] = np.float32(0.5) * number * (np.float32(1) + math.erf(number * np.float32(math.sqrt(0.5))))
    else:
        out[r, v] = number


@_compiled(parallel=PARALLEL)
def _multiply(x: Array, linear: Linear, then: int, out: Array) -> None:
    """(n, D) through a linear layer into (n, V). Four rows at a time, so that a weight is read once for four."""
    weight, factor, bias = linear
    fours = len(x) // 4 * 4
    for v in numba.prange(len(weight)):
        for r in range(0, fours, 4):
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for j in range(weight.shape[1]):
                one = _number(weight[v, j])
                a += x[r, j] * one
                b += x[r + 1, j] * one
                c += x[r + 2, j] * one
                d += x[r + 3, j] * one
            _settle(out, r, v, a * factor[v] + bias[v], then)
            _settle(out, r + 1, v, b * factor[v] + bias[v], then)
            _settle(out, r + 2, v, c * factor[v] + bias[v], then)
            _settle(out, r + 3, v, d * factor[v] + bias[v], then)
        for r in range(fours, len(x)):
            _settle(out, r, v, _dot(x[r], weight[v]) * factor[v] + bias[v], then)


@_compiled()
def _attend_one(query: Array, key: Array, value: Array, keys: Array, values: Array, out: Array) -> None:
    """One head of one row: (head_dim,) each and (T, head_dim), of which key and value become the last."""
    end, size = keys.shape
    scale = np.float32(1 / math.sqrt(size))
    for d in range(size):
        _put(keys[end - 1], d, key[d])
        _put(values[end - 1], d, value[d])
        out[d] = 0
    shares, top, total = np.empty(end, np.float32), np.float32(-np.inf), np.float32(0)
    for t in range(end):
        shares[t] = _dot(query, keys[t]) * scale
        top = max(top, shares[t])
    for t in range(end):
        shares[t] = math.exp(shares[t] - top)
        total += shares[t]
    for t in range(end):
        share = shares[t] / total
        for d in range(size):
            out[d] += share * _number(values[t, d])


@_compiled(parallel=PARALLEL)
def _attend(projected: Array, keys: Array, values: Array, places: Array, out: Array) -> None:
    """Queries, keys and values (n, 3 D), of which the latter go into the caches, into (n, D)."""
    heads, size, width = keys.shape[1], keys.shape[3], out.shape[1]
    for one in numba.prange(len(projected) * heads):
        r, h = one // heads, one % heads
        a, b, end = h * size, (h + 1) * size, places[r] + 1
        key, value = projected[r, width + a : width + b], projected[r, 2 * width + a : 2 * width + b]
        _attend_one(projected[r, a:b], key, value, keys[r, h, :end], values[r, h, :end], out[r, a:b])


@_compiled()
def _through_block(x: Array, block: tuple, layer: tuple[Array, Array], places: Array, scratch: tuple) -> None:
    """(n, D) through a block, in place."""
    norm_1, inwards, outwards, norm_2, up, down = block
    keys, values = layer
    normal, projected, wide = scratch
    _normalize(x, norm_1, normal)
    _multiply(normal, inwards, SET, projected)
    _attend(projected, keys, values, places, normal)
    _multiply(normal, outwards, ADD, x)
    _normalize(x, norm_2, normal)
    _multiply(normal, up, GELU, wide)
    _multiply(wide, down, ADD, x)


class CompiledStep:
    """A stage's parameters, of which it makes no copy, from the sum of its embeddings on."""

    def __init__(self, model: Any):
        self.blocks = [
            (
                _norm(block.layernorm_1), _linear(block.attn.att_proj), _linear(block.attn.out_proj),
                _norm(block.layernorm_2), _linear(block.mlp.in_proj), _linear(block.mlp.out_proj),
            )
            for block in model.layers
        ]  # fmt: skip
        self.norm, self.head = _norm(model.layernorm_final), _linear(model.lm_head)
        threads = torch.get_num_threads()
        self.most = numba.get_num_threads()
        if torch.get_num_threads() != threads:  # its first call starts OpenMP's threads, which are torch's as well
            torch.set_num_threads(threads)
        if numba.threading_layer() == "workqueue":
            raise RuntimeError(
                "its threading layer is `workqueue`, which ends the process where two threads use it at a time; "
                "install another, such as `tbb` from PyPI"
            )
        self.cache: Any = None  # of the last call, and its layers' arrays
        self.layers: list[tuple[Array, Array]] = []

    def __call__(self, hidden: Tensor, cache: Any, legal: tuple[int, int] | None) -> Tensor:
        """hidden (n, D) of the cache's first n rows at its positions -> (n, V) float32 logits of the `legal` ids."""
        if cache is not self.cache:
            self.cache, self.layers = cache, [(_array(k), _array(v)) for _, (k, v) in sorted(cache.layers.items())]
        x = hidden.float().numpy()
        at = np.full(len(x), cache.start) if cache.start is not None else cache.positions[:, 0].contiguous().numpy()
        head = self.head if legal is None else tuple(part[slice(*legal)] for part in self.head)
        normal, logits = np.empty_like(x), np.empty((len(x), len(head[0])), np.float32)
        scratch = (normal, *(np.empty((len(x), len(self.blocks[0][i][0])), np.float32) for i in (1, 4)))
        before, threads = numba.get_num_threads(), min(torch.get_num_threads(), self.most)
        if threads != before:
            numba.set_num_threads(threads)
        try:
            for block, layer in zip(self.blocks, self.layers, strict=True):
                _through_block(x, block, layer, at, scratch)
            _normalize(x, self.norm, normal)
            _multiply(normal, head, SET, logits)
        finally:
            if threads != before:
                numba.set_num_threads(before)
        return torch.from_numpy(logits)


def usable() -> bool:
    """Whether numba works here; NUMBA_DISABLE_JIT=1 turns it off."""
    return numba is not None and not numba.config.DISABLE_JIT


def _array(tensor: Tensor) -> Array:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _norm(norm: nn.LayerNorm) -> Norm:
    weight = norm.weight.detach().float()
    bias = torch.zeros_like(weight) if norm.bias is None else norm.bias.detach().float()
    return weight.numpy(), bias.numpy(), norm.eps


def _linear(module: Any) -> Linear:
    weight, count = module.weight.detach(), len(module.weight)
    factor = module.scales.numpy() if isinstance(module, Int8Linear) else np.ones(count, np.float32)
    bias = np.zeros(count, np.float32) if module.bias is None else module.bias.detach().float().numpy()
    return _array(weight), factor, bias
