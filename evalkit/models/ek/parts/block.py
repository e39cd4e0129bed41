"""One layer: attention and MLP on a residual stream, one after the other or side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.parts.attention import Attention, rms_norm
from evalkit.models.ek.parts.mlp import MLP
from evalkit.models.ek.parts.reach import Reach


@dataclass
class Pass:
    """What all layers of one forward share: the normed embedding, values of layer 0 and of the tokens, the reach."""

    x0: torch.Tensor
    reach: Reach
    token_v: torch.Tensor | None = None
    first_v: torch.Tensor | None = None


class Block(nn.Module):
    """One layer: residual mix with the embedding, attention, MLP, each branch with a per-channel output scale."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_scale = (layer + 1) ** -0.5 if config.norm_scale else 1.0
        self.side_by_side = config.parallel == "sum" and layer >= config.parallel_from
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.mix = (
            nn.Parameter(torch.tensor([[1.0], [0.0]]).expand(2, config.width).contiguous())
            if config.resid_mix
            else None
        )
        self.attn_scale = nn.Parameter(torch.ones(config.width))
        self.mlp_scale = nn.Parameter(torch.ones(config.width))
        two_lanes = config.parallel == "lanes" and layer >= config.parallel_from
        self.lambdas = nn.Parameter(torch.ones(2)) if config.resid_lambdas and not two_lanes else None
        # rows: lane of attention, lane of the MLP; columns: residual, attention, MLP (PR #1204)
        self.lanes = nn.Parameter(torch.tensor(((1.1, 1.0, 1.0), (1.1, 1.0, 1.0)))) if two_lanes else None

    def forward(self, x: torch.Tensor, shared: Pass, slot: int) -> torch.Tensor:
        """x [B, L, D] -> [B, L, D]; ``slot`` counts executed layers."""
        x = self._mixed(x, shared)
        n = rms_norm(x) * self.norm_scale
        read = self.attn_scale * self._attend(n, shared, slot)
        if self.side_by_side:
            return self._kept(x, 0) + read + self.mlp_scale * self.mlp(n)
        x = self._kept(x, 0) + read
        return self._kept(x, 1) + self.mlp_scale * self.mlp(rms_norm(x) * self.norm_scale)

    def two_lanes(self, x: torch.Tensor, y: torch.Tensor, shared: Pass, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention reads lane x, the MLP lane y; both lanes keep a part of themselves and add both branches."""
        assert self.lanes is not None
        x = self._mixed(x, shared)
        read = self.attn_scale * self._attend(rms_norm(x) * self.norm_scale, shared, slot)
        made = self.mlp_scale * self.mlp(rms_norm(y) * self.norm_scale)
        a, b = self.lanes
        return a[0] * x + a[1] * read + a[2] * made, b[0] * y + b[1] * read + b[2] * made

    def _attend(self, n: torch.Tensor, shared: Pass, slot: int) -> torch.Tensor:
        read, own_v = self.attn(n, shared.first_v, shared.token_v, shared.reach, slot)
        if shared.first_v is None:
            shared.first_v = own_v
        return read

    def _mixed(self, x: torch.Tensor, shared: Pass) -> torch.Tensor:
        return x if self.mix is None else self.mix[0] * x + self.mix[1] * shared.x0

    def _kept(self, x: torch.Tensor, branch: int) -> torch.Tensor:
        return x if self.lambdas is None else self.lambdas[branch] * x
