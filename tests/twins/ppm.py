"""What does ``ppm`` compute?  The same arithmetic on Python dicts, a page long and slow: the twin the tests trust."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.adapters.experts.ppm import PpmSettings
from tests.twins.backoff import NaiveNgrams


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
        self.counts = NaiveCounts(settings.stream_orders, first_token, frozen_at)

    def row(self, p: Float64) -> Float64:
        q = [float(x) for x in p]
        for order, c in zip(self.settings.stream_orders, self.settings.strength, strict=True):
            counts = self.counts.at(order)
            total = sum(counts.values())
            if total >= self.settings.min_count and total > 0:
                q = [(float(counts.get(v, 0)) + c * q[v]) / (float(total) + c) for v in range(len(q))]
        return np.array(q)

    def observe(self, token: int) -> None:
        self.counts.add(token)


class NaiveLearned:
    """The twin of ``ppm:escape=learned``: the same sums in the same order, on dicts of [weight, sum of squares]."""

    def __init__(
        self, settings: PpmSettings, first_token: int, bos: int, frozen_at: int = -1, corpus: Iterable[int] = ()
    ) -> None:
        """``corpus``: tokens counted before the first target, the first of them as context only; settings.corpus is not read."""
        self.settings, self.bos = settings, bos
        counted = list(corpus)
        used = (settings.stream_orders, settings.document, settings.corpus_orders if counted else ())
        self.longest = [max(orders, default=0) for orders in used]
        self.clocks = [
            self._counts(0, first_token, frozen_at),
            self._counts(1, first_token),
            self._corpus(counted, first_token),
        ]
        order_of_clocks = (2, 0, 1)
        self.stages = [(k, clock) for k in range(1, 25) for clock in order_of_clocks if k in used[clock]]
        self.weights: dict[tuple, list[float]] = {}
        self.fast = dict.fromkeys(self.stages, 0.0)
        self.decisions: dict[tuple, list[list[float]]] = {}
        self.tokens = (first_token, first_token)

    def _counts(self, clock: int, first_token: int, frozen_at: int = -1) -> NaiveCounts | NaiveNgrams:
        if self.settings.counts == "continuations":
            return NaiveNgrams(max(1, self.longest[clock]), first_token, frozen_at)
        return NaiveCounts(tuple(range(1, self.longest[clock] + 1)), first_token, frozen_at)

    def _corpus(self, counted: list[int], first_token: int) -> NaiveCounts:
        counts = NaiveCounts(tuple(range(1, self.longest[2] + 1)), counted[0] if counted else first_token)
        for token in counted[1:]:
            counts.add(token)
        counts.frozen_at, counts.seen = 0, [first_token]
        return counts

    def _at(self, order: int, clock: int) -> dict[int, int]:
        counts = self.clocks[clock]
        if isinstance(counts, NaiveNgrams):
            return counts.at(order, continued=order < counts.max_order)
        return counts.at(order)

    def row(self, p: Float64, entropy: float = 0.0, top: int = 0) -> Float64:
        self.active = []
        seen = tuple(
            max((k for k in range(1, n + 1) if c.at(k)), default=0)
            for n, c in zip(self.longest, self.clocks, strict=True)
        )
        for order, clock in self.stages:
            counts = self._at(order, clock)
            if counts:
                weights = self._weights(order, clock, counts, seen, entropy, top)
                z = math.log(0.1 * order / 2.0) + self.fast[order, clock]
                for w in weights:
                    z += w[0]
                cut = self.cut(clock)
                total = float(sum(counts.values())) - cut * float(len(counts))
                self.active.append((counts, total, cut, 1.0 / (1.0 + math.exp(-z)), weights, (order, clock)))
        self.base, self.top, self.seen = p, top, seen
        row = [self._chain(v)[-1][0] for v in range(len(p))]
        return np.array(self._decided(row) if self.settings.decide > 0 else row)

    def _decided(self, row: list[float]) -> list[float]:
        """The row after the decision about ``top``; keeps what observe() learns from."""
        h, q = self.top, row[self.top]
        self.inputs: list[float] = []
        if not 1e-6 <= q <= 1 - 1e-6:
            return row
        clamped = min(1 - 1e-6, max(1e-6, float(self.base[h])))
        odds = math.log(q / (1 - q))
        contexts = [[self._at(k, c) for k, clock in self.stages if clock == c] for c in (2, 0, 1)]
        known = [[counts for counts in context if counts] for context in contexts]
        here = contexts[2][0].get(h, 0) if contexts[2] else 0
        evidence = [_evidence(context[-1], h, q) - odds if context else 0.0 for context in known]
        self.inputs = [odds, math.log(clamped / (1 - clamped)) - odds, 1.0, *evidence, math.log(1.0 + here)]
        keys = [("all",), ("seen", self.seen), ("id", h)]
        self.sets = [
            self.decisions.setdefault(key, [[float(u == 0), 1.0] for u in range(len(self.inputs))]) for key in keys
        ]
        self.logits = [_sum(w[0] * x for w, x in zip(ws, self.inputs, strict=True)) for ws in self.sets]
        yes = min(1 - 1e-6, max(1e-6, _sigmoid(_sum(self.logits) / 3.0)))
        return [yes if v == h else row[v] * ((1.0 - yes) / (1.0 - q)) for v in range(len(row))]

    def cut(self, clock: int) -> float:
        """What is taken off every count of a clock; the corpus counts occurrences."""
        return self.settings.discount if self.settings.counts == "continuations" and clock != 2 else 0.0

    def _weights(
        self, order: int, clock: int, counts: dict[int, int], seen: tuple[int, ...], entropy: float, top: int
    ) -> list[list[float]]:
        total, followers = sum(counts.values()), min(len(counts), 255)
        halves = 2 * (followers.bit_length() - 1)
        halves += followers * followers >= 2 ** (halves + 1)
        keys: list[tuple] = [("last", self.tokens[0]), ("before last", self.tokens[1]), ("seen", seen), ("document",)]
        if self.settings.side:
            keys += [("entropy", int(min(max(1.5 * entropy, 0.0), 7.0))), ("top", top)]
        keys.append(("total", min(15, total.bit_length() - 1)))
        keys.append(("followers", min(7, 8 * followers // total), min(15, halves)))
        fresh = [[0.0, 3.0 if key == ("document",) else 0.1] for key in keys]
        return [self.weights.setdefault((order, clock, *key), w) for key, w in zip(keys, fresh, strict=True)]

    def _chain(self, token: int) -> list[tuple[float, float]]:
        """(q before the stage, n / N) of each active stage, then (q after all, 0)."""
        q, out = float(self.base[token]), []
        for counts, total, cut, trust, _, _ in self.active:
            a = (float(counts[token]) - cut) / total if token in counts else 0.0
            out.append((q, a))
            q = (1.0 - trust) * q + trust * a
        return [*out, (q, 0.0)]

    def observe(self, token: int) -> None:
        """Learn the target whose row was asked for last, then count it."""
        chain = self._chain(token)
        booked, tail = chain[-1][0], 1.0
        for (_, _, _, trust, weights, stage), (q, a) in reversed(list(zip(self.active, chain, strict=False))):
            g = (a - q) * tail / booked * (trust * (1.0 - trust))
            for w in weights:
                w[1] += g * g
                w[0] += self.settings.rate * g / math.sqrt(w[1])
            self.fast[stage] = 0.97 * (self.fast[stage] + self.settings.fast * g)
            tail *= 1.0 - trust
        if self.settings.decide > 0 and self.inputs:
            for weights, z in zip(self.sets, self.logits, strict=True):
                for w, x in zip(weights, self.inputs, strict=True):
                    g = (float(token == self.top) - _sigmoid(z)) * x
                    w[1] += g * g
                    w[0] += self.settings.decide * g / math.sqrt(w[1])
        self._count(token)

    def _count(self, token: int) -> None:
        self.clocks[0].add(token)
        self.clocks[2].add(token)
        self.tokens = (token, self.tokens[0])
        if token == self.bos:
            self.clocks[1] = self._counts(1, token)
            self.weights = {k: w for k, w in self.weights.items() if k[2] != "document"}
        else:
            self.clocks[1].add(token)


def _evidence(counts: dict[int, int], h: int, q: float) -> float:
    """Log odds of h after this context, a little of q mixed in."""
    p = (counts.get(h, 0) + 0.4 * q) / (float(sum(counts.values())) + 0.4)
    return math.log(p / (1 - p))


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


def _sum(numbers: Iterable[float]) -> float:
    """From the left, without compensation."""
    total = 0.0
    for x in numbers:
        total += x
    return total
