"""Multi-token prediction: a loss on the token after next.  Off: +0.001 BPB or worse at every weight tried."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.model import GPT
from evalkit.models.ek.parts.attention import rms_norm


class NextNext(nn.Module):
    """Multi-token prediction: the token after next from the same hidden row and head (+0.001 BPB or worse).

    Only the trainer holds it; it is in no artifact.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.proj.weight)

    def forward(self, model: GPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """hidden [B, L, D] of a batch with targets [B, L] -> mean nats of targets[:, 1:]."""
        logits = model.head(rms_norm(self.proj(hidden[:, :-1])))
        return F.cross_entropy(logits.float().flatten(0, 1), targets[:, 1:].flatten())
