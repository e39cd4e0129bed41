"""How far is a hint trusted before anything was booked?  The starting point of the online calibration, per bucket.

A hint comes with a bucket: how often its token followed the context and how often others did, or how long a match is.
The calibrated probability of a hint is q = sigma(s), with s linear in logit p(h), in the log of the mass that the
model gives to such tokens, and in one learned number (theta) for the bucket of each source that names the hint.  The
boost is beta = s - logit p(h), so nothing is boosted that the model already trusts more.  csrc/core/tilt.hpp has the
formula, ``tests/twins/hint_calibration.py`` the same in Python.
"""

from __future__ import annotations

import math
from typing import NamedTuple

TOPS = (1, 2, 3, 4, 5, 8, 16, 32)
"""Least count of the hinted token in each bucket."""
RESTS = (0, 1, 2, 3, 5, 9)
"""Least count of all other followers in each bucket."""
LENGTHS = 25
MISSES = 4
RUNS = 9
START_THETA = 0.3
"""Share of the prior's log-odds that theta starts with; logit p(h) starts with weight 0.7."""
DOUBT = 0.8
"""The prior is this much less sure than the counts: a hint that is right adds less than a wrong one costs."""


class Rates(NamedTuple):
    """Constants of the learning; the same numbers stand in csrc/core/tilt.{hpp,cpp}."""

    weight: float = 0.2
    theta: float = 0.1
    low: float = -2.0
    high: float = 8.0
    start_weight: float = 0.7
    start_mass: float = 0.3
    start_squares: float = 1.0
    least: float = 1e-6


def logit(p: float) -> float:
    """Natural log-odds."""
    return math.log(p / (1.0 - p))


def count_theta(orders: int = 1) -> list[float]:
    """Start of theta for count buckets: the log-odds of a KT-like estimate; ``orders`` blocks of 48."""
    block = [START_THETA * logit(DOUBT * (top + 0.4) / (top + rest + 1.4)) for top in TOPS for rest in RESTS]
    return block * orders


def match_theta() -> list[float]:
    """Start of theta for the buckets of a match: even odds."""
    return [0.0] * (LENGTHS * MISSES * RUNS)
