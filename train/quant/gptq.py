"""GPTQ with the full Hessian: rounding error hidden where inputs do not look (arXiv 2210.17323).

Each column is rounded in turn, largest Hessian diagonal first, and its error is spread over the columns not yet
rounded, along the upper Cholesky factor of the inverse Hessian.  The twin in tests/twins/gptq.py inverts instead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from evalkit.models.ek.grid import Grid, largest, sdclip
from evalkit.train.quant.names import DAMP

Float64 = npt.NDArray[np.float64]
BLOCK = 128


def gptq(weight: npt.NDArray[np.float32], hessian: Float64, bits: int, k: float, damp: float = DAMP) -> Grid:
    """weight [rows, cols], hessian [cols, cols] = sum of x x^T over calibration inputs -> Grid of the same shape.

    ``damp`` is added to the diagonal, as a share of its mean; the larger, the closer to rounding to nearest.
    """
    scale = sdclip(weight, bits, k)
    return Grid(solve(weight, hessian, scale.astype(np.float64)[:, None], largest(bits), damp), scale, bits)


def solve(
    weight: npt.NDArray[np.float32], hessian: Float64, step: Float64, r: int, damp: float = DAMP
) -> npt.NDArray[np.int32]:
    """Symbols in -r..r, int32 [rows, cols], on steps that broadcast to [rows, cols] (one per row, or per group)."""
    w, h, order = prepare(weight, hessian, damp)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    steps = torch.from_numpy(np.broadcast_to(step, weight.shape).copy())[:, order]
    symbols = torch.zeros_like(w)
    for lo in range(0, w.shape[1], BLOCK):
        hi = min(lo + BLOCK, w.shape[1])
        errors = _round_block(w[:, lo:hi], symbols[:, lo:hi], upper[lo:hi, lo:hi], steps[:, lo:hi], r)
        w[:, hi:] -= errors @ upper[lo:hi, hi:]
    unordered = torch.empty_like(symbols)
    unordered[:, order] = symbols
    return unordered.numpy().astype(np.int32)


def prepare(
    weight: npt.NDArray[np.float32], hessian: Float64, damp: float = DAMP
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float64 (weight, damped Hessian), both in activation order, and that order; columns never fed become 0."""
    w, h = torch.from_numpy(weight.astype(np.float64)), torch.from_numpy(hessian.copy())
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1.0
    w[:, dead] = 0.0
    h.diagonal().add_(damp * h.diagonal().mean())
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    return w[:, order].contiguous(), h[order][:, order].contiguous(), order


def _round_block(
    w: torch.Tensor, symbols: torch.Tensor, upper: torch.Tensor, step: torch.Tensor, r: int
) -> torch.Tensor:
    """Round the columns of w in place into ``symbols``; return their scaled errors."""
    errors = torch.zeros_like(w)
    for j in range(w.shape[1]):
        symbols[:, j] = torch.round(w[:, j] / step[:, j]).clamp_(-r, r)
        errors[:, j] = (w[:, j] - symbols[:, j] * step[:, j]) / upper[j, j]
        w[:, j:] -= errors[:, j, None] * upper[j, j:]
    return errors
