"""What torch does well on this machine's CPU, as benchmarks/LOG.md measured it: which of its equal kernels to call.

Knows nothing of Bark."""

import platform
from collections.abc import Mapping
from typing import Any

import torch


def has_amx() -> bool:
    """Whether it has Intel's matrix units. Without them attention of one position takes two to four times as long in
    bfloat16 as in float32, with bfloat16 instructions or not."""
    return bool(_capabilities().get("amx_bf16", False))


def is_amd() -> bool:
    """Whether it is AMD's. Torch multiplies by Intel's library, which there takes a row on one core; oneDNN: all."""
    return "AMD" in str(_capabilities().get("cpu_name", ""))


def sums_int8_in_16_bits() -> bool:
    """Whether sums of two 8-bit products overflow, as they do at full range on an x86 without VNNI instructions."""
    known = _capabilities()
    return platform.machine() in ("x86_64", "AMD64") and not any(
        known.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8")
    )


def _capabilities() -> Mapping[str, Any]:
    # came after torch 2.4
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
