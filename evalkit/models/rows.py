"""How do logits become the few numbers that a stack needs of each row?

One routine for scalars and for whole rows, so that the probability of a token is the same bits either way:
``p(v) = exp(logit_v - lse)`` with the subtraction in float64 and ``exp`` from libm (``_native.exp``); vectorised exp
differs in the last bit between layouts.

Shape legend: n targets, V vocabulary, K candidate ids per target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evalkit import _native
from evalkit.adapters.base import Bool, Float64, Int32, Needs, Side
from evalkit.errors import DivergenceError

SLAB_CELLS = 1 << 19
"""Cells turned to float64 at a time on a CPU, 4 MiB: from 32 MiB on malloc maps and clears pages for every call, and
2048 rows of 2048 ids took 34 us a row with entropy and argmax where 256 rows at a time take 9.5 us; same bits."""

SLAB_ROWS = 2048
"""Rows at a time on a GPU: bounds memory to SLAB_ROWS * V * 8 bytes."""

P_FLOOR = 1e-300
"""Smallest probability that enters a stack: log stays finite, and V * 1e-300 is far below 1e-12."""


@dataclass(frozen=True)
class RowScalars:
    """What is kept of n rows.

    logp_target float64 [n] (nats, negative); p float64 [n, K] candidate probabilities (column 0 the target), or
    [n, V] when whole rows are kept; side: the prefix-only scalars.
    """

    logp_target: Float64
    p: Float64
    side: Side


@dataclass(frozen=True)
class RowStats:
    """What of n rows needs the whole row: lse float64 [n, 1] on the device (nats), and the prefix-only scalars."""

    lse: Tensor
    side: Side


def slab_rows(logits: Tensor) -> int:
    """Rows of logits [n, V] to turn to float64 at a time."""
    return SLAB_ROWS if logits.is_cuda else max(1, SLAB_CELLS // logits.size(-1))


@torch.no_grad()
def row_stats(logits: Tensor, needs: Needs, groups: dict[str, Bool], first_target: int) -> RowStats:
    """logits [n, V] floating -> RowStats, in slabs from row 0.

    Taken once for a batch and kept, because a reduction over a slice of it may have other last bits (other kernels
    for other shapes).  ``first_target`` is the stream position of row 0, for the error when a row is not finite
    (DivergenceError).
    """
    lses, sides, step = list[Tensor](), list[Side](), slab_rows(logits)
    for begin in range(0, logits.size(0), step):
        slab = logits[begin : begin + step].double()
        lse = torch.logsumexp(slab, dim=-1, keepdim=True)
        _check_finite(lse, first_target + begin)
        lses.append(lse)
        sides.append(_side(slab, lse, needs, groups))
    return RowStats(torch.cat(lses), _join_sides(sides))


@torch.no_grad()
def pick(logits: Tensor, lse: Tensor, ids: Int32) -> Float64:
    """log p of ids int32 [n, K] (-1 reads token 0), float64 [n, K] nats on the host."""
    index = torch.from_numpy(np.maximum(ids, 0).astype(np.int64)).to(logits.device)
    return (logits.gather(1, index).double() - lse).cpu().numpy()


@torch.no_grad()
def whole_rows(logits: Tensor, lse: Tensor) -> Float64:
    """logits [n, V] -> probabilities float64 [n, V] on the host."""
    step = slab_rows(logits)
    parts = [
        native_exp(logits[begin : begin + step].double() - lse[begin : begin + step])
        for begin in range(0, logits.size(0), step)
    ]
    return np.concatenate(parts)


def floored_exp(logp: Float64) -> Float64:
    """libm exp of float64 log-probabilities on the host, floored at P_FLOOR."""
    return np.maximum(_native.exp(np.ascontiguousarray(logp)), P_FLOOR)


def native_exp(logp: Tensor) -> Float64:
    """:func:`floored_exp` of a tensor."""
    return floored_exp(logp.cpu().numpy())


def reduce_rows(logits: Tensor, cands: Int32, needs: Needs, groups: dict[str, Bool], first_target: int) -> RowScalars:
    """logits [n, V] floating, cands int32 [n, K] (column 0 the targets, -1 for none) -> RowScalars."""
    stats = row_stats(logits, needs, groups, first_target)
    return scalars(logits, stats, cands, needs)


def scalars(logits: Tensor, stats: RowStats, cands: Int32, needs: Needs) -> RowScalars:
    """The same from stats already taken."""
    logp = pick(logits, stats.lse, cands)
    p = whole_rows(logits, stats.lse) if needs.rows else floored_exp(logp)
    return RowScalars(np.ascontiguousarray(logp[:, 0]), p, stats.side)


def _check_finite(lse: Tensor, first_target: int) -> None:
    bad = torch.nonzero(~torch.isfinite(lse[:, 0]))
    if len(bad):
        at = first_target + int(bad[0])
        raise DivergenceError(
            f"the model's row for target {at} is not finite ({len(bad)} such rows in this batch); "
            "its weights or activations hold NaN or infinity: check the checkpoint, or lower the learning rate"
        )


def _side(slab: Tensor, lse: Tensor, needs: Needs, groups: dict[str, Bool]) -> Side:
    entropy = top_id = top_p = None
    masses: dict[str, Float64] = {}
    if not (needs.entropy or needs.masses or needs.top):
        return Side()
    logp = slab - lse
    if needs.entropy or needs.masses:
        p = logp.exp()
        if needs.entropy:
            entropy = -(p * logp).sum(-1).cpu().numpy()
        for name in needs.masses:
            mask = torch.from_numpy(groups[name]).to(logp.device)
            masses[name] = p[:, mask].sum(-1).cpu().numpy()
    if needs.top:
        best, index = logp.max(-1)
        top_id, top_p = index.to(torch.int32).cpu().numpy(), native_exp(best)
    return Side(entropy=entropy, top_id=top_id, top_p=top_p, masses=masses)


def _join_sides(sides: list[Side]) -> Side:
    def join(name: str) -> np.ndarray | None:
        arrays = [getattr(side, name) for side in sides]
        return None if arrays[0] is None else np.concatenate(arrays)

    masses = {k: np.concatenate([side.masses[k] for side in sides]) for k in sides[0].masses}
    return Side(entropy=join("entropy"), top_id=join("top_id"), top_p=join("top_p"), masses=masses)
