"""How does a delta follow the stream?  One diagonal Newton step per few targets, with slowly forgotten curvature.

    S <- decay S + sum of squares (delta) or sum of p (1 - p) (bias);    move = -lr * gradient / (S + damping)

At decay 1 the steps fall like 1 / targets and a bias ends near log(observed + damping) - log(expected + damping), a
smoothed residual count.  The bias' damping is in expected occurrences; the delta's is in targets, at the mean curvature
of its coordinates, so that neither depends on the model's scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evalkit.adapters.learners.slot_gradient import RowGradients


@dataclass(frozen=True)
class Pace:
    """Rates of one state.  ``half_life``: targets after which curvature counts half; 0: it is never forgotten."""

    lr_delta: float
    lr_bias: float
    damp_delta: float
    damp_bias: float
    half_life: float

    def decay(self, n: int) -> float:
        return 0.5 ** (n / self.half_life) if self.half_life else 1.0


class SlotState:
    """delta float32 [D], bias float32 [V], and their curvature."""

    NAMES = ("delta", "bias", "delta_curvature", "bias_curvature", "seen")

    def __init__(self, width: int, vocab: int, pace: Pace, device: torch.device) -> None:
        self.pace = pace
        self.delta, self.delta_curvature = torch.zeros(width, device=device), torch.zeros(width, device=device)
        self.bias, self.bias_curvature = torch.zeros(vocab, device=device), torch.zeros(vocab, device=device)
        self.seen = torch.zeros((), dtype=torch.float64)

    def reset(self) -> None:
        for tensor in self.state().values():
            tensor.zero_()

    @torch.no_grad()
    def step(self, g: RowGradients, n: int) -> None:
        """Move once for the sums over n targets."""
        pace, decay = self.pace, self.pace.decay(n)
        self.seen.mul_(decay).add_(n)
        if pace.lr_delta:
            self.delta_curvature.mul_(decay).add_(g.delta_square)
            level = self.delta_curvature.mean() / float(self.seen)
            self.delta.sub_(pace.lr_delta * g.delta / (self.delta_curvature + pace.damp_delta * level + 1e-30))
        if pace.lr_bias:
            self.bias_curvature.mul_(decay).add_(g.bias_spread)
            self.bias.sub_(pace.lr_bias * g.bias / (self.bias_curvature + pace.damp_bias))

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.NAMES}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.state().values())
