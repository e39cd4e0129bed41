"""What should an optimiser step give?  Slow float64 twins of optim.py: one matrix at a time, textbook order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evalkit.adapters.learners.optim import POLAR_EXPRESS, QUINTIC, SAFETY, Triple

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


def quintic_naive(u: Float64) -> Float64:
    """Five steps of Muon's own triple on one matrix."""
    return _steps(_wide(u) / (np.sqrt((u * u).sum()) * SAFETY + 1e-7), (QUINTIC,) * 5, u)


def turbo_naive(u: Float64) -> Float64:
    """Turbo-Muon on one matrix: rows scaled by (sum_j |X X^T|_ij)^-1/2, then the last four Polar Express steps."""
    x = _wide(u) / (np.sqrt((u * u).sum()) * SAFETY + 1e-7)
    weights = np.abs(x @ x.T).sum(axis=1)
    return _steps(np.diag(1 / np.sqrt(np.maximum(weights, 1e-14))) @ x, POLAR_EXPRESS[1:], u)


def _wide(u: Float64) -> Float64:
    return u if u.shape[0] <= u.shape[1] else u.T


def _steps(x: Float64, triples: tuple[Triple, ...], u: Float64) -> Float64:
    for a, b, c in triples:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x if u.shape[0] <= u.shape[1] else x.T


def normuon_naive(o: Float64, second: Float64, beta: float) -> tuple[Float64, Float64]:
    """NorMuon on one orthogonalised update [rows, cols]: (rescaled update, row second moments [rows])."""
    second = beta * second + (1 - beta) * (o * o).mean(axis=1)
    scaled = o / np.sqrt(second)[:, None]
    return scaled * np.sqrt((o * o).sum() / (scaled * scaled).sum()), second


def adamw_naive(
    weight: Float64,
    grads: list[Float64],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Float64:
    """The weight after one AdamW step for each gradient, in the order of the paper's algorithm 2."""
    m, v = np.zeros_like(weight), np.zeros_like(weight)
    for t, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        weight = weight - lr * weight_decay * weight - lr * m_hat / (np.sqrt(v_hat) + eps)
    return weight


def ema_naive(start: Float64, weights: list[Float64], decay: float) -> Float64:
    """The shadow after each of ``weights`` (steps 1, 2, ...) in turn."""
    shadow = start
    for t, w in enumerate(weights, 1):
        d = min(decay, (1 + t) / (10 + t))
        shadow = d * shadow + (1 - d) * w
    return shadow
