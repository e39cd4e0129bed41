"""Gated U-Net skips from early to late layers, the last in the first out (gate about -0.001 BPB)."""

from __future__ import annotations

import torch
from torch import nn


class Skips(nn.Module):
    """x -> sig(g) x + (1 - sig(g)) w * skip per channel, with g = 0 and w = 1 at the start (zero w: +0.010)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(count, width))
        self.weight = nn.Parameter(torch.ones(count, width))

    def forward(self, i: int, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """The i-th step of the second half; x and skip [B, L, D]."""
        opening = torch.sigmoid(self.gate[i])
        return opening * x + (1 - opening) * self.weight[i] * skip
