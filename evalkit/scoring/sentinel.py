"""Is a fast run still a coder?  One whole row per chunk, looked at before its target is scored.

At a position drawn from (seed, chunk), never from the data, the strict row of every stage is computed with the target
withheld.  Each must sum to 1, and the fused score that follows must be the same bits as the row's entry.
"""

from __future__ import annotations

import math
import random
from typing import Any

from evalkit.adapters.base import Float64, Side
from evalkit.errors import LegalityError

SUM_TOLERANCE = 1e-9
"""Float64 rows sum to 1 within about V * 1e-16; a thousand times that leaves room for V = 1e4."""


class Sentinel:
    """``probes`` rows seen, ``worst`` = max |1 - sum| over stages."""

    def __init__(self, seed: int, stages: tuple[str, ...], enabled: bool = True) -> None:
        self.seed, self.stages, self.enabled = seed, stages, enabled
        self.probes = 0
        self.worst = 0.0
        self._rows: list[Float64] | None = None

    def position(self, chunk: int, lo: int, hi: int) -> int:
        """The target to probe in [lo, hi), or -1 when switched off."""
        if not self.enabled:
            return -1
        return random.Random(self.seed * 1_000_003 + chunk).randrange(lo, hi)

    def before(self, stack: Any, row: Float64, side: Side, target: int) -> None:
        """Take the strict rows of the next target; every stage must sum to 1."""
        self._rows = stack.row(row, side)
        assert self._rows is not None
        for stage, values in zip(self.stages, self._rows, strict=True):
            total = math.fsum(values)
            self.worst = max(self.worst, abs(1.0 - total))
            if not abs(1.0 - total) <= SUM_TOLERANCE or float(values.min()) < 0.0:
                raise LegalityError(
                    "normalised",
                    target,
                    f"stage '{stage}' gave target {target} a row that sums to {total:.12g} (allowed 1 +- {SUM_TOLERANCE:g}, "
                    f"smallest entry {float(values.min()):.3g}); nothing after target {target - 1} is booked; "
                    f"see it: evalkit audit {stage}",
                )
        self.probes += 1

    def after(self, scored: Float64, token: int, target: int) -> None:
        """``scored`` float64 [S+1]: the fused probabilities of the target whose rows ``before`` took."""
        assert self._rows is not None
        for stage, values, fused in zip(self.stages, self._rows, scored, strict=True):
            if float(values[token]) != float(fused):
                raise LegalityError(
                    "causal",
                    target,
                    f"stage '{stage}' booked p={float(fused)!r} for target {target}, but its row with the target withheld "
                    f"says {float(values[token])!r}: the score depends on the target; nothing after target {target - 1} "
                    f"is booked; see it: evalkit audit {stage}",
                )
        self._rows = None
