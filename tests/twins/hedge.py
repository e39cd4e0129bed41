"""What does ``hedge`` compute?  The same arithmetic on Python lists and dicts: the twin the tests trust."""

from __future__ import annotations

import math

from evalkit.adapters.base import Float64, Side
from evalkit.adapters.experts.mixing import HedgeSettings
from tests.twins.backoff import NaiveNgrams, bucket, smooth


class NaiveHedge:
    """The twin of ``hedge``."""

    def __init__(self, settings: HedgeSettings, first_token: int, frozen_at: int = -1) -> None:
        self.settings = settings
        self.ngrams = NaiveNgrams(settings.orders[-1], first_token, frozen_at)
        self.weights: dict[tuple[int, ...], list[float]] = {}
        self.visits: dict[tuple[int, ...], float] = {}

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> list[float]:
        s = self.settings
        orders = smooth(self.ngrams, s.smoothing, s.discount, s.orders[-1], len(p))
        self.experts = [[float(x) for x in each] for each in (p, *history)] + [orders[k - 1] for k in s.orders]
        self.bucket = bucket(self.ngrams, s.by, side)
        others = len(self.experts) - 1
        self.prior = [1.0 - s.prior] + [s.prior / others] * others
        return [self._mix(v) for v in range(len(p))]

    def _mix(self, token: int) -> float:
        mixture = 0.0
        for w, expert in zip(self.weights.get(self.bucket, self.prior), self.experts, strict=True):
            mixture += w * expert[token]
        return mixture

    def observe(self, token: int) -> None:
        s = self.settings
        p = [expert[token] for expert in self.experts]
        w = self.weights.get(self.bucket, self.prior)
        visits = self.visits.get(self.bucket, 0.0)
        if s.update == "hedge":
            logs = [_log(a) + s.step * _log(b) for a, b in zip(w, p, strict=True)]
            w = [math.exp(x - max(logs)) for x in logs]
        else:
            mixture, e = self._mix(token), max(s.step, 1.0 / (10.0 + visits))
            w = [a * (1.0 - e + e * (b / mixture)) for a, b in zip(w, p, strict=True)]
        total = 0.0
        for a in w:
            total += a
        share = s.given_back
        self.weights[self.bucket] = [
            (1.0 - share) * (a / total) + share * b for a, b in zip(w, self.prior, strict=True)
        ]
        self.visits[self.bucket] = visits + 1.0
        self.ngrams.add(token)


def _log(x: float) -> float:
    return math.log(x) if x > 0.0 else -math.inf
