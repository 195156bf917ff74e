"""The one autoregressive loop: prompts in, token ids out, step by step.

Knows nothing of text, codebooks or audio: only a causal model, a cache with a position per row, legal id ranges."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .sampling import draw, probabilities


class RowCache:
    """Keys and values of every layer, (B, heads, length, head_dim), written at a position of each row's own.

    `positions` (B, Q) and `limit` are set by the session before a forward; what `update` returns ends at `limit`."""

    is_compileable = False

    def __init__(self, length: int):
        self.length = length
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.positions: Tensor = torch.empty(0)
        self.limit = 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if layer_idx not in self.layers:
            batch, heads, _, head_dim = key.shape
            shape = (batch, heads, self.length, head_dim)
            self.layers[layer_idx] = key.new_zeros(shape), key.new_zeros(shape)
        index = self.positions.to(key.device)[:, None, :, None].expand_as(key)
        keys, values = self.layers[layer_idx]
        keys.scatter_(2, index, key)
        values.scatter_(2, index, value)
        return keys[:, :, : self.limit], values[:, :, : self.limit]


class DecodeSession:
    """One batch being decoded: a cache and each row's length. Rows may have prompts of different lengths.

    A shorter prompt is padded on the right; causality keeps its real positions from seeing the pad, and the row's own
    steps then overwrite it. Not shared between calls or threads."""

    def __init__(self, model, capacity: int):
        self.model = model
        self.capacity = min(capacity, model.config.block_size)
        self.cache = RowCache(self.capacity)
        self.lengths: Tensor = torch.empty(0)

    def prefill(self, input_ids: Tensor, lengths: list[int] | None = None, **inputs) -> Tensor:
        """(B, Q) prompt ids, right-padded to Q where `lengths` says so -> (B, V) logits after each row's prompt."""
        batch, width = input_ids.shape
        device = input_ids.device
        self.lengths = torch.tensor(lengths or [width] * batch, device=device)
        self._longest = max(lengths or [width])
        self.cache.positions, self.cache.limit = torch.arange(width, device=device).expand(batch, -1), width
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        return self._forward(input_ids, causal[None, None], self.lengths[:, None] - 1, **inputs)

    def step(self, ids: Tensor) -> Tensor:
        """(B,) ids, each appended to its row -> (B, V) logits for the next one."""
        self._longest += 1
        self.cache.positions, self.cache.limit = self.lengths[:, None], self._longest
        visible = torch.arange(self._longest, device=ids.device) <= self.lengths[:, None]
        logits = self._forward(ids[:, None], visible[:, None, None], 0)
        self.lengths = self.lengths + 1
        return logits

    def _forward(self, input_ids: Tensor, mask: Tensor, logits_to_keep, **inputs) -> Tensor:
        return self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=self.cache.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **inputs,
        ).logits[:, -1]


class Step(NamedTuple):
    ids: Tensor  # (B,) what each row drew
    stopped: Tensor  # (B,) bool: the row ends here and this id is not part of it


def decode(
    session: DecodeSession,
    logits: Tensor,
    ranges: Iterable[tuple[int, int]],
    options,
    uniforms: Tensor,
    *,
    eos: int | None = None,
    min_eos_p: float | None = None,
    logits_processor=None,
    generated: Tensor | None = None,
) -> Iterator[Step]:
    """Draws one id a row for each legal range [first, end), feeding the last one back; stops when you stop asking.

    `logits` (B, V) are the prompt's; `uniforms` (B, n) the numbers of each row's own stream. `logits_processor` gets
    the ids drawn so far (B, t), after `generated` if given, and full scores with illegal ids at -inf."""
    ids = torch.empty(0)
    for step, (first, end) in enumerate(ranges):
        if step:
            logits = session.step(ids)
        scores = logits.float()
        if logits_processor is not None:
            scores = process(scores, first, end, logits_processor, generated)
        ids, p_eos = pick(scores[:, first:end], options, uniforms[:, step], None if eos is None else eos - first)
        ids = ids + first
        stopped = torch.zeros_like(ids, dtype=torch.bool) if eos is None else ids == eos
        if p_eos is not None and min_eos_p is not None:
            stopped = stopped | (p_eos >= min_eos_p)
        if logits_processor is not None:
            generated = ids[:, None] if generated is None else torch.cat([generated, ids[:, None]], dim=1)
        yield Step(ids, stopped)


def pick(scores: Tensor, options, uniforms: Tensor, watched: int | None = None) -> tuple[Tensor, Tensor | None]:
    """(..., V) scores -> (...) ids and the `watched` id's probability (...); argmax is the limit of temperature 0."""
    if options.greedy:
        ids = scores.argmax(-1)
        return ids, None if watched is None else (ids == watched).float()
    probs = probabilities(scores, options.temperature, options.top_k, options.top_p)
    return draw(probs, uniforms.to(probs.device)), None if watched is None else probs[..., watched]


def process(scores: Tensor, first: int, end: int, logits_processor, generated: Tensor | None) -> Tensor:
    """Runs a caller's logits processor over (N, V) scores whose ids outside [first, end) are -inf."""
    masked = torch.full_like(scores, -torch.inf)
    masked[:, first:end] = scores[:, first:end]
    if generated is None:
        generated = torch.zeros(len(scores), 0, dtype=torch.long, device=scores.device)
    return logits_processor(generated, masked)
