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

SLAB = 2048
"""Rows turned to float64 at a time: bounds memory to SLAB * V * 8 bytes."""

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

    @staticmethod
    def concat(parts: list[RowScalars]) -> RowScalars:
        def join(name: str) -> np.ndarray | None:
            arrays = [getattr(part.side, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        masses = {k: np.concatenate([part.side.masses[k] for part in parts]) for k in parts[0].side.masses}
        side = Side(entropy=join("entropy"), top_id=join("top_id"), top_p=join("top_p"), masses=masses)
        return RowScalars(
            np.concatenate([part.logp_target for part in parts]), np.concatenate([part.p for part in parts]), side
        )


def native_exp(logp: Tensor) -> Float64:
    """libm exp of float64 log-probabilities, floored at P_FLOOR."""
    return np.maximum(_native.exp(np.ascontiguousarray(logp.cpu().numpy())), P_FLOOR)


@torch.no_grad()
def reduce_rows(logits: Tensor, cands: Int32, needs: Needs, groups: dict[str, Bool], first_target: int) -> RowScalars:
    """logits [n, V] floating, cands int32 [n, K] (column 0 the targets, -1 for none) -> RowScalars.

    ``first_target`` is the stream position of row 0, for the error when a row is not finite (DivergenceError).
    """
    parts = []
    for begin in range(0, logits.size(0), SLAB):
        slab = logits[begin : begin + SLAB].double()
        lse = torch.logsumexp(slab, dim=-1, keepdim=True)
        _check_finite(lse, first_target + begin)
        parts.append(_reduce_slab(slab - lse, cands[begin : begin + SLAB], needs, groups))
    return RowScalars.concat(parts)


def _check_finite(lse: Tensor, first_target: int) -> None:
    bad = torch.nonzero(~torch.isfinite(lse[:, 0]))
    if len(bad):
        at = first_target + int(bad[0])
        raise DivergenceError(
            f"the model's row for target {at} is not finite ({len(bad)} such rows in this batch); "
            "its weights or activations hold NaN or infinity: check the checkpoint, or lower the learning rate"
        )


def _reduce_slab(logp: Tensor, cands: Int32, needs: Needs, groups: dict[str, Bool]) -> RowScalars:
    ids = torch.from_numpy(np.maximum(cands, 0).astype(np.int64)).to(logp.device)
    picked = logp.gather(1, ids)
    p = native_exp(logp if needs.rows else picked)
    return RowScalars(picked[:, 0].cpu().numpy().copy(), p, _side(logp, needs, groups))


def _side(logp: Tensor, needs: Needs, groups: dict[str, Bool]) -> Side:
    entropy = top_id = top_p = None
    masses: dict[str, Float64] = {}
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
