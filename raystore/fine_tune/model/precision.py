"""In which arithmetic a step is taken: float32, or half precision under autocast with the weights kept in float32.

Knows devices and processors; knows no model.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from raystore.fine_tune.recipe import Precision

Arithmetic = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What makes bf16 faster than float32 on a processor. Without them it is emulated, and slower.
_BF16_PROCESSORS = ("avx512_bf16", "amx_bf16", "amx_tile")


def precision_problem(asked: Precision, device: torch.device) -> str | None:
    """Why this precision cannot be had on this device, or None."""
    if asked == "fp16" and device.type == "cpu":  # 10 times slower than float32 there, and its gradients vanish
        return "precision='fp16' is for GPUs, and this trains on a CPU: take 'auto', 'bf16' or 'fp32'"
    return None


def choose_precision(asked: Precision, device: torch.device) -> Arithmetic:
    """'auto' is bf16 where the device has instructions for it, fp16 on older GPUs, else fp32."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has = torch.cpu.get_capabilities()
    return "bf16" if device.type == "cpu" and any(has.get(name) for name in _BF16_PROCESSORS) else "fp32"


def autocast(precision: Arithmetic, device: torch.device) -> Any:
    """A context in which torch takes matrix products in that precision."""
    return torch.autocast(device.type, dtype=_DTYPES.get(precision, torch.bfloat16), enabled=precision != "fp32")
