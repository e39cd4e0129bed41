"""What should GPTQ give?  The slow twin: after each column the remaining Hessian is inverted afresh, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from evalkit.models.ek.grid import Grid, largest, sdclip
from evalkit.train.quant.gptq import prepare
from evalkit.train.quant.names import DAMP

Float64 = npt.NDArray[np.float64]


def gptq_naive(weight: npt.NDArray[np.float32], hessian: Float64, bits: int, k: float, damp: float = DAMP) -> Grid:
    """Same arguments and result as :func:`evalkit.train.quant.gptq.gptq`, in O(cols^4)."""
    scale = sdclip(weight, bits, k)
    return Grid(solve_naive(weight, hessian, scale.astype(np.float64)[:, None], largest(bits), damp), scale, bits)


def solve_naive(
    weight: npt.NDArray[np.float32], hessian: Float64, step: Float64, r: int, damp: float = DAMP
) -> npt.NDArray[np.int32]:
    """Same arguments and result as :func:`evalkit.train.quant.gptq.solve`."""
    w, h, order = prepare(weight, hessian, damp)
    steps = torch.from_numpy(np.broadcast_to(step, weight.shape).copy())
    symbols = np.zeros(weight.shape, dtype=np.int32)
    for j in range(w.shape[1]):
        inverse, here = torch.linalg.inv(h[j:, j:]), steps[:, order[j]]
        q = torch.round(w[:, j] / here).clamp(-r, r)
        symbols[:, order[j]] = q.numpy().astype(np.int32)
        error = (w[:, j] - q * here) / inverse[0, 0]
        w[:, j:] -= error[:, None] * inverse[0]
    return symbols
