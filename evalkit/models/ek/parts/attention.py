"""Attention: grouped queries, normed and gained, with XSA and a sparse gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.parts.reach import Reach


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """Scale the last dim to root mean square 1; no parameters.  In x's type: under CUDA autocast torch 2.12 and later return
    float32 (pytorch #174824), which flash-attn refuses beside bfloat16 values."""
    return F.rms_norm(x, (x.shape[-1],)).to(x.dtype)


class Attention(nn.Module):
    """n [B, L, D] (normed) -> [B, L, D]."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.gate_dims, self.gate_scale, self.qk_norm = config.gate_dims, config.gate_scale, config.qk_norm
        self.xsa = config.xsa and (config.xsa_last == 0 or layer >= config.layers - config.xsa_last)
        kv_width = config.kv_width
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.k = nn.Linear(config.width, kv_width, bias=False)
        self.v = nn.Linear(config.width, kv_width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.q_gain = nn.Parameter(torch.full((config.heads,), config.qk_gain))
        self.gate = nn.Parameter(torch.zeros(config.heads, config.gate_dims)) if config.head_gate else None
        with_residual = config.value_residual and layer > 0
        self.v_mix = nn.Parameter(torch.zeros(1)) if with_residual else None
        with_tokens = layer >= config.layers - config.value_embeds
        self.v_scale = nn.Parameter(torch.full((1,), 0.1)) if with_tokens else None

    def _split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[B, L, heads * hd] -> [B, heads, L, hd]"""
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)

    def forward(
        self,
        n: torch.Tensor,
        first_v: torch.Tensor | None,
        token_v: torch.Tensor | None,
        reach: Reach,
        slot: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (output [B, L, D], own values [B, K, L, hd]).

        first_v: what the first executed layer returned.  token_v: the tokens' own value embeddings.
        """
        q = self._normed(self._split(self.q(n), self.heads))
        k = self._normed(self._split(self.k(n), self.kv_heads))
        v = own_v = self._split(self.v(n), self.kv_heads)
        if self.v_mix is not None and first_v is not None:
            v = v + torch.sigmoid(self.v_mix).to(v.dtype) * first_v
        if self.v_scale is not None and token_v is not None:
            v = v + self.v_scale.to(v.dtype) * token_v
        q = q * self.q_gain.to(q.dtype)[:, None, None]
        y = reach(slot, q, k, v)
        if self.xsa:
            y = self._exclude_self(y, v)
        if self.gate is not None:
            opening = torch.sigmoid(self.gate_scale * F.linear(n[..., : self.gate_dims], self.gate))
            y = y * opening.to(y.dtype).transpose(1, 2)[..., None]
        return self.out(y.transpose(1, 2).reshape(n.shape)), own_v

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x) if self.qk_norm else x

    def _exclude_self(self, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """y_h -= (y_h . v^) v^ with v^ the unit vector of the token's own grouped value."""
        unit = F.normalize(v, dim=-1)[:, :, None]
        grouped = y.view(y.shape[0], self.kv_heads, -1, y.shape[2], y.shape[3])
        return (grouped - (grouped * unit).sum(-1, keepdim=True) * unit).view(y.shape)
