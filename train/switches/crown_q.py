"""CROWN-Q: a penalty on the rounding error to come.  Off: -0.0015 BPB claimed (PR #693), adopted by no record."""

from __future__ import annotations

import torch
from torch import nn


def crown_q(model: nn.Module) -> torch.Tensor:
    """Sum over block matrices of w^2 d^2 / 12 with d = row maximum / 15 (PR #693: -0.0015 claimed, not adopted)."""
    total = torch.zeros((), device=next(model.parameters()).device)
    for name, w in model.named_parameters():
        if name.startswith("blocks.") and name.endswith(".weight"):
            step = w.detach().abs().amax(dim=1, keepdim=True) / 15
            total = total + (w.square() * step.square()).sum() / 12
    return total
