"""What a step minimises: mean nats per target; helpers of the eval stack are switches (train/switches/loss.py).

Shape legend: B windows, L positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.model import GPT


@dataclass(frozen=True)
class Moment:
    """Where a step stands: progress ``f``, the learning-rate multiplier, the step number."""

    f: float
    multiplier: float
    step: int


class Objective:
    """loss = mean nats per target."""

    qat_started: int | None = None
    """The step from which weights are rounded in training; None without (train/switches/qat.py)."""

    def __init__(self, model: GPT, bf16: bool) -> None:
        self.model, self.bf16 = model, bf16
        self.run = model.forward
        """Replaced by the compiled forward."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the model's own parameters."""
        return {}

    def __call__(self, batch: torch.Tensor, moment: Moment) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [B, L + 1] -> (what to minimise, mean nats per target)."""
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.run(batch[:, :-1])
        nats = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        return nats, nats
