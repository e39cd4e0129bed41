"""What does work on finished symbols bring?  Pruning of +-1 and random +-1 steps; experiments, off in every recipe.

Selective pruning (#1019) zeroes the symbols +-1 that cost least, step^2 (times the input's power); superseded by
bisecting k.  EGGROLL (#1156) moves random bins by one and keeps what lowers the loss on calibration text: 6 to 14
accepted steps a seed and no isolated gain.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from evalkit.models.ek.grid import Grid, largest

Grids = dict[str, Grid]


def prune(grids: Grids, share: float, power: dict[str, npt.NDArray[np.float64]] | None = None) -> Grids:
    """Zero the cheapest ``share`` of all symbols +-1.  ``power``: mean square of each tensor's inputs, float64 [cols]."""
    costs = {name: _cost(grid, None if power is None else power.get(name)) for name, grid in grids.items()}
    alone = np.concatenate([costs[name][np.abs(grids[name].symbols) == 1] for name in grids])
    if not len(alone) or share <= 0:
        return dict(grids)
    limit = np.quantile(alone, min(1.0, share))
    pruned: Grids = {}
    for name, grid in grids.items():
        drop = (np.abs(grid.symbols) == 1) & (costs[name] <= limit)
        pruned[name] = Grid(np.where(drop, 0, grid.symbols).astype(np.int32), grid.scale, grid.bits)
    return pruned


def _cost(grid: Grid, power: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
    """What zeroing a symbol +-1 costs: float64 [rows, cols]."""
    cost = np.repeat(grid.scale.astype(np.float64)[:, None] ** 2, grid.symbols.shape[1], axis=1)
    return cost if power is None else cost * power


def step_bins(
    grids: Grids, loss: Callable[[Grids], float], trials: int, bins: int, seed: int
) -> tuple[Grids, list[float]]:
    """Move ``bins`` random symbols by +-1, ``trials`` times; keep each move that lowers ``loss``: (grids, losses kept)."""
    rng, names = np.random.default_rng(seed), sorted(grids)
    sizes = np.array([grids[n].symbols.size for n in names], np.float64)
    best, kept = loss(grids), list[float]()
    for _ in range(trials):
        name = names[int(rng.choice(len(names), p=sizes / sizes.sum()))]
        grid = grids[name]
        symbols = grid.symbols.copy().ravel()
        at = rng.choice(symbols.size, min(bins, symbols.size), replace=False)
        moved = symbols[at] + rng.choice((-1, 1), len(at))
        symbols[at] = np.clip(moved, -largest(grid.bits), largest(grid.bits))
        tried = grids | {name: Grid(symbols.reshape(grid.symbols.shape).astype(np.int32), grid.scale, grid.bits)}
        if (now := loss(tried)) < best:
            grids, best = tried, now
            kept.append(now)
    return grids, kept
