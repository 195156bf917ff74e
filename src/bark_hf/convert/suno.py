"""Reads the original's stage checkpoints (`*.pt`): safe loading, names, configs, and a plain forward to verify with.

Knows nothing of folders, codecs or voices."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from ..configuration_bark import BarkCoarseConfig, BarkFineConfig, BarkSemanticConfig

CONFIGS = {"semantic": BarkSemanticConfig, "coarse_acoustics": BarkCoarseConfig, "fine_acoustics": BarkFineConfig}

RELEASED_MD5 = {  # of the files in the hub repo suno/bark
    "text.pt": "b3e42bcbab23b688355cd44128c4cdd3",
    "coarse.pt": "5fe964825e3b0321f9d5f3857b89194d",
    "fine.pt": "5428d1befe05be2ba32195496e58dc90",
    "text_2.pt": "54afa89d65e318d4f5f80e8e8799026a",
    "coarse_2.pt": "8a98094e5e3a255a5c9c0ab7efe8fd28",
    "fine_2.pt": "59d184ed44e3650774a2f0503a48a97b",
}

_RENAMES = (  # original name -> ours, in this order
    (r"^_orig_mod\.", ""),
    (r"^transformer\.wte\.", "input_embeds_layer."),
    (r"^transformer\.wtes\.", "input_embeds_layers."),
    (r"^transformer\.wpe\.", "position_embeds_layer."),
    (r"^transformer\.ln_f\.", "layernorm_final."),
    (r"^transformer\.h\.", "layers."),
    (r"\.ln_([12])\.", r".layernorm_\1."),
    (r"\.attn\.c_attn\.", ".attn.att_proj."),
    (r"\.attn\.c_proj\.", ".attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.in_proj."),
    (r"\.mlp\.c_proj\.", ".mlp.out_proj."),
)


def load_pickle(path: Path) -> Any:
    """`torch.load` with `weights_only=True`; of all globals only NumPy's float scalars are admitted (the released
    files hold a `best_val_loss` of that kind). Raises ValueError, in a sentence, where that is not enough."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64)]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # before and since numpy 2
    allowed: list[Any] = [*((scalar, name) for name in names), np.dtype, *dtypes]
    try:
        with torch.serialization.safe_globals(allowed):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded safely as a torch checkpoint: {_why(error)}.") from error


def read_stage(path: Path, stage: str) -> tuple[Any, dict[str, Tensor]]:
    """One stage's config and its weights under our names. Raises ValueError, in a sentence, for a wrong file."""
    if not path.is_file():
        raise ValueError(f"There is no file {path} for the {stage} stage.")
    checkpoint = load_pickle(path)
    if not isinstance(checkpoint, dict) or not {"model", "model_args"} <= checkpoint.keys():
        raise ValueError(f"{path} is not one of Bark's checkpoints: it lacks `model` and `model_args`.")
    try:
        config = _config(checkpoint["model_args"], stage)
        weights = {rename(name): tensor for name, tensor in checkpoint["model"].items() if not _is_mask(name)}
    except (KeyError, TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise ValueError(f"{path} is not one of Bark's checkpoints: {type(error).__name__} {reason}.") from error
    check_tensors(path, weights)
    _check_stage(path, stage, config, weights)
    return config, weights


def rename(name: str) -> str:
    """The original's parameter name -> ours."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def check_tensors(path: Path, weights: dict[str, Any]) -> None:
    """Raises ValueError where something that should be a weight is no tensor."""
    other = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(f"{path}: {other[0]} is no tensor but {type(weights[other[0]]).__name__}: a wrong file.")


def check_md5(path: Path) -> str | None:
    """None where the name is not a released file's or the MD5 is that file's; else a sentence that says so."""
    if path.name not in RELEASED_MD5:
        return None
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() == RELEASED_MD5[path.name]:
        return None
    return f"{path} has the name of a released file but MD5 {digest.hexdigest()}, not {RELEASED_MD5[path.name]}."


def forward(weights: dict[str, Tensor], config, input_ids: Tensor, codebook_idx: int | None = None) -> Tensor:
    """The original's forward, restated on its weights in float32: (1, Q) or (1, T, 8) ids -> (1, Q, V) logits."""
    w = {name: tensor.float() for name, tensor in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return nn.functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    if codebook_idx is None:
        x = w["input_embeds_layer.weight"][input_ids]
    else:
        x = torch.stack(
            [w[f"input_embeds_layers.{k}.weight"][input_ids[..., k]] for k in range(codebook_idx + 1)]
        ).sum(0)
    x = x + w["position_embeds_layer.weight"][: x.shape[1]]
    for i in range(config.num_layers):
        heads = linear(norm(x, f"layers.{i}.layernorm_1"), f"layers.{i}.attn.att_proj")
        q, k, v = heads.unflatten(-1, (3, config.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if codebook_idx is None:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(attended, f"layers.{i}.attn.out_proj")
        hidden = nn.functional.gelu(linear(norm(x, f"layers.{i}.layernorm_2"), f"layers.{i}.mlp.in_proj"))
        x = x + linear(hidden, f"layers.{i}.mlp.out_proj")
    head = "lm_head" if codebook_idx is None else f"lm_heads.{codebook_idx - config.n_codes_given}"
    return linear(norm(x, "layernorm_final"), head)


def _why(error: Exception) -> str:
    """The one line of torch's page-long messages that says what is wrong: the refused global, by its name."""
    if (refused := re.search(r"GLOBAL ([\w.]+)", str(error))) is not None:
        return f"it holds {refused[1]}, which could run code"
    lines = [line.strip() for line in re.split(r"WeightsUnpickler error:", str(error))[-1].splitlines()]
    return next((line.rstrip(".") for line in lines if line), type(error).__name__)


def _config(args: dict[str, Any], stage: str):
    one_size = args.get("vocab_size")
    fields = {
        "num_layers": args["n_layer"],
        "num_heads": args["n_head"],
        "hidden_size": args["n_embd"],
        "block_size": args["block_size"],
        "bias": bool(args["bias"]),
        "dropout": float(args.get("dropout", 0.0)),
        "input_vocab_size": args.get("input_vocab_size", one_size),
        "output_vocab_size": args.get("output_vocab_size", one_size),
    }
    if stage == "fine_acoustics":
        fields |= {"n_codes_total": args["n_codes_total"], "n_codes_given": args["n_codes_given"]}
    return CONFIGS[stage](**fields)


def _check_stage(path: Path, stage: str, config, weights: dict[str, Tensor]) -> None:
    fine = "input_embeds_layers.0.weight" in weights
    if fine != (stage == "fine_acoustics"):
        raise ValueError(f"{path} is a {'fine' if fine else 'causal'} checkpoint, not one for the {stage} stage.")
    if stage == "semantic" and config.input_vocab_size == config.output_vocab_size:
        raise ValueError(f"{path} has one vocabulary for input and output: a coarse checkpoint, not the text stage's.")
    if stage == "coarse_acoustics" and config.input_vocab_size != config.output_vocab_size:
        raise ValueError(f"{path} has two vocabularies: a text checkpoint, not one for the coarse stage.")


def _is_mask(name: str) -> bool:
    return name.endswith(".attn.bias")
