"""Muon beside AdamW: whose weights are whose, what a step is, and that a run goes on as if it had not been killed."""

import shutil

import pytest
import torch
from runs import prepared, tiny_bark
from torch import nn

import bark_hf
from bark_hf.training.optimizers import MUON_DECAY, Muon, MuonAdamW, block_matrices
from bark_hf.training.run import main
from bark_hf.training.stages import ATTRIBUTES, add_lora


@pytest.fixture(scope="module")
def tiny(small):
    return tiny_bark(small)


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    block = nn.ModuleDict({"wide": nn.Linear(8, 24), "norm": nn.LayerNorm(8)})
    return nn.ModuleDict({"embedding": nn.Embedding(5, 8), "layers": nn.ModuleList([block])})


def optimizer(module: nn.Module) -> MuonAdamW:
    groups = [{"params": list(module.parameters()), "weight_decay": 0.0}]
    return MuonAdamW(module, 1e-2, 3.0, groups, betas=(0.9, 0.999))


def step(module: nn.Module, by: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    for weight in module.parameters():
        weight.grad = torch.randn_like(weight)
    by.step()
    by.zero_grad()


def test_a_matrix_turns_in_all_directions_alike_and_the_rest_is_adamw():
    ours, theirs = network(), network()
    before = ours["layers"][0]["wide"].weight.detach().clone()
    step(ours, optimizer(ours), 1)
    step(theirs, torch.optim.AdamW(theirs.parameters(), 1e-2, weight_decay=0.0), 1)
    others = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        assert torch.equal(weight, others[name]) == (name != "layers.0.wide.weight")
    turned = (ours["layers"][0]["wide"].weight - before * (1 - 3e-2 * 0.01)).detach()
    sizes = torch.linalg.svdvals(turned)
    assert sizes.max() < 2 * sizes.min()
    assert float(turned.square().mean().sqrt()) == pytest.approx(3e-2 * 0.2, rel=0.2)  # AdamW's usual size, times 3


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (8, 8)])
def test_steps_are_those_of_torch(shape):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon to compare with")
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    made = Muon([ours], 1e-2, MUON_DECAY)
    oracle = torch.optim.Muon([theirs], 1e-2, weight_decay=MUON_DECAY, adjust_lr_fn="match_rms_adamw")
    before = ours.detach().clone()
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        made.step()
        oracle.step()
    assert (ours - theirs).norm() < 0.03 * (ours - before).norm()  # torch's multiplies in bfloat16


def test_a_closure_may_go_backward():
    weight = nn.Parameter(torch.ones(2, 3))

    def loss() -> torch.Tensor:
        found = weight.square().sum()
        found.backward()
        return found

    assert Muon([weight], 1e-2, 0.0).step(loss).item() == 6
    assert float(weight.detach().square().sum()) < 6


def test_state_and_schedule_are_one():
    straight, halted = network(), network()
    one, other = optimizer(straight), optimizer(halted)
    for seed in range(2):
        step(straight, one, seed)
        step(halted, other, seed)
    resumed = optimizer(halted)
    resumed.load_state_dict(other.state_dict())
    for made in (one, resumed):
        for group in made.param_groups:
            group["lr"] *= 0.1
    step(straight, one, 9)
    step(halted, resumed, 9)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), halted.parameters(), strict=True))
    for group in one.param_groups:
        group["lr"] = 0.0
    before = [weight.detach().clone() for weight in straight.parameters()]
    step(straight, one, 10)
    assert all(torch.equal(a, b) for a, b in zip(before, straight.parameters(), strict=True))


@pytest.mark.parametrize("stage", list(ATTRIBUTES))
def test_the_matrices_are_those_of_the_blocks(tiny, stage):
    part = getattr(tiny, ATTRIBUTES[stage])
    matrices = {id(weight) for weight in block_matrices(part)}
    names = [name for name, weight in part.named_parameters() if id(weight) in matrices]
    assert len(names) == 4 * part.config.num_layers
    assert {name.split(".")[-2] for name in names} == {"att_proj", "out_proj", "in_proj"}


def test_with_lora_the_matrices_are_the_additions(tiny):
    part = add_lora(tiny.semantic, 2)
    try:
        assert len(block_matrices(part)) == 2 * 4 * tiny.semantic.config.num_layers
    finally:
        part.unload()
        tiny.semantic.requires_grad_(True)


def test_a_run_goes_on_where_it_was(tiny, small, tmp_path):
    kept = ["--save_total_limit", "9", "--load_best_model_at_end", "false"]
    options = [*prepared(tiny, small, tmp_path), *kept, "--stage", "semantic", "--muon", "3"]
    whole = bark_hf.BarkModel.from_pretrained(main(options)).semantic.state_dict()
    for name in ("model", "semantic/checkpoint-4", "semantic/checkpoint-6"):
        shutil.rmtree(tmp_path / "out" / name)
    assert (tmp_path / "out" / "semantic" / "checkpoint-2").is_dir()
    again = bark_hf.BarkModel.from_pretrained(main(options)).semantic.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    plain = bark_hf.BarkModel.from_pretrained(main([*options, "--muon", "0", "--resume", "false"])).semantic
    assert any(not torch.equal(whole[name], weight) for name, weight in plain.state_dict().items())


def test_what_cannot_be_is_said(tiny, small, tmp_path):
    options = prepared(tiny, small, tmp_path)
    for wrong in ("-1", "nan", "inf"):
        with pytest.raises(ValueError, match="--muon must be 0"):
            main([*options, "--muon", wrong])
