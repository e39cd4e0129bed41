"""What does ``backoff`` compute?  Counts and smoothing on Python dicts, slow and a page long: the twin the tests trust."""

from __future__ import annotations

from collections import defaultdict

from evalkit.adapters.base import Float64, Side
from evalkit.adapters.experts.mixing import BackoffSettings

Context = tuple[int, ...]


class NaiveNgrams:
    """Counts and continuation counts of orders 1..max_order; nothing new after ``frozen_at`` tokens (-1: never)."""

    def __init__(self, max_order: int, first_token: int, frozen_at: int = -1) -> None:
        self.max_order, self.frozen_at = max_order, frozen_at
        self.seen = [first_token]
        self.counts: dict[Context, dict[int, int]] = defaultdict(dict)
        self.continuations: dict[Context, dict[int, int]] = defaultdict(dict)

    def context(self, order: int) -> Context | None:
        """The last order - 1 tokens; None when there are fewer."""
        return tuple(self.seen[len(self.seen) - order + 1 :]) if len(self.seen) >= order - 1 else None

    def at(self, order: int, continued: bool = False) -> dict[int, int]:
        """token -> count (or continuation count, where above 0) after the current context of this order."""
        where = self.context(order)
        table = self.continuations if continued else self.counts
        return {} if where is None else table.get(where, {})

    def add(self, token: int) -> None:
        frozen = 0 <= self.frozen_at <= len(self.seen) - 1
        for order in range(1, self.max_order + 1):
            where = self.context(order)
            if where is None or (frozen and token not in self.at(order)):
                continue
            if token not in self.counts[where] and order > 1:
                shorter = self.continuations[where[1:]]
                shorter[token] = shorter.get(token, 0) + 1
            self.counts[where][token] = self.counts[where].get(token, 0) + 1
        self.seen.append(token)


def smooth(ngrams: NaiveNgrams, smoothing: str, discount: float, highest: int, vocab: int) -> list[list[float]]:
    """The distribution of every order 1..highest, each a list over the vocabulary."""
    q, orders = [1.0 / vocab] * vocab, []
    for order in range(1, highest + 1):
        counts = ngrams.at(order, continued=smoothing == "kneser_ney" and order < highest)
        total, kinds = float(sum(counts.values())), float(len(counts))
        if total > 0.0:
            cut = 0.0 if smoothing == "witten_bell" else discount
            scale = 1.0 / (total + kinds if smoothing == "witten_bell" else total)
            lower = (kinds if smoothing == "witten_bell" else discount * kinds) * scale
            excess = [float(counts[v]) - cut if v in counts else 0.0 for v in range(vocab)]
            q = [excess[v] * scale + lower * q[v] for v in range(vocab)]
        orders.append(q)
    return orders


def bucket(ngrams: NaiveNgrams, by: tuple[str, ...], side: Side) -> tuple[int, ...]:
    """What is known of this place before the target, as the settings name it."""
    order = max((k for k in range(1, ngrams.max_order + 1) if ngrams.at(k)), default=0)
    counts = ngrams.at(max(order, 1))
    total, top = sum(counts.values()), max(counts.values(), default=0)
    known = {
        "order": order,
        "count": min(7, total.bit_length()),
        "top": min(4, 5 * top // total) if total else 0,
        "entropy": 0 if side.entropy is None else min(7, int(max(0.0, side.entropy[0]))),
        "agreement": int(side.top_id is not None and total > 0 and counts.get(int(side.top_id[0]), 0) == top),
    }
    return tuple(known[name] for name in by)


class NaiveBackoff:
    """The twin of ``backoff``."""

    def __init__(self, settings: BackoffSettings, first_token: int, frozen_at: int = -1) -> None:
        self.settings = settings
        self.ngrams = NaiveNgrams(settings.order, first_token, frozen_at)
        self.weights: dict[tuple[int, ...], tuple[float, float, float]] = {}

    def row(self, p: Float64, side: Side) -> list[float]:
        s = self.settings
        self.bucket = bucket(self.ngrams, s.by, side)
        self.p = [float(x) for x in p]
        self.q = smooth(self.ngrams, s.smoothing, s.discount, s.order, len(p))[-1]
        a, b, _ = self.weights.get(self.bucket, (1.0 - s.prior, s.prior, 0.0))
        return [a * x + b * y for x, y in zip(self.p, self.q, strict=True)]

    def observe(self, token: int) -> None:
        s = self.settings
        a, b, visits = self.weights.get(self.bucket, (1.0 - s.prior, s.prior, 0.0))
        mixture = a * self.p[token] + b * self.q[token]
        e = max(s.rate, 1.0 / (10.0 + visits))
        a *= 1.0 - e + e * (self.p[token] / mixture)
        b *= 1.0 - e + e * (self.q[token] / mixture)
        total = a + b
        a = (1.0 - s.share) * (a / total) + s.share * (1.0 - s.prior)
        b = (1.0 - s.share) * (b / total) + s.share * s.prior
        self.weights[self.bucket] = (a, b, visits + 1.0)
        self.ngrams.add(token)
