"""Calibration counts: of the probabilities that were told, how many came true?

Counted over whole rows that the sentinel looked at, so over every id and not only the target: in a band of
probability, the sum of p says how many targets should fall there, the count says how many did.  When a stage is
calibrated their difference is a martingale with the variance sum P(1 - P), P the mass of one row in the band: that
gives the interval, without assuming that rows are independent of each other.
"""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from evalkit import _native
from evalkit.adapters.base import Float64

EDGES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Bands of probability: below the first, between neighbours, above the last."""


_EDGES = np.array(EDGES)


class Calibration:
    """Counts by stage and band.  Shape legend: S stages, B = len(EDGES) + 1 bands."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        self.stages, shape = stages, (len(stages), len(EDGES) + 1)
        self.entries = np.zeros(shape, np.int64)
        self.expected, self.variance = np.zeros(shape), np.zeros(shape)
        self.hits = np.zeros(shape, np.int64)

    def add(self, stage: int, row: Float64, token: int) -> None:
        """One row of probabilities, float64 [V], and the target that came after it was fixed."""
        _native.count_bands(
            row,
            edges=_EDGES,
            entries=self.entries[stage],
            expected=self.expected[stage],
            variance=self.variance[stage],
        )
        self.hits[stage, bisect.bisect_right(EDGES, float(row[token]))] += 1

    def as_dict(self) -> dict[str, Any]:
        """For run.json: edges, and per stage four lists of B numbers."""
        names = ("entries", "expected", "variance", "hits")
        return {
            "edges": list(EDGES),
            "stages": [
                {"stage": stage, **{name: getattr(self, name)[i].tolist() for name in names}}
                for i, stage in enumerate(self.stages)
            ],
        }
