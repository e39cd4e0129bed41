"""What does ``ppm`` compute?  The same arithmetic on Python dicts, a page long and slow: the twin the tests trust."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.adapters.ppm import PpmSettings


class NaiveCounts:
    """Counts of every context of the given orders; ``frozen_at``: count nothing after this many tokens (-1: never)."""

    def __init__(self, orders: tuple[int, ...], first_token: int, frozen_at: int = -1) -> None:
        self.orders, self.frozen_at = orders, frozen_at
        self.seen = [first_token]
        self.pairs: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)

    def at(self, order: int) -> dict[int, int]:
        """token -> count after the current context of this order."""
        if len(self.seen) < order - 1:
            return {}
        return self.pairs.get(self._context(order), {})

    def add(self, token: int) -> None:
        if not 0 <= self.frozen_at <= len(self.seen) - 1:
            for order in self.orders:
                if len(self.seen) >= order - 1:
                    counts = self.pairs[self._context(order)]
                    counts[token] = counts.get(token, 0) + 1
        self.seen.append(token)

    def _context(self, order: int) -> tuple[int, ...]:
        return (order, *self.seen[len(self.seen) - order + 1 :])


class NaiveDirichlet:
    """The twin of ``ppm:escape=dirichlet``."""

    def __init__(self, settings: PpmSettings, first_token: int, frozen_at: int = -1) -> None:
        self.settings = settings
        self.counts = NaiveCounts(settings.orders, first_token, frozen_at)

    def row(self, p: Float64) -> Float64:
        q = [float(x) for x in p]
        for order, c in zip(self.settings.orders, self.settings.strength, strict=True):
            counts = self.counts.at(order)
            total = sum(counts.values())
            if total >= self.settings.min_count and total > 0:
                q = [(float(counts.get(v, 0)) + c * q[v]) / (float(total) + c) for v in range(len(q))]
        return np.array(q)

    def observe(self, token: int) -> None:
        self.counts.add(token)
