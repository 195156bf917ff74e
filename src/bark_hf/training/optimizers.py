"""Muon for the matrices of the blocks and AdamW for everything else, as one optimizer of a Trainer.

Knows nothing of stages, data or the Trainer."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_IN_A_BLOCK = re.compile(r"(^|\.)layers\.\d+\.")
MUON_DECAY = 0.01  # of the matrices; AdamW's is the caller's
MOMENTUM = 0.95
ADAMW_SIZE = 0.2  # root mean square of AdamW's usual step, in learning rates (Liu et al., 2025)
QUINTIC = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5: five rounds bring what is within 0..1 near 1
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Steps that turn all directions of a matrix alike (Jordan et al., 2024), of the size of AdamW's.

    torch's own multiplies in bfloat16 everywhere, which a CPU without such instructions has to imitate: there it
    takes longer than the network's passes. This one does so on GPUs alone."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                mean = state["momentum_buffer"]
                mean.lerp_(matrix.grad, 1 - MOMENTUM)
                turned = orthogonal(matrix.grad.lerp(mean, MOMENTUM)).to(matrix.dtype)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(turned, alpha=-group["lr"] * ADAMW_SIZE * max(matrix.shape) ** 0.5)
        return loss


def orthogonal(matrix: Tensor) -> Tensor:
    """(M, N) -> nearly the orthogonal matrix nearest to it: singular values of 0.7 to 1.2, by Newton and Schulz."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    found = wide.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    found = found / found.norm().clamp(min=1e-7)
    first, third, fifth = QUINTIC
    for _ in range(ROUNDS):
        square = found @ found.T
        found = torch.addmm(found, torch.addmm(square, square, square, beta=third, alpha=fifth), found, beta=first)
    return found if wide is matrix else found.T


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers in one: steps, schedules and state of both go together.

    Matrices inside a network's blocks take `Muon`'s steps, `scale` times as large; embeddings, heads, norms and
    biases take AdamW's."""

    def __init__(self, network: nn.Module, lr: float, scale: float, adamw_groups: Iterable[dict[str, Any]], **adamw):
        """adamw_groups: all weights that learn, in groups as AdamW takes them. adamw: its other arguments."""
        matrices = block_matrices(network)
        ours = {id(one) for one in matrices}
        groups = [
            {**group, "params": [one for one in group["params"] if id(one) not in ours]} for group in adamw_groups
        ]
        self.parts = [
            Muon(matrices, lr * scale, MUON_DECAY),
            torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, **adamw),
        ]
        super().__init__([one for part in self.parts for group in part.param_groups for one in group["params"]], {})
        self._share_groups()

    def _share_groups(self) -> None:
        """A schedule that changes our groups changes theirs."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in zip(("muon", "adamw"), self.parts, strict=True)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in zip(("muon", "adamw"), self.parts, strict=True):
            part.load_state_dict(state_dict[name])
        self._share_groups()


def block_matrices(network: nn.Module) -> list[Tensor]:
    """The weights of two axes in the blocks of a stage, with or without LoRA, that learn."""
    return [
        weight
        for name, weight in network.named_parameters()
        if weight.requires_grad and weight.ndim == 2 and _IN_A_BLOCK.search(name)
    ]
