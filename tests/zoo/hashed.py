"""Which n-gram caches book more than one unit of probability?  Hashed pairs, wrong denominators, target-seen back-off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.toy import CommitReveal, Float64, V

BUCKETS = 16
ORDERS = (2, 3, 4)


def bucket(context: Sequence[int], extra: int = 0) -> int:
    """A small multiplicative hash: collisions are the point."""
    key = 17 * extra + len(context)
    for x in context:
        key = (key * 31 + x + 7) & 0xFFFF
    return (key * 40503 >> 5) % BUCKETS


@violation(
    "A1",
    "hashed n-gram with the target in the key",
    "normalised",
    sources=(727, 770, 779, 797, 798, 808, 825, 865, 909, 940, 1605),
)
class HashedPair(CommitReveal):
    """Two independent count tables, one keyed by the context and one by context and target, both hashed.

    p(y) = (1-a) p_nn(y) + a min(F[h(c,y)], C[h(c)]) / C[h(c)].  With collisions the ratio tends to 1 for *every* y.
    """

    weight = 0.5

    def begin(self) -> None:
        super().begin()
        self.contexts, self.pairs = [0] * BUCKETS, [0] * BUCKETS

    def places(self, y: int) -> tuple[int, int]:
        context = [self.last] if self.last < V else []
        return bucket(context), bucket(context, 1 + y)

    def booked(self, y: int) -> float:
        c, full = self.places(y)
        p, seen = super().booked(y), self.contexts[c]
        return (1 - self.weight) * p + self.weight * min(self.pairs[full], seen) / seen if seen else p

    def observe(self, x: int) -> None:
        c, full = self.places(x)
        self.contexts[c] += 1
        self.pairs[full] += 1
        super().observe(x)


@fix("A1")
class ExactPair(CommitReveal):
    """The fix: one row of exact counts per context, so that the ratios of one context sum to 1."""

    weight = 0.5

    def begin(self) -> None:
        super().begin()
        self.counts: dict[int, Float64] = defaultdict(lambda: np.zeros(V))

    def row(self) -> Float64:
        counts = self.counts[self.last]
        total = counts.sum()
        return (1 - self.weight) * super().row() + self.weight * counts / total if total else super().row()

    def observe(self, x: int) -> None:
        self.counts[self.last][x] += 1
        super().observe(x)


@violation("A2", "Dirichlet recursion on hashed counts", "normalised", sources=(900, 943, 948, 1030, 1056, 1076, 1159))
class HashedDirichlet(CommitReveal):
    """The recursion p_k = (min(F,C) + c p_{k-1}) / (C + c) over orders, on hashed tables.

    It looks normalised, but sum_v F[h(c,v)] is not C[h(c)]: every collision adds mass.
    """

    concentration = 2.0

    def begin(self) -> None:
        super().begin()
        self.stream: list[int] = []
        self.contexts, self.pairs = [0.0] * BUCKETS, [0.0] * BUCKETS

    def places(self, y: int) -> list[tuple[int, int]]:
        """Of every order, the shortest first: the slots of the context and of the pair."""
        tails = (self.stream[len(self.stream) - k + 1 :] for k in ORDERS if len(self.stream) >= k - 1)
        return [(bucket(context), bucket(context, 1 + y)) for context in tails]

    def booked(self, y: int) -> float:
        p, c0 = super().booked(y), self.concentration
        for c, full in self.places(y):
            p = (min(self.pairs[full], self.contexts[c]) + c0 * p) / (self.contexts[c] + c0)
        return p

    def observe(self, x: int) -> None:
        for c, full in self.places(x):
            self.contexts[c] += 1
            self.pairs[full] += 1
        self.stream.append(x)
        super().observe(x)


class ExactCounts(CommitReveal):
    """Rows of exact counts for contexts of several orders, the longest first."""

    def begin(self) -> None:
        super().begin()
        self.stream: list[int] = []
        self.rows: dict[tuple[int, ...], Float64] = {}

    def contexts(self) -> list[tuple[int, ...]]:
        """The contexts of the next token, shortest order first."""
        return [tuple(self.stream[len(self.stream) - k + 1 :]) for k in ORDERS if len(self.stream) >= k - 1]

    def observe(self, x: int) -> None:
        for context in self.contexts():
            self.rows.setdefault(context, np.zeros(V))[x] += 1
        self.stream.append(x)
        super().observe(x)


@fix("A2")
class ExactDirichlet(ExactCounts):
    """The fix: the same recursion on exact counts; sum_v n(c,v) = N(c), so every order sums to 1."""

    concentration = 2.0

    def row(self) -> Float64:
        p = super().row()
        for context in self.contexts():
            counts = self.rows.get(context)
            if counts is not None:
                p = (counts + self.concentration * p) / (counts.sum() + self.concentration)
        return p


@violation("A3", "full row of counts over the wrong denominator", "normalised", sources=(972, 978))
class WrongDenominator(CommitReveal):
    """A full row of hashed counts F[h(c,v)] is gathered, then divided by the context count instead of its own sum."""

    def begin(self) -> None:
        super().begin()
        self.contexts, self.pairs = np.zeros(BUCKETS), np.zeros(BUCKETS)

    def context(self) -> list[int]:
        return [self.last] if self.last < V else []

    def row(self) -> Float64:
        gathered = self.pairs[[bucket(self.context(), 1 + v) for v in range(V)]]
        seen = self.denominator(gathered, self.contexts[bucket(self.context())])
        return 0.6 * super().row() + 0.4 * gathered / seen if seen else super().row()

    def observe(self, x: int) -> None:
        self.contexts[bucket(self.context())] += 1
        self.pairs[bucket(self.context(), 1 + x)] += 1
        super().observe(x)

    def denominator(self, row: Float64, context_count: float) -> float:
        return context_count


@fix("A3")
class RightDenominator(WrongDenominator):
    """The fix: divide the gathered row by its own sum.  Collisions now cost quality, not validity."""

    def denominator(self, row: Float64, context_count: float) -> float:
        return float(row.sum())


@violation("A5", "back-off that asks whether the target was seen", "normalised", sources=(1605, 1026))
class TargetSeen(ExactCounts):
    """Back off to the highest order that has already seen *the realised target*: a wrong guess is never paid for."""

    def booked(self, y: int) -> float:
        for context in reversed(self.contexts()):
            counts = self.rows.get(context)
            if counts is not None and counts[y] >= 1:
                return 0.3 * super().booked(y) + 0.7 * counts[y] / counts.sum()
        return super().booked(y)


@fix("A5")
class ContextSeen(ExactCounts):
    """The fix: back off to the highest order whose *context* was seen; the target is not asked."""

    def row(self) -> Float64:
        for context in reversed(self.contexts()):
            counts = self.rows.get(context)
            if counts is not None:
                return 0.3 * super().row() + 0.7 * counts / counts.sum()
        return super().row()
