"""QAT: fake-quantised block matrices, late in the run, so that training feels the rounding to come; off by default.

No record keeps QAT: with GPTQ at export it is worth nothing, and late QAT was dead code in PR #315 to #549 (a class flag
that torch.compile folded away), worse when mended (#1032).  Soft rounding: PR #589 (1.1178), in #1285, removed after.
"""

from __future__ import annotations

import torch
from torch import nn

from evalkit.train.recipe import Loss


class QuantAware:
    """Weights as the export would round them, for ``torch.func.functional_call``: no flag inside the model to fold away."""

    def __init__(self, loss: Loss) -> None:
        self.kind, self.bits, self.k, self.below = loss.qat, loss.qat_bits, loss.qat_k, loss.qat_below
        self.sharpening_steps = loss.qat_sharpening_steps
        self.started: int | None = None

    def active(self, multiplier: float) -> bool:
        """From the moment on that the learning rate is below ``qat_below`` of its peak."""
        return multiplier < self.below

    def weights(self, model: nn.Module, step: int) -> dict[str, torch.Tensor]:
        """Fake-quantised block matrices by name; gradients reach the weights."""
        self.started = step if self.started is None else self.started
        return {
            name: self.rounded(p, step - self.started)
            for name, p in model.named_parameters()
            if name.startswith("blocks.") and name.endswith(".weight")
        }

    def rounded(self, w: torch.Tensor, since: int) -> torch.Tensor:
        """[rows, cols] on the SDClip grid; ``since``: steps under QAT."""
        r = 2 ** (self.bits - 1) - 1
        scale = (self.k * w.detach().std(dim=1, keepdim=True, correction=0)).clamp_min(1e-10) / r
        if self.kind == "ste":
            hard = torch.clamp(torch.round(w / scale), -r, r) * scale
            return w + (hard - w).detach()
        return soft_round(torch.clamp(w / scale, -r, r), self.sharpness(since)) * scale

    def sharpness(self, since: int) -> float:
        """1 to 16 over ``qat_sharpening_steps``."""
        return 1 + 15 * min(1.0, since / max(1, self.sharpening_steps))


def soft_round(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """floor(x) + sigmoid(alpha (frac - 1/2)): a staircase with slopes that carry a gradient."""
    low = torch.floor(x.detach())
    return low + torch.sigmoid(alpha * (x - low - 0.5))
