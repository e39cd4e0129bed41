"""SmearGate v2: a token sees its left neighbour before any attention; closed at a document's first token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.config import GPTConfig


class Smear(nn.Module):
    """x_t += lam * sigmoid(w . x_t[:g]) * x_{t-1} * [token t is not BOS], on the raw embedding (PR #1667, #1851).

    Without the BOS mask the last token of a document leaks into the next document.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_dims, self.bos_id = config.gate_dims, config.bos_id
        self.lam = nn.Parameter(torch.zeros(1))
        self.weight = nn.Parameter(torch.zeros(config.gate_dims))

    def forward(self, x: torch.Tensor, ids: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """x [B, L, D] raw embeddings of ids [B, L]; ``before`` [B, 1, D] is the embedding left of the first, if any."""
        left = F.pad(x, (0, 0, 1, 0))[:, :-1] if before is None else torch.cat((before, x[:, :-1]), dim=1)
        opening = torch.sigmoid((x[..., : self.gate_dims] * self.weight).sum(-1)) * (ids != self.bos_id)
        return x + self.lam * opening[..., None] * left
