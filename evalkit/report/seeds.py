"""The field's rule for a record: better by 0.005 nats per token, at p < 0.01 over runs of several seeds.

Rule: openai/parameter-golf, README.  The test is one-sided: paired t where run i of A and run i of B belong together
(the same checkpoint, the same seed), and Welch's t where they do not; both are told, the pairs decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import InputError
from evalkit.report.compare import compare, read_run

FIELD_NATS = 0.005
LEVEL = 0.01
PANELS = 20_000


def over_seeds(pairs: Sequence[tuple[Path, Path]], *, force: bool = False, column: str = "nats") -> dict[str, Any]:
    """``pairs``: (A, B) run directories, one pair a seed.  InputError below 2 seeds, for the same run given twice, and
    for runs that :func:`compare` would refuse."""
    if len(pairs) < 2:
        raise InputError(f"the field's rule needs runs of at least 2 seeds, got {len(pairs)} pair")
    for side in (0, 1):
        _check_distinct([pair[side] for pair in pairs])
    losses = np.array([_losses(a, b, force, column) for a, b in pairs])
    t, p = paired_t(losses[:, 0] - losses[:, 1] - FIELD_NATS)
    t_welch, p_welch = welch_t(losses[:, 0] - FIELD_NATS, losses[:, 1])
    return {
        "seeds": len(pairs),
        "nats_per_token": losses.tolist(),
        "gain_nats_per_token": float((losses[:, 0] - losses[:, 1]).mean()),
        "bar": FIELD_NATS,
        "level": LEVEL,
        "t": t if math.isfinite(t) else None,
        "p": p,
        "t_welch": t_welch if math.isfinite(t_welch) else None,
        "p_welch": p_welch,
        "record": bool(p < LEVEL),
    }


def _losses(a: Path, b: Path, force: bool, column: str) -> tuple[float, float]:
    """Nats per token of both, on the documents that both scored."""
    found = compare(a, b, force=force, column=column)
    if found["delta_nats_per_token"] is None:
        raise InputError(f"{a} and {b} have different tokenizers, so nats per token of one say nothing of the other")
    return found["a"]["nats_per_token"], found["b"]["nats_per_token"]


def _check_distinct(folders: list[Path]) -> None:
    seen: dict[Any, Path] = {}
    for folder in folders:
        run = read_run(folder).run
        key = (run.fingerprint["model"], run.settings["seed"])
        if key in seen:
            raise InputError(
                f"{seen[key]} and {folder} have the same model and seed {key[1]}: they are one run, not two seeds"
            )
        seen[key] = folder


def paired_t(excess: np.ndarray) -> tuple[float, float]:
    """(t, one-sided p) that the mean of ``excess`` [n] is above zero, n >= 2."""
    return _test(float(excess.mean()), float(excess.var(ddof=1)) / len(excess), len(excess) - 1.0)


def welch_t(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(t, one-sided p) that the mean of ``a`` is above that of ``b``; Welch (1947), unequal variances."""
    u, v = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    freedom = (u + v) ** 2 / (u * u / (len(a) - 1) + v * v / (len(b) - 1)) if u + v > 0 else len(a) + len(b) - 2.0
    return _test(float(a.mean() - b.mean()), u + v, freedom)


def _test(mean: float, variance: float, freedom: float) -> tuple[float, float]:
    if variance == 0:
        return (math.inf, 0.0) if mean > 0 else (-math.inf, 1.0) if mean < 0 else (0.0, 0.5)
    t = mean / math.sqrt(variance)
    return t, student_tail(t, freedom)


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's t, freedom >= 1: Simpson's rule over the angle atan(T / sqrt(freedom)), from t outwards.

    Within 1e-12 of the closed forms for 1 and 2 degrees, and of tables to their last digit.
    """
    if t < 0:
        return 1.0 - student_tail(-t, freedom)
    x = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, PANELS + 1)
    y = np.maximum(np.cos(x), 0.0) ** (freedom - 1)
    area = (x[1] - x[0]) / 3 * float(y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum())
    return area * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
