"""What are the gradients of SLOT by definition?  The slow twin: backpropagation of the nats, row by row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def row_gradients_naive(
    model: Any, hidden: Tensor, targets: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :class:`slot_gradient.RowGradients`, in its order."""
    width, vocab = hidden.shape[-1], bias.shape[-1]
    delta, square = torch.zeros(width), torch.zeros(width)
    total, spread = torch.zeros(vocab), torch.zeros(vocab)
    for h, y in zip(hidden, targets, strict=True):
        d = torch.zeros(width, requires_grad=True)
        b = bias.detach().clone().requires_grad_(True)
        z = model.head(h + d) + b
        g_delta, g_bias = torch.autograd.grad(F.cross_entropy(z[None], y[None]), (d, b))
        p = torch.softmax(z.detach(), dim=-1)
        delta, square = delta + g_delta, square + g_delta**2
        total, spread = total + g_bias, spread + p * (1 - p)
    return delta, square, total, spread
