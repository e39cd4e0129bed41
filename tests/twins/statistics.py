"""What is a paired bootstrap?  The plain twin of :mod:`evalkit.scoring.statistics`: lists, one draw after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def paired_interval_naive(
    delta_nats: Sequence[float], size_bytes: Sequence[float], seed: int, resamples: int
) -> tuple[float, float] | None:
    """2.5 % and 97.5 % points of the resampled rate, in bits per byte."""
    documents = [(d, s) for d, s in zip(delta_nats, size_bytes, strict=True) if s > 0]
    if len(documents) < 2:
        return None
    rng, rates = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = [documents[i] for i in rng.integers(0, len(documents), len(documents))]
        rates.append(math.fsum(d for d, _ in drawn) / math.fsum(s for _, s in drawn) / math.log(2))
    rates.sort()
    return _point(rates, 0.025), _point(rates, 0.975)


def _point(ordered: list[float], share: float) -> float:
    """Linear between order statistics."""
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])
