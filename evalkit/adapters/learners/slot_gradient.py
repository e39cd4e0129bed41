"""How do the nats of booked targets change with a delta on the hidden state and a bias on the logits?

With z = head(h + delta) + bias and p = softmax(z), a target y has d nats / d z = p - 1_y: the bias' gradient, in closed
form.  The delta's is its pull-back through the head (through the softcap, then W^T), one product more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowGradients:
    """Sums over rows, and what a diagonal preconditioner needs.

    delta, delta_square: float32 [D], sum of the rows' gradients and of their squares.  bias: float32 [V], sum of
    p - 1_y.  bias_spread: float32 [V], sum of p (1 - p), the diagonal of the exact Fisher information.
    """

    delta: Tensor
    delta_square: Tensor
    bias: Tensor
    bias_spread: Tensor


def row_gradients(model: Any, hidden: Tensor, targets: Tensor, bias: Tensor, with_delta: bool) -> RowGradients:
    """hidden [n, D] with the delta added, targets int64 [n], bias [V] (or [n, V]) -> sums over the n rows."""
    h = hidden.detach().requires_grad_(with_delta)
    with torch.set_grad_enabled(with_delta):
        raw = model.head(h).float()
    with torch.no_grad():
        p = torch.softmax(raw + bias, dim=-1)
        spread = (p - p * p).sum(0)
        p[torch.arange(len(targets), device=p.device), targets] -= 1.0
        if not with_delta:
            nothing = torch.zeros(hidden.shape[-1], device=p.device)
            return RowGradients(nothing, nothing, p.sum(0), spread)
        rows = torch.autograd.grad(raw, h, p)[0].float()
        return RowGradients(rows.sum(0), (rows * rows).sum(0), p.sum(0), spread)
