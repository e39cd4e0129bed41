"""The sentinel: some whole rows of each chunk, looked at before their targets are scored.

At positions drawn from (seed, chunk), never from the data, the strict row of every stage is computed with the target
withheld.  Each must sum to 1, and the fused score that follows must be the same bits as the row's entry.  Once the
target is scored, the rows also tell how calibrated each stage is.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from evalkit import _native
from evalkit.adapters.base import Float64, Side
from evalkit.errors import LegalityError
from evalkit.scoring.calibration import Calibration

SUM_TOLERANCE = 1e-9
"""Float64 rows sum to 1 within about V * 1e-16; a thousand times that leaves room for V = 1e4."""

ENTRIES = 1 << 22
"""Row entries looked at in a run, about: 4,096 rows of 1,024 ids, 83 of 50,257; at least one row a chunk.  A row of 1,024
ids through a 6-order cache takes 0.03 ms on one core: a tenth of a second for a run of any length."""
ROW_EVERY = 64
"""At most one row for so many targets."""


def rows_a_chunk(n_targets: int, chunk_tokens: int, vocab_size: int) -> int:
    """How many rows to look at in each chunk."""
    chunks = -(-n_targets // chunk_tokens)
    return max(1, min(-(-ENTRIES // (vocab_size * chunks)), chunk_tokens // ROW_EVERY))


class Sentinel:
    """``probes`` rows seen, ``worst`` = max |1 - sum| over stages, ``calibration`` by stage."""

    def __init__(self, seed: int, stages: tuple[str, ...], enabled: bool = True, rows: int = 1) -> None:
        """``rows``: how many to look at in each chunk."""
        self.seed, self.stages, self.enabled, self.rows = seed, stages, enabled, rows
        self.probes = 0
        self.worst = 0.0
        self.calibration = Calibration(stages)
        self._rows: list[Float64] | None = None

    def positions(self, chunk: int, lo: int, hi: int) -> list[int]:
        """The targets to probe in [lo, hi), in order; none when switched off."""
        if not self.enabled:
            return []
        draw = random.Random(self.seed * 1_000_003 + chunk)
        return sorted(draw.sample(range(lo, hi), min(self.rows, hi - lo)))

    def before(self, stack: Any, row: Float64, side: Side, target: int) -> None:
        """Take the strict rows of the next target; every stage must sum to 1."""
        self._rows = [np.ascontiguousarray(values, dtype=np.float64) for values in stack.row(row, side)]
        whole = np.array([0, len(row)])
        for stage, values in zip(self.stages, self._rows, strict=True):
            total, least = float(_native.exact_sums(values, whole)[0]), float(values.min())
            off = abs(1.0 - total)
            self.worst = max(self.worst, off)
            if not off <= SUM_TOLERANCE or least < 0.0:
                what = (
                    f"stage '{stage}' gave target {target} a row that sums to {total:.12g} "
                    f"(allowed 1 +- {SUM_TOLERANCE:g}, smallest entry {least:.3g})"
                )
                self.breach("normalised", target, stage, off, what)
        self.probes += 1

    def after(self, scored: Float64, token: int, target: int) -> None:
        """``scored`` float64 [S+1]: the fused probabilities of the target whose rows ``before`` took."""
        assert self._rows is not None
        for i, (stage, values, fused) in enumerate(zip(self.stages, self._rows, scored.tolist(), strict=True)):
            told = float(values[token])
            if told != fused:
                what = (
                    f"stage '{stage}' booked p={fused!r} for target {target}, but its row with the target withheld "
                    f"says {told!r}: the score depends on the target"
                )
                self.breach("causal", target, stage, abs(told - fused), what)
            self.calibration.add(i, values, token)
        self._rows = None

    def breach(self, law: str, target: int, stage: str, value: float, what: str) -> None:
        """The strict path disagrees at this target, by ``value``: the run stops before it is booked."""
        raise LegalityError(
            law,
            target,
            f"{law}: {what}; nothing after target {target - 1} is booked; see it: evalkit audit {stage}",
        )

    def verdict(self) -> dict[str, Any]:
        """For run.json.  After a resume: of the chunks that this process scored.

        gate_fraction: a stage that cheats at more than this share of targets would have been seen, at 95 %.
        """
        missed = 1.0 - 0.05 ** (1.0 / self.probes) if self.probes else 1.0
        found = {"on": self.enabled, "rows": self.probes, "worst": self.worst, "gate_fraction": missed}
        return {**found, "calibration": self.calibration.as_dict()} if self.probes else found
