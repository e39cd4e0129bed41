"""A trained model as coded tensors: grids for the matrices, float16 for everything else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from evalkit.errors import DivergenceError
from evalkit.models.ek.grid import Grid, round_to_grid
from evalkit.models.ek.lqer import Corrected, correction
from evalkit.train.quant.gptq import gptq
from evalkit.train.quant.names import bits_and_k, damping, is_grid
from evalkit.train.recipe import Export

Coded = dict[str, Grid | Corrected | npt.NDArray[np.float16]]
Hessians = dict[str, npt.NDArray[np.float64]]


def quantise(module: torch.nn.Module, export: Export, hessians: Hessians | None) -> Coded:
    """Coded form of every parameter: GPTQ where there is a Hessian, round-to-nearest where not (looked-up tables)."""
    coded: Coded = {}
    for name, parameter in module.named_parameters():
        weight = parameter.detach().cpu().float().numpy()
        if not np.isfinite(weight).all():
            raise DivergenceError(f"{name} holds {int((~np.isfinite(weight)).sum())} values that are not finite")
        if not is_grid(name, weight.shape):
            coded[name] = weight.astype(np.float16)
            continue
        bits, k = bits_and_k(name, export)
        inputs = (hessians or {}).get(name)
        if inputs is None:
            coded[name] = round_to_grid(weight, bits, k)
        else:
            grid = gptq(weight, inputs, bits, k, damping(name, export))
            rank = export.embed_rank if name == "embed.weight" else 0
            coded[name] = Corrected(grid, correction(weight - grid.dequantise(), rank)) if rank else grid
    return coded
