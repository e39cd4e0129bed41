"""A value that a token brings by itself: one table for the last layers (about -0.001 BPB, removed in PR #1394)."""

from __future__ import annotations

import torch
from torch import nn

from evalkit.models.ek.config import GPTConfig


class ValueEmbedding(nn.Module):
    """P E[token], shaped like values; each of the last ``value_embeds`` layers adds it times its own ``attn.v_scale``."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.kv_heads, self.head_dim = config.kv_heads, config.head_dim
        self.table = nn.Embedding(config.vocab_size, config.value_embed_dim)
        self.proj = nn.Linear(config.value_embed_dim, config.kv_width, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, L] -> [B, K, L, hd]"""
        flat = self.proj(self.table(ids))
        return flat.view(*ids.shape, self.kv_heads, self.head_dim).transpose(1, 2)
