"""Which forms of SLOT fit the tokens they score?  Shared deltas, scored-position masks, batches of overlapping windows."""

from __future__ import annotations

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.toy import Float64, Int64, Toy, fitted_bias, network_logits, previous, softmax

WINDOW = 24
STRIDE = 8
BATCH = 4


class Slot(Toy):
    """A logit offset, fitted anew for every group of scored positions, on the span that ``span`` names."""

    group = STRIDE

    def span(self, lo: int, hi: int) -> slice:
        """Positions whose loss the offset minimises when [lo, hi) is scored."""
        raise AssertionError("a specimen names the span it fits")

    def score(self, tokens: Int64) -> Float64:
        logits, booked = network_logits()[previous(tokens)], np.empty(len(tokens))
        for lo in range(0, len(tokens), self.group):
            hi = min(lo + self.group, len(tokens))
            fit = self.span(lo, hi)
            rows = softmax(logits[lo:hi] + fitted_bias(logits[fit], tokens[fit]))
            booked[lo:hi] = np.log(rows[np.arange(hi - lo), tokens[lo:hi]])
        return booked


@violation(
    "B7",
    "SLOT on the whole window",
    "score-first",
    also=("causal", "normalised"),
    sources=(1084, 1128, 1172, 1176, 1209, 1240),
)
class WholeWindow(Slot):
    """The offset is fitted on the whole window, the positions then scored included: the first published SLOT."""

    def span(self, lo: int, hi: int) -> slice:
        return slice(max(0, hi - WINDOW), hi)


@violation(
    "B8",
    "SLOT on the scored positions",
    "score-first",
    also=("causal", "normalised"),
    sources=(1229, 1263, 1313, 1319, 1321, 1329, 1488, 1929),
)
class ScoredPositions(Slot):
    """The offset is fitted on exactly the scored positions."""

    def span(self, lo: int, hi: int) -> slice:
        return slice(lo, hi)


@fix("B7")
@fix("B8")
class ContextOnly(Slot):
    """The fix: the offset is fitted on tokens before the earliest scored position."""

    def span(self, lo: int, hi: int) -> slice:
        return slice(max(0, lo - WINDOW), lo)


@violation(
    "B9",
    "context-only SLOT over a batch of overlapping windows",
    "causal",
    also=("score-first", "normalised"),
    sources=(1306, 1333, 1336, 1350),
)
class BatchedContext(Toy):
    """ "Context-only", but one offset serves a batch of overlapping windows.

    The context of window j holds what window j-1 of the same batch is about to score.
    """

    def score(self, tokens: Int64) -> Float64:
        logits, booked = network_logits()[previous(tokens)], np.empty(len(tokens))
        for first in range(0, len(tokens), BATCH * STRIDE):
            starts = range(first, min(first + BATCH * STRIDE, len(tokens)), STRIDE)
            fit = np.concatenate([self.context(lo, first) for lo in starts])
            bias = fitted_bias(logits[fit], tokens[fit])
            for lo in starts:
                hi = min(lo + STRIDE, len(tokens))
                rows = softmax(logits[lo:hi] + bias)
                booked[lo:hi] = np.log(rows[np.arange(hi - lo), tokens[lo:hi]])
        return booked

    def context(self, lo: int, first: int) -> Int64:
        """Positions of the context of the window that scores from ``lo`` in the batch that starts at ``first``."""
        return np.arange(max(0, lo - WINDOW + STRIDE), lo)


@fix("B9")
class BatchBarrier(BatchedContext):
    """The fix: only tokens before the earliest scored position of the whole batch are fitted."""

    def context(self, lo: int, first: int) -> Int64:
        return np.arange(max(0, first - WINDOW + STRIDE), first)
