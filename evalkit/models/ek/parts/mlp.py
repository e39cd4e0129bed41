"""The MLP: up, LeakyReLU(0.5) squared, down (PR #549)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.config import GPTConfig


class MLP(nn.Module):
    """[B, L, D] -> [B, L, D]"""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.slope = config.mlp_slope
        self.up = nn.Linear(config.width, config.mlp_ratio * config.width, bias=False)
        self.down = nn.Linear(config.mlp_ratio * config.width, config.width, bias=False)

    def forward(self, n: torch.Tensor) -> torch.Tensor:
        return self.down(F.leaky_relu(self.up(n), self.slope).square())
