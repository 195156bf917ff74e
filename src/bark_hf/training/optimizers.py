"""Muon for the matrices of the blocks and AdamW for everything else, as one optimizer of a Trainer.

Knows nothing of stages, data or the Trainer."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_IN_A_BLOCK = re.compile(r"(^|\.)layers\.\d+\.")
MUON_DECAY = 0.01  # of the matrices; AdamW's is the caller's


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers in one: steps, schedules and state of both go together.

    Matrices inside a network's blocks take steps that turn all of their directions alike (Jordan et al., 2024), of
    the size that AdamW's would have (Liu et al., 2025) times `scale`; embeddings, heads, norms and biases take
    AdamW's. Raises ImportError for a torch without Muon."""

    def __init__(self, network: nn.Module, lr: float, scale: float, adamw_groups: Iterable[dict[str, Any]], **adamw):
        """adamw_groups: all weights that learn, in groups as AdamW takes them. adamw: its other arguments."""
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(f"Muon needs torch 2.9 or later, this is {torch.__version__}: pip install -U torch.")
        matrices = block_matrices(network)
        ours = {id(one) for one in matrices}
        groups = [
            {**group, "params": [one for one in group["params"] if id(one) not in ours]} for group in adamw_groups
        ]
        self.parts = [
            torch.optim.Muon(matrices, lr * scale, weight_decay=MUON_DECAY, adjust_lr_fn="match_rms_adamw"),
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
