"""What do the matrices' inputs look like?  Hessians, sums of x x^T, from *training* text only."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from train.model import GPT


@torch.no_grad()
def hessians(model: GPT, batches: list[torch.Tensor]) -> dict[str, npt.NDArray[np.float64]]:
    """int64 [B, L] batches -> float64 [cols, cols] by weight name; the embedding's is that of the head's input."""
    sums: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_add_input, sums, f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for batch in batches:
            _add(sums, "embed.weight", model.hidden(batch))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / len(batches)).cpu().numpy() for name, total in sums.items()}


def _add_input(sums: dict[str, torch.Tensor], name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
    _add(sums, name, args[0])


def _add(sums: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> None:
    flat = x.detach().flatten(0, -2).float()
    gram = (flat.T @ flat).double()
    sums[name] = sums[name] + gram if name in sums else gram
