"""A coarse stage that is random but for one thing: it looks at the semantic ids of the moment that it speaks.

Knows nothing of training. What must be learned otherwise, position by position, follows here from the ids' rates."""

import math

import torch
from torch import Tensor

from ..modeling_bark import BarkCoarseModel

SCORE = 5.0  # of a query and a key of one moment, as far as their positions make them up
KIND = 1.5  # of the part of a score that tells semantic ids from others
GLANCES = ((0.25, 1.5), (-1.0, 3.0), (0.25, 2.0), (0.25, 5.0))  # how far ahead two heads of a layer look, in ids
LONGEST, LONGEST_MOMENT = 400.0, 300.0  # periods of the slowest waves, in positions and in semantic ids


@torch.no_grad()
def look_at_the_moment(stage: BarkCoarseModel, semantic_ids: int, ratio: float) -> None:
    """Sets position embeddings, and adds to queries and keys of three heads of each layer.

    semantic_ids: how many first positions of a window hold them. ratio: coarse ids of one semantic id. Half of an
    embedding are waves over time, the same for a semantic id and for the coarse ids of its moment, the other half are
    waves over the position. Two heads look for semantic ids of their own moment or near it (`GLANCES`), a third one
    for what came shortly before. A stage whose width 4 does not divide, or with heads of an odd size or below 4, has
    no room for waves and stays random."""
    config = stage.config
    width, heads = config.hidden_size, config.num_heads
    size, pairs = width // heads, width // 4
    if width % 4 or size % 2 or size < 4:
        return
    position = torch.arange(config.block_size)
    semantic = position < semantic_ids
    number = torch.where(semantic, position, position - semantic_ids - 1).float()  # the infer token's is -1
    moments, places = _periods(4.0, LONGEST_MOMENT, pairs), _periods(2.0, LONGEST, pairs)
    own = _waves(number, places, torch.where(semantic, 2.0, 0.8))  # of another phase: a 5th id is no 5th code
    own[:, -2:] = torch.stack([torch.zeros(len(number)), torch.where(semantic, 2.0, -2.0)], 1)
    table = torch.cat([_waves(torch.where(semantic, number, number / ratio), moments), own], 1)
    stage.position_embeds_layer.weight.copy_(config.initializer_range * math.sqrt(2) * table)
    every = torch.linspace(0, pairs - 2, size // 2 - 1).round().long()  # a head has room for so many waves
    gain = (SCORE * math.sqrt(size) / len(every)) ** 0.5
    for index in range(config.num_layers):
        projection = stage.get_parameter(f"layers.{index}.attn.att_proj.weight")
        queries, keys, _ = projection.view(3, heads, size, width).unbind()
        near, far = GLANCES[index % len(GLANCES)]
        looks = ((moments, 0, near), (moments, 0, far), (places, 2 * pairs, -1.0 - index))
        for head, (periods, first, ahead) in enumerate(looks[:heads]):
            for row, wave in enumerate(every.tolist()):
                rows, columns = slice(2 * row, 2 * row + 2), slice(first + 2 * wave, first + 2 * wave + 2)
                turn = 2 * math.pi * ahead / float(periods[wave])
                turned = [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
                queries[head, rows, columns] += gain * torch.tensor(turned)
                keys[head, rows, columns] += gain * torch.eye(2)
            if first == 0:  # semantic ids have 2 there, a coarse id's query asks for the opposite of its own
                queries[head, -1], keys[head, -1] = 0, 0
                queries[head, -1, -1], keys[head, -1, -1] = -KIND, KIND


def _periods(shortest: float, longest: float, count: int) -> Tensor:
    return torch.logspace(math.log10(shortest), math.log10(longest), count)


def _waves(times: Tensor, periods: Tensor, phase: Tensor | None = None) -> Tensor:
    """(N,) -> (N, 2 * count): a sine and a cosine of each period."""
    angles = 2 * math.pi * times[:, None] / periods
    if phase is not None:
        angles = angles + phase[:, None]
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
