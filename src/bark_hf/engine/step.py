"""One decoding step of a causal stage in as few calls as eager torch allows: ids in, logits out.

Restates the stage's forward for one new position a row; knows nothing of sampling or of what the ids mean."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .cpu import has_amx, is_amd
from .int8 import Int8Linear

linear, layer_norm = nn.functional.linear, nn.functional.layer_norm
ONEDNN_FROM = 500_000  # weights: a call of oneDNN's takes 20 us longer, which a smaller matrix does not win back
PROCESS = os.getpid()  # a fork of it must not use its OpenMP threads, which numba's loops would wait for
COMPILED = torch.float32, torch.bfloat16
COMPILED_ROWS = 8  # beyond, arithmetic takes the time, and torch has the better kernels
LAYERS = nn.Embedding, nn.LayerNorm, nn.Linear, nn.GELU, nn.Dropout, Int8Linear
_stock_forwards: set[Callable] = {kind.forward for kind in LAYERS}
_numba_failed = threading.Event()  # in this process, which then has no more of it


def stock_forward(kind: type[nn.Module]) -> type[nn.Module]:
    """Decorates a class whose forward faster code replicates, where a module still has it; any other is called."""
    _stock_forwards.add(kind.forward)
    return kind


class FastStep:
    """Holds a stage's parameters as they are now; made anew for every run, so that changed weights are seen.

    Plain linear layers are called as functions, others (adapters, int8) as the modules they are."""

    def __init__(self, model):
        config = model.config
        self.heads, self.width = config.num_heads, config.hidden_size
        self.head_dim = config.hidden_size // config.num_heads
        self.tokens, self.places = model.input_embeds_layer.weight, model.position_embeds_layer.weight
        self.norm, self.head = _norm(model.layernorm_final), model.lm_head
        self.head_product = _product_for(self.head.weight) if is_plain(self.head) else None
        self.blocks = [
            (
                _norm(block.layernorm_1), _linear(block.attn.att_proj), _linear(block.attn.out_proj),
                _norm(block.layernorm_2), _linear(block.mlp.in_proj), _linear(block.mlp.out_proj),
            )
            for block in model.layers
        ]  # fmt: skip
        self.compiled = _compiled_step(model)
        self.int8 = isinstance(model.layers[0].mlp.in_proj, Int8Linear)
        narrow = self.tokens.dtype != torch.float32 or self.int8
        # matrix units take several rows of 8 or 16 bits as fast as one
        self.compiled_rows = 1 if narrow and has_amx() else COMPILED_ROWS

    def cache_dtype(self, slots: int) -> torch.dtype | None:
        """What keys and values of `slots` rows are kept in; None: as they come.

        Of an int8 stage in bfloat16, which rounds less than its weights and halves what a step reads of them; where
        compiled steps take all rows, as torch's attention wants one type of everything."""
        return torch.bfloat16 if self.int8 and self.compiled is not None and slots <= self.compiled_rows else None

    def __call__(self, ids: Tensor, cache: Any, legal: tuple[int, int] | None) -> Tensor:
        """(n,) ids for the cache's rows, at its positions -> (n, V) logits, or those of the `legal` range."""
        start = cache.start
        place = self.places[start] if start is not None else self.places[cache.positions[:, 0]]
        hidden = self.tokens[ids] + place
        if self.compiled is not None and len(ids) <= self.compiled_rows:
            try:
                return self.compiled(hidden, cache, legal)
            except Exception as error:  # it compiles, and reads numba's files, when it is first called
                _give_up_numba(error)
                self.compiled = None
                cache.convert(self.tokens.dtype)
                hidden = self.tokens[ids] + place  # it may have changed the other
        hidden = layer_norm(self._through_blocks(hidden, cache), (self.width,), *self.norm)
        if legal is not None and self.head_product is not None and self.head.bias is None:
            return self.head_product(hidden, self.head.weight[legal[0] : legal[1]], None)
        logits = self.head(hidden)
        return logits if legal is None else logits[:, legal[0] : legal[1]]

    def _through_blocks(self, hidden: Tensor, cache: Any) -> Tensor:
        count, shape = len(hidden), (self.width,)
        start, limit, mask = cache.start, cache.limit, cache.mask
        index = None
        if start is None:
            index = cache.positions[:, None, :, None].expand(count, self.heads, 1, self.head_dim)
        for i, (norm_1, attention_in, attention_out, norm_2, mlp_in, mlp_out) in enumerate(self.blocks):
            heads = attention_in(layer_norm(hidden, shape, *norm_1)).view(count, 3, self.heads, 1, self.head_dim)
            query, key, value = heads.unbind(1)
            keys, values = cache.layers[i]
            if count < cache.slots:
                keys, values = keys[:count], values[:count]
            if index is None:
                keys.narrow(2, start, 1).copy_(key)
                values.narrow(2, start, 1).copy_(value)
            else:
                keys.scatter_(2, index, key)
                values.scatter_(2, index, value)
            attended = nn.functional.scaled_dot_product_attention(
                query, keys.narrow(2, 0, limit), values.narrow(2, 0, limit), attn_mask=mask
            )
            hidden = hidden + attention_out(attended.view(count, self.width))
            wide = nn.functional.gelu(mlp_in(layer_norm(hidden, shape, *norm_2)))
            hidden = hidden + mlp_out(wide)
        return hidden


def fast_step(model) -> FastStep | None:
    """A `FastStep` where it does what the forward does: no hooks (offload, users'), no dropout, nothing replaced."""
    if any(_hooked(part) for part in model.modules()):
        return None
    return FastStep(model) if all(_is_stock(part, kind) for part, kind in _parts(model)) else None


def _parts(model) -> Iterator[tuple[nn.Module, type[nn.Module] | None]]:
    """The modules that the step replicates, each before those inside it, and torch's class that each must be.

    All but the linear layers, which it calls where they are not plain."""
    yield model, None
    yield from ((model.input_embeds_layer, nn.Embedding), (model.position_embeds_layer, nn.Embedding))
    yield from ((model.drop, nn.Dropout), (model.layernorm_final, nn.LayerNorm))
    for block in model.layers:
        yield block, None
        yield from ((block.layernorm_1, nn.LayerNorm), (block.layernorm_2, nn.LayerNorm))
        yield from ((block.attn, None), (block.mlp, None))
        yield from ((block.attn.resid_dropout, nn.Dropout), (block.mlp.dropout, nn.Dropout), (block.mlp.gelu, nn.GELU))


def _is_stock(module: nn.Module, kind: type[nn.Module] | None) -> bool:
    """Whether a call of the module does what its class, `kind` where it is torch's, does without training."""
    if module.training or not has_stock_forward(module) or (kind is not None and type(module) is not kind):
        return False
    if isinstance(module, nn.Embedding):
        return type(module.weight) is nn.Parameter and module.max_norm is None
    if isinstance(module, nn.LayerNorm):
        return type(module.weight) is nn.Parameter
    return not isinstance(module, nn.GELU) or module.approximate == "none"


def has_stock_forward(module: nn.Module) -> bool:
    """Whether a call of the module runs a forward that is known here, and nothing else: not a subclass's, nor one
    that was put on the instance (as accelerate's `prepare` does for mixed precision), nor hooks."""
    forward = module.forward
    unchanged = isinstance(forward, MethodType) and forward.__self__ is module and forward.__func__ in _stock_forwards
    return unchanged and not _hooked(module)


def is_plain(module: nn.Module) -> bool:
    """A linear layer whose weight may be read as it is: no subclass, no hook, no quantized or sharded tensor."""
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and has_stock_forward(module)


def _hooked(module: nn.Module) -> bool:
    return bool("_hf_hook" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks)


def _norm(norm: nn.LayerNorm) -> tuple[Tensor, Tensor | None, float]:
    return norm.weight, norm.bias, norm.eps


def _linear(module: nn.Module) -> Callable[[Tensor], Tensor]:
    if not is_plain(module):
        return module
    weight: Any = module.weight
    bias: Any = module.bias
    product = _product_for(weight)
    return lambda hidden: product(hidden, weight, bias)


def _compiled_step(model) -> Callable[[Tensor, Any, tuple[int, int] | None], Tensor] | None:
    """Numba's, where it is installed and reads the weights as they are: float32, bfloat16 or int8 on a CPU."""
    weights = list(model.parameters())
    linears = [model.lm_head]
    for block in model.layers:
        linears += block.attn.att_proj, block.attn.out_proj, block.mlp.in_proj, block.mlp.out_proj
    if (
        find_spec("numba") is None
        or _numba_failed.is_set()
        or os.getpid() != PROCESS
        or torch.is_autocast_enabled("cpu")
        or any(weight.device.type != "cpu" or weight.dtype not in COMPILED for weight in weights)
        or not all(weight.is_contiguous() for weight in weights)
        or not all(is_plain(one) or (type(one) is Int8Linear and has_stock_forward(one)) for one in linears)
    ):
        return None
    try:
        from .numba_step import CompiledStep, usable  # numba takes a while to import

        return CompiledStep(model) if usable() else None
    except Exception as error:
        _give_up_numba(error)
        return None


def _give_up_numba(error: Exception) -> None:
    """Warns, once in a process. Speed is all that is lost: whatever fails in numba must not end a generation."""
    if not _numba_failed.is_set():
        _numba_failed.set()
        warnings.warn(
            f"Decoding steps compiled by numba failed ({type(error).__name__}: {error}); this process takes torch's, "
            "which are slower. A full disk or damaged files in numba's cache can cause this: make room, delete the "
            "`__pycache__` folder of bark_hf.engine, or set NUMBA_CACHE_DIR to another folder. NUMBA_DISABLE_JIT=1 "
            "goes without numba and without this warning.",
            stacklevel=2,
        )


def _product_for(weight: Tensor) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """What takes (n, D), (V, D) and a bias (V,) or None to (n, V) fastest for few rows on the weight's device."""
    if weight.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return linear
    if weight.dtype == torch.bfloat16 and not is_amd():
        return _by_rows
    large = weight.dtype == torch.float32 and weight.numel() >= ONEDNN_FROM
    if large and is_amd() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return _onednn
    return linear


def _by_rows(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Torch's 16-bit matrix-vector kernel is faster for one row than its matrix one."""
    if len(hidden) > 1:
        return linear(hidden, weight, bias)
    product = torch.mv(weight, hidden[0])[None]
    return product if bias is None else product + bias


def _onednn(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
