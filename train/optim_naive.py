"""What should an optimiser step give?  Slow float64 twins of optim.py: one matrix at a time, textbook order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from train.optim import POLAR_EXPRESS, SAFETY

Float64 = npt.NDArray[np.float64]


def orthogonalise_naive(u: Float64) -> Float64:
    """Five Polar Express steps on one matrix [rows, cols]."""
    x = (u if u.shape[0] <= u.shape[1] else u.T) / (np.sqrt((u * u).sum()) * SAFETY + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x if u.shape[0] <= u.shape[1] else x.T


def muon_naive(
    weight: Float64, momentum: Float64, grad: Float64, *, lr: float, mu: float, weight_decay: float, row_norm: bool
) -> tuple[Float64, Float64]:
    """One Muon step of one matrix: (weight, momentum) after it."""
    momentum = mu * momentum + grad
    update = grad + mu * momentum
    if row_norm:
        update = update / np.sqrt((update * update).sum(axis=1, keepdims=True))
    scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
    return (1 - lr * weight_decay) * weight - lr * scale * orthogonalise_naive(update), momentum
