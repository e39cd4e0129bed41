"""The reduction of logits to an :class:`~evalkit.models.rows.Answer`, where the logits are.

On a CPU one native pass takes the rows (csrc/core/rows.cpp); elsewhere torch does, in float64.  The probability of a token
is the same bits as a single value and in its row: ``p(v) = exp(logit_v - lse)`` with the subtraction in float64 and
``exp`` from ``_native.exp_values``, or, for a stack that reads whole rows, the entry of :class:`~evalkit.adapters.base.Rows`.

Shape legend: n targets, V vocabulary, K candidate ids per target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evalkit import _native
from evalkit.adapters.base import Bool, Float64, Int32, Needs, Rows, Side, named
from evalkit.errors import DivergenceError
from evalkit.models.rows import P_FLOOR, Answer, Question, exp_floored

Cells = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]
"""Logits [n, V] as numpy has them; uint16 holds bfloat16."""

SLAB_ROWS = 2048
"""Rows at a time where torch reduces them: bounds memory to SLAB_ROWS * V * 8 bytes."""


@torch.no_grad()
def reduce(logits: Tensor, question: Question, needs: Needs, groups: dict[str, Bool]) -> Answer:
    """Logits [n, V] floating of targets [question.lo, question.hi) -> Answer.

    All rows of a forward call at once: where torch reduces, a slice of it may have other last bits (other kernels for other
    shapes).  Raises DivergenceError when a row is not finite.
    """
    cells = native_cells(logits)
    if cells is None:
        lse, side, rows = _by_torch(logits, question.lo, needs, groups)
    else:
        lse, side, rows = _by_kernel(cells, question.lo, needs, groups)
    cands = named(question.cands, side)
    logp = _pick(logits, lse, cands if rows is None else cands[:, :1])
    probed = {t: _row(logits, lse, rows, t - question.lo) for t in question.probes}
    return Answer(question.lo, cands, logp, side, rows, probed)


def native_cells(logits: Tensor) -> Cells | None:
    """logits [n, V] as the native pass takes them, without a copy; None where it does not."""
    if logits.device.type != "cpu" or logits.dim() != 2 or logits.stride(1) != 1 or logits.size(0) == 0:
        return None
    if logits.dtype == torch.bfloat16:
        return logits.detach().view(torch.uint16).numpy()
    return logits.detach().numpy() if logits.dtype in (torch.float32, torch.float16) else None


def _by_kernel(
    cells: Cells, first_target: int, needs: Needs, groups: dict[str, Bool]
) -> tuple[Float64, Side, Rows | None]:
    """Lse float64 [n] in nats, the prefix-only scalars, and the rows if the stack reads them."""
    wanted = [np.ascontiguousarray(groups[name]) for name in needs.masses]
    lse, entropy, top, masses, _, weights, factors = _native.row_sums(
        cells, groups=wanted, weights=needs.rows, threads=torch.get_num_threads()
    )
    _check_finite(lse, first_target)
    top_p = exp_floored(_native.row_pick(cells, lse=lse, ids=top[:, None]))[:, 0] if needs.top else None
    side = Side(
        entropy=entropy if needs.entropy else None,
        top_id=top if needs.top else None,
        top_p=top_p,
        masses=dict(zip(needs.masses, masses, strict=True)),
    )
    return lse, side, None if weights is None or factors is None else Rows(weights, factors)


def _by_torch(
    logits: Tensor, first_target: int, needs: Needs, groups: dict[str, Bool]
) -> tuple[Float64, Side, Rows | None]:
    """The same in slabs from row 0."""
    ids = [torch.from_numpy(np.flatnonzero(groups[name])).to(logits.device) for name in needs.masses]
    lses, sides, rows = list[Float64](), list[Side](), list[Rows]()
    for begin in range(0, logits.size(0), SLAB_ROWS):
        slab = logits[begin : begin + SLAB_ROWS]
        found = statistics(slab, ids, entropy=needs.entropy, top=needs.top)
        host = {name: tensor.cpu().numpy() for name, tensor in found.items()}
        lses.append(host["lse"])
        _check_finite(lses[-1], first_target + begin)
        sides.append(_side(host, needs))
        if needs.rows:
            weights = (slab.double() - slab.amax(-1, keepdim=True).double()).exp().float()
            rows.append(Rows(weights.cpu().numpy(), (1.0 / weights.double().sum(-1)).cpu().numpy()))
    whole = Rows(np.concatenate([r.weights for r in rows]), np.concatenate([r.factors for r in rows])) if rows else None
    return np.concatenate(lses), _join_sides(sides), whole


def statistics(slab: Tensor, groups: Sequence[Tensor], *, entropy: bool, top: bool) -> dict[str, Tensor]:
    """Logits [n, V] -> float64 where they are: ``lse`` [n] and, as asked, ``entropy`` [n], ``masses`` [G, n], ``top_logp`` [n]
    nats with ``top_id`` int64 [n].  groups: int64 ids of each.  Tensors in, tensors out: torch.compile takes it as it is.
    """
    wide = slab.double()
    lse = torch.logsumexp(wide, dim=-1, keepdim=True)
    found = {"lse": lse[:, 0]}
    if not (entropy or groups or top):
        return found
    logp = wide - lse
    if entropy or groups:
        p = logp.exp()
        if entropy:
            found["entropy"] = -(p * logp).sum(-1)
        if groups:
            found["masses"] = torch.stack([p[:, ids].sum(-1) for ids in groups])
    if top:
        found["top_logp"], found["top_id"] = logp.max(-1)
    return found


def _pick(logits: Tensor, lse: Float64, ids: Int32) -> Float64:
    """Log p of ids int32 [n, K] (-1 reads token 0), float64 [n, K] nats."""
    cells = native_cells(logits)
    if cells is not None:
        return _native.row_pick(cells, lse=lse, ids=np.ascontiguousarray(ids))
    index = torch.from_numpy(np.maximum(ids, 0).astype(np.int64)).to(logits.device)
    return logits.gather(1, index).double().cpu().numpy() - lse[:, None]


def _row(logits: Tensor, lse: Float64, rows: Rows | None, i: int) -> Float64:
    """The whole row i, float64 [V] probabilities, with the bits that the stack gets."""
    if rows is not None:
        return rows.cut(i, i + 1).p()[0]
    cells = native_cells(logits[i : i + 1])
    if cells is None:
        return exp_floored(logits[i].double().cpu().numpy() - lse[i])
    return _native.row_probabilities(cells, lse=lse[i : i + 1], floor=P_FLOOR, threads=torch.get_num_threads())[0]


def _check_finite(lse: Float64, first_target: int) -> None:
    bad = np.flatnonzero(~np.isfinite(lse))
    if len(bad):
        at = first_target + int(bad[0])
        raise DivergenceError(
            f"the model's row for target {at} is not finite ({len(bad)} such rows in this batch); "
            "its weights or activations hold NaN or infinity: check the checkpoint, or lower the learning rate"
        )


def _side(host: dict[str, np.ndarray], needs: Needs) -> Side:
    """From :func:`statistics`, on the host."""
    return Side(
        entropy=host.get("entropy"),
        top_id=host["top_id"].astype(np.int32) if needs.top else None,
        top_p=exp_floored(host["top_logp"]) if needs.top else None,
        masses=dict(zip(needs.masses, host.get("masses", ()), strict=True)),
    )


def _join_sides(sides: list[Side]) -> Side:
    def join(name: str) -> np.ndarray | None:
        arrays = [getattr(side, name) for side in sides]
        return None if arrays[0] is None else np.concatenate(arrays)

    masses = {k: np.concatenate([side.masses[k] for side in sides]) for k in sides[0].masses}
    return Side(entropy=join("entropy"), top_id=join("top_id"), top_p=join("top_p"), masses=masses)
