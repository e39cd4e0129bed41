"""Logits become the few numbers that a stack needs of each row.

On a CPU one native pass takes them (csrc/core/rows.cpp); elsewhere torch does, in float64.  The probability of a token
is the same bits as a single value and in its row: ``p(v) = exp(logit_v - lse)`` with the subtraction in float64 and
``exp`` from ``_native.exp_values``, or, for a stack that reads whole rows, the entry of :class:`Rows`.

Shape legend: n targets, V vocabulary, K candidate ids per target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evalkit import _native
from evalkit.adapters.base import Bool, Float64, Int32, Needs, Rows, Side
from evalkit.errors import DivergenceError

Cells = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]
"""Logits [n, V] as numpy has them; uint16 holds bfloat16."""

SLAB_ROWS = 2048
"""Rows at a time where torch reduces them: bounds memory to SLAB_ROWS * V * 8 bytes."""

P_FLOOR = 1e-300
"""Smallest probability that enters a stack: log stays finite, and V * 1e-300 is far below 1e-12."""


@dataclass(frozen=True)
class RowScalars:
    """What is kept of n rows.

    logp_target float64 [n] (nats, negative); p float64 [n, K] candidate probabilities (column 0 the target), or whole
    rows when the stack reads them; side: the prefix-only scalars.
    """

    logp_target: Float64
    p: Float64 | Rows
    side: Side


@dataclass(frozen=True)
class RowStats:
    """What of n rows needs the whole row: lse float64 [n, 1] on the device (nats), the prefix-only scalars, and the rows
    themselves when the stack reads them."""

    lse: Tensor
    side: Side
    rows: Rows | None = None

    def cut(self, begin: int, end: int) -> RowStats:
        """Rows begin..end-1."""
        rows = None if self.rows is None else self.rows.cut(begin, end)
        return RowStats(self.lse[begin:end], self.side.cut(begin, end), rows)

    def probabilities(self, logits: Tensor) -> Float64:
        """The whole rows, float64 [n, V]: as the stack gets them, or as its single columns."""
        return whole_rows(logits, self.lse) if self.rows is None else self.rows.p()


def native_cells(logits: Tensor) -> Cells | None:
    """logits [n, V] as the native pass takes them, without a copy; None where it does not."""
    if logits.device.type != "cpu" or logits.dim() != 2 or logits.stride(1) != 1 or logits.size(0) == 0:
        return None
    if logits.dtype == torch.bfloat16:
        return logits.detach().view(torch.uint16).numpy()
    return logits.detach().numpy() if logits.dtype in (torch.float32, torch.float16) else None


@torch.no_grad()
def row_stats(logits: Tensor, needs: Needs, groups: dict[str, Bool], first_target: int) -> RowStats:
    """logits [n, V] floating -> RowStats.

    Taken once for a batch and kept: where torch reduces, a slice of it may have other last bits (other kernels for
    other shapes).  ``first_target`` is the stream position of row 0, for the error when a row is not finite
    (DivergenceError).
    """
    cells = native_cells(logits)
    if cells is not None:
        return _native_stats(cells, needs, groups, first_target)
    lses, sides, rows = list[Tensor](), list[Side](), list[Rows]()
    for begin in range(0, logits.size(0), SLAB_ROWS):
        slab = logits[begin : begin + SLAB_ROWS].double()
        lse = torch.logsumexp(slab, dim=-1, keepdim=True)
        _check_finite(lse[:, 0].cpu().numpy(), first_target + begin)
        lses.append(lse)
        sides.append(_side(slab, lse, needs, groups))
        if needs.rows:
            weights = (slab - slab.amax(-1, keepdim=True)).exp().float()
            rows.append(Rows(weights.cpu().numpy(), (1.0 / weights.double().sum(-1)).cpu().numpy()))
    whole = (
        Rows(*(np.concatenate(x) for x in zip(*((r.weights, r.factors) for r in rows), strict=True))) if rows else None
    )
    return RowStats(torch.cat(lses), _join_sides(sides), whole)


def _native_stats(cells: Cells, needs: Needs, groups: dict[str, Bool], first_target: int) -> RowStats:
    wanted = [np.ascontiguousarray(groups[name]) for name in needs.masses]
    lse, entropy, top, masses, _, weights, factors = _native.row_sums(
        cells, groups=wanted, weights=needs.rows, threads=torch.get_num_threads()
    )
    _check_finite(lse, first_target)
    top_p = floored_exp(_native.row_pick(cells, lse=lse, ids=top[:, None]))[:, 0] if needs.top else None
    side = Side(
        entropy=entropy if needs.entropy else None,
        top_id=top if needs.top else None,
        top_p=top_p,
        masses=dict(zip(needs.masses, masses, strict=True)),
    )
    rows = None if weights is None or factors is None else Rows(weights, factors)
    return RowStats(torch.from_numpy(lse)[:, None], side, rows)


@torch.no_grad()
def pick(logits: Tensor, lse: Tensor, ids: Int32) -> Float64:
    """log p of ids int32 [n, K] (-1 reads token 0), float64 [n, K] nats on the host."""
    cells = native_cells(logits)
    if cells is not None:
        return _native.row_pick(cells, lse=np.ascontiguousarray(lse[:, 0].numpy()), ids=np.ascontiguousarray(ids))
    index = torch.from_numpy(np.maximum(ids, 0).astype(np.int64)).to(logits.device)
    return (logits.gather(1, index).double() - lse).cpu().numpy()


@torch.no_grad()
def whole_rows(logits: Tensor, lse: Tensor) -> Float64:
    """logits [n, V] -> probabilities float64 [n, V] on the host."""
    cells = native_cells(logits)
    if cells is not None:
        totals = np.ascontiguousarray(lse[:, 0].numpy())
        return _native.row_probabilities(cells, lse=totals, floor=P_FLOOR, threads=torch.get_num_threads())
    parts = [
        native_exp(logits[begin : begin + SLAB_ROWS].double() - lse[begin : begin + SLAB_ROWS])
        for begin in range(0, logits.size(0), SLAB_ROWS)
    ]
    return np.concatenate(parts)


def floored_exp(logp: Float64) -> Float64:
    """exp of float64 log-probabilities on the host, floored at P_FLOOR."""
    return np.maximum(_native.exp_values(np.ascontiguousarray(logp)), P_FLOOR)


def native_exp(logp: Tensor) -> Float64:
    """:func:`floored_exp` of a tensor."""
    return floored_exp(logp.cpu().numpy())


def scalars(logits: Tensor, stats: RowStats, cands: Int32) -> RowScalars:
    """logits [n, V] and their stats, cands int32 [n, K] (column 0 the targets, -1 for none) -> RowScalars."""
    if stats.rows is None:
        logp = pick(logits, stats.lse, cands)
        return RowScalars(np.ascontiguousarray(logp[:, 0]), floored_exp(logp), stats.side)
    return RowScalars(pick(logits, stats.lse, cands[:, :1])[:, 0], stats.rows, stats.side)


def _check_finite(lse: Float64, first_target: int) -> None:
    bad = np.flatnonzero(~np.isfinite(lse))
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
