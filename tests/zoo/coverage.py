"""Which targets are booked how often?  Subsets reported as full, tails booked many times, hard tokens dropped."""

from __future__ import annotations

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.toy import Float64, Int64, Toy

SEQ = 32
STRIDE = 8


@fix("D8")
@fix("D9")
@fix("D10")
class Booked(Toy):
    """The fix for all three: a ledger with every target from 1 on, once, in order."""

    def targets(self, tokens: Int64) -> Int64:
        """Stream indices in the order of booking, int64 [N]."""
        return np.arange(1, len(tokens))

    def ledger(self, tokens: Int64) -> tuple[Int64, Float64]:
        """Bookings in order: stream index [N], log-probability [N]."""
        index = self.targets(tokens)
        return index, self.score(tokens)[index]


@violation("D8", "a slice reported as the whole", "coverage", sources=(1785, 1835, 1854, 1881, 2039))
class FirstSlice(Booked):
    """The first fifth of the stream is scored and reported as the whole."""

    def targets(self, tokens: Int64) -> Int64:
        return np.arange(1, max(2, len(tokens) // 5))


@violation(
    "D9", "tail booked many times by sliding windows", "single-pass", also=("coverage",), sources=(50, 1218, 1394)
)
class TailManyTimes(Booked):
    """Windows that would run past the end are moved back, and each books the last ``STRIDE`` tokens again."""

    def targets(self, tokens: Int64) -> Int64:
        index = [np.arange(1, min(SEQ, len(tokens)))]
        for start in range(STRIDE, len(tokens), STRIDE):
            end = min(start + SEQ, len(tokens))
            index.append(np.arange(max(1, end - STRIDE), end))
        return np.concatenate(index)


@violation("D10", "hard tokens left out", "coverage", sources=(1686,))
class OutliersDropped(Booked):
    """Targets with a loss above 4 nats are called outliers and left out."""

    def targets(self, tokens: Int64) -> Int64:
        index = super().targets(tokens)
        return index[self.score(tokens)[index] > -4.0]
