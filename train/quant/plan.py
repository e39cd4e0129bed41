"""Which tensors become grids, at how many bits?  Block matrices and the embedding; everything else stays float16."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from evalkit.errors import DivergenceError
from train.quant.gptq import gptq
from train.quant.grid import Grid, round_to_grid
from train.recipe import Export

Coded = dict[str, Grid | npt.NDArray[np.float16]]
Hessians = dict[str, npt.NDArray[np.float64]]


def quantise(module: torch.nn.Module, export: Export, hessians: Hessians | None) -> Coded:
    """Coded form of every parameter; GPTQ where ``hessians`` are given, round-to-nearest where they are None."""
    coded: Coded = {}
    for name, parameter in module.named_parameters():
        weight = parameter.detach().cpu().float().numpy()
        if not np.isfinite(weight).all():
            raise DivergenceError(f"{name} holds {int((~np.isfinite(weight)).sum())} values that are not finite")
        if not is_grid(name):
            coded[name] = weight.astype(np.float16)
            continue
        bits, k = (
            (export.embed_bits, export.embed_k) if name == "embed.weight" else (export.matrix_bits, export.matrix_k)
        )
        coded[name] = round_to_grid(weight, bits, k) if hessians is None else gptq(weight, hessians[name], bits, k)
    return coded


def is_grid(name: str) -> bool:
    """Linear weights and the embedding; gains, gates and scales are small and stay float16."""
    return name == "embed.weight" or (name.startswith("blocks.") and name.endswith(".weight"))
