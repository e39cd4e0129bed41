"""What should GPTQ give?  The slow twin: after each column the remaining Hessian is inverted afresh."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from train.quant.gptq import prepare
from train.quant.grid import Grid, largest, sdclip


def gptq_naive(weight: npt.NDArray[np.float32], hessian: npt.NDArray[np.float64], bits: int, k: float) -> Grid:
    """Same arguments and result as :func:`train.quant.gptq.gptq`, in O(cols^4)."""
    scale, r = sdclip(weight, bits, k), largest(bits)
    w, h, order = prepare(weight, hessian)
    step = torch.from_numpy(scale.astype(np.float64))
    symbols = np.zeros(weight.shape, dtype=np.int32)
    for j in range(w.shape[1]):
        inverse = torch.linalg.inv(h[j:, j:])
        q = torch.round(w[:, j] / step).clamp(-r, r)
        symbols[:, order[j]] = q.numpy().astype(np.int32)
        error = (w[:, j] - q * step) / inverse[0, 0]
        w[:, j:] -= error[:, None] * inverse[0]
    return Grid(symbols, scale, bits)
