"""Which n-gram caches book more than one unit of probability?  Hashed pairs, wrong denominators, target-seen back-off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.toy import CommitReveal, Float64, Int64, Toy, V, network

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
class HashedPair(Toy):
    """Two independent count tables, one keyed by the context and one by context and target, both hashed.

    p(y) = (1-a) p_nn(y) + a min(F[h(c,y)], C[h(c)]) / C[h(c)].  With collisions the ratio tends to 1 for *every* y.
    """

    weight = 0.5

    def score(self, tokens: Int64) -> Float64:
        nn, contexts, pairs = network(), [0] * BUCKETS, [0] * BUCKETS
        booked, stream = np.empty(len(tokens)), tokens.tolist()
        for t, y in enumerate(stream):
            c, full = bucket(stream[max(0, t - 1) : t]), bucket(stream[max(0, t - 1) : t], 1 + y)
            p = nn[stream[t - 1] if t else V, y]
            if contexts[c]:
                p = (1 - self.weight) * p + self.weight * min(pairs[full], contexts[c]) / contexts[c]
            booked[t] = p
            contexts[c] += 1
            pairs[full] += 1
        return np.log(booked)


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
class HashedDirichlet(Toy):
    """The recursion p_k = (min(F,C) + c p_{k-1}) / (C + c) over orders, on hashed tables.

    It looks normalised, but sum_v F[h(c,v)] is not C[h(c)]: every collision adds mass.
    """

    concentration = 2.0

    def score(self, tokens: Int64) -> Float64:
        nn, contexts, pairs = network(), [0.0] * BUCKETS, [0.0] * BUCKETS
        booked, stream = np.empty(len(tokens)), tokens.tolist()
        for t, y in enumerate(stream):
            p, touched = nn[stream[t - 1] if t else V, y], []
            for order in ORDERS:
                if t < order - 1:
                    break
                c, full = bucket(stream[t - order + 1 : t]), bucket(stream[t - order + 1 : t], 1 + y)
                p = (min(pairs[full], contexts[c]) + self.concentration * p) / (contexts[c] + self.concentration)
                touched.append((c, full))
            booked[t] = p
            for c, full in touched:
                contexts[c] += 1
                pairs[full] += 1
        return np.log(booked)


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
class WrongDenominator(Toy):
    """A full row of hashed counts F[h(c,v)] is gathered, then divided by the context count instead of its own sum."""

    def score(self, tokens: Int64) -> Float64:
        nn, contexts, pairs = network(), np.zeros(BUCKETS), np.zeros(BUCKETS)
        booked, stream = np.empty(len(tokens)), tokens.tolist()
        for t, y in enumerate(stream):
            context = stream[max(0, t - 1) : t]
            slots = np.array([bucket(context, 1 + v) for v in range(V)])
            p = nn[stream[t - 1] if t else V]
            seen = self.denominator(pairs[slots], contexts[bucket(context)])
            if seen:
                p = 0.6 * p + 0.4 * pairs[slots] / seen
            booked[t] = p[y]
            contexts[bucket(context)] += 1
            pairs[slots[y]] += 1
        return np.log(booked)

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

    def score(self, tokens: Int64) -> Float64:
        self.begin()
        booked = np.empty(len(tokens))
        for t, y in enumerate(tokens.tolist()):
            p = network()[self.last, y]
            for context in reversed(self.contexts()):
                counts = self.rows.get(context)
                if counts is not None and counts[y] >= 1:
                    p = 0.3 * p + 0.7 * counts[y] / counts.sum()
                    break
            booked[t] = p
            self.observe(y)
        return np.log(booked)


@fix("A5")
class ContextSeen(ExactCounts):
    """The fix: back off to the highest order whose *context* was seen; the target is not asked."""

    def row(self) -> Float64:
        for context in reversed(self.contexts()):
            counts = self.rows.get(context)
            if counts is not None:
                return 0.3 * super().row() + 0.7 * counts / counts.sum()
        return super().row()
