"""How is rounding error hidden where inputs do not look?  GPTQ with the full Hessian (training facts, section 5).

Each column is rounded in turn, largest Hessian diagonal first, and its error is spread over the columns not yet
rounded, along the upper Cholesky factor of the inverse Hessian.  The twin in gptq_naive.py inverts instead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from train.quant.grid import Grid, largest, sdclip

Float64 = npt.NDArray[np.float64]
DAMP = 0.01  # of the mean diagonal
BLOCK = 128


def gptq(weight: npt.NDArray[np.float32], hessian: Float64, bits: int, k: float) -> Grid:
    """weight [rows, cols], hessian [cols, cols] = sum of x x^T over calibration inputs -> Grid of the same shape."""
    scale = sdclip(weight, bits, k)
    w, h, order = prepare(weight, hessian)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    step = torch.from_numpy(scale.astype(np.float64))
    symbols = torch.zeros_like(w)
    for lo in range(0, w.shape[1], BLOCK):
        hi = min(lo + BLOCK, w.shape[1])
        errors = _round_block(w[:, lo:hi], symbols[:, lo:hi], upper[lo:hi, lo:hi], step, largest(bits))
        w[:, hi:] -= errors @ upper[lo:hi, hi:]
    unordered = torch.empty_like(symbols)
    unordered[:, order] = symbols
    return Grid(unordered.numpy().astype(np.int32), scale, bits)


def prepare(weight: npt.NDArray[np.float32], hessian: Float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float64 (weight, damped Hessian), both in activation order, and that order; columns never fed become 0."""
    w, h = torch.from_numpy(weight.astype(np.float64)), torch.from_numpy(hessian.copy())
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1.0
    w[:, dead] = 0.0
    h.diagonal().add_(DAMP * h.diagonal().mean())
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    return w[:, order].contiguous(), h[order][:, order].contiguous(), order


def _round_block(
    w: torch.Tensor, symbols: torch.Tensor, upper: torch.Tensor, step: torch.Tensor, r: int
) -> torch.Tensor:
    """Round the columns of w in place into ``symbols``; return their scaled errors."""
    errors = torch.zeros_like(w)
    for j in range(w.shape[1]):
        symbols[:, j] = torch.round(w[:, j] / step).clamp_(-r, r)
        errors[:, j] = (w[:, j] - symbols[:, j] * step) / upper[j, j]
        w[:, j:] -= errors[:, j, None] * upper[j, j:]
    return errors
