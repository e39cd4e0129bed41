"""How does a learned tilt move a row?  The arithmetic of csrc/core/tilt.cpp on Python lists and dicts, for the tests.

Operations stand in the kernel's order, so the numbers are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.adapters.experts.hints import RESTS, TOPS, Rates


class Hint(NamedTuple):
    """What a source says of the next token."""

    token: int
    bucket: int
    top: int = 0
    total: int = 0


class Parameter:
    """A number that AdaGrad steps move."""

    def __init__(self, value: float, squares: float) -> None:
        self.value, self.squares = value, squares

    def step(self, rate: float, gradient: float) -> None:
        self.squares = self.squares + gradient * gradient
        self.value = self.value + rate * gradient / math.sqrt(self.squares)


class NaiveTilt:
    """kinds: "any", "start" or "inside", one per source; theta: where each source's buckets start; fixed: -1 to learn."""

    def __init__(self, kinds: Sequence[str], theta: Sequence[Sequence[float]], fixed: float = -1.0) -> None:
        self.kinds, self.fixed, self.rates = kinds, fixed, Rates()
        self.start_theta = theta
        self.theta: dict[tuple[int, int], Parameter] = {}
        self.weights: dict[tuple[int, ...], tuple[Parameter, Parameter, Parameter]] = {}
        self.token: dict[int, Parameter] = {}

    def row(self, hints: Sequence[Hint | None], p: Float64, start_mass: float = 0.5) -> Float64:
        """float64 [V] -> float64 [V]; remembers what ``learn`` needs."""
        start = self._inner(start_mass)
        log_mass = {"any": 0.0, "start": math.log(start), "inside": math.log(1.0 - start)}
        members: dict[int, list[int]] = {}
        for s, hint in enumerate(hints):
            if hint is not None:
                members.setdefault(hint.token, []).append(s)
        self.now = []
        z = 1.0
        for token, sources in members.items():
            mass = 0.0
            for s in sources:
                mass = mass + log_mass[self.kinds[s]]
            named = [(s, hint) for s in sources if (hint := hints[s]) is not None]
            beta, logit = self._beta(token, named, float(p[token]), mass)
            lift = math.exp(beta)
            z = z + float(p[token]) * (lift - 1.0)
            self.now.append((token, named, float(p[token]), logit, mass, lift))
        self.z = z
        lifts = {token: lift for token, *_, lift in self.now}
        return np.array([float(p[v]) * lifts[v] / z if v in lifts else float(p[v]) / z for v in range(len(p))])

    def _beta(self, token: int, named: list[tuple[int, Hint]], p: float, mass: float) -> tuple[float, float]:
        q = self._inner(p)
        logit = math.log(q / (1.0 - q))
        if self.fixed >= 0.0:
            return self.fixed * (named[0][1].top / named[0][1].total), logit
        w, b, m = self._weights(named)
        s = w.value * logit + b.value
        for source, hint in named:
            s = s + self._theta(source, hint.bucket).value
        s = s + m.value * mass
        s = s + self._token(token).value
        return min(max(s - logit, self.rates.low), self.rates.high), logit

    def learn(self, token: int) -> None:
        """After ``row`` for the same target."""
        if self.fixed >= 0.0:
            return
        for hinted, named, p, logit, mass, lift in self.now:
            error = (1.0 if hinted == token else 0.0) - p * lift / self.z
            w, b, m = self._weights(named)
            w.step(self.rates.weight, error * logit)
            b.step(self.rates.weight, error)
            m.step(self.rates.weight, error * mass)
            for source, hint in named:
                self._theta(source, hint.bucket).step(self.rates.theta, error)
            self._token(hinted).step(self.rates.weight, error)

    def _inner(self, p: float) -> float:
        return min(max(p, self.rates.least), 1.0 - self.rates.least)

    def _weights(self, named: list[tuple[int, Hint]]) -> tuple[Parameter, Parameter, Parameter]:
        key, r = tuple(s for s, _ in named), self.rates
        if key not in self.weights:
            starts = (r.start_weight, 0.0, r.start_mass)
            w, b, m = (Parameter(value, r.start_squares) for value in starts)
            self.weights[key] = (w, b, m)
        return self.weights[key]

    def _theta(self, source: int, bucket: int) -> Parameter:
        start = self.start_theta[source][bucket]
        return self.theta.setdefault((source, bucket), Parameter(start, self.rates.start_squares))

    def _token(self, token: int) -> Parameter:
        return self.token.setdefault(token, Parameter(0.0, self.rates.start_squares))


class NaiveFollowers:
    """Up to three followers of one context, [token, count], the most frequent first; counts are halved at 63."""

    def __init__(self, token: int) -> None:
        self.kept = [[token, 1]]

    def follow(self, token: int) -> None:
        at = next((i for i, (v, _) in enumerate(self.kept) if v == token), None)
        if at is None:
            if len(self.kept) < 3:
                self.kept.append([token, 1])
            else:
                self.kept[1 if self.kept[1][1] < self.kept[2][1] else 2] = [token, 1]
            return
        if self.kept[at][1] == 63:
            self.kept = [[v, (n + 1) // 2] for v, n in self.kept]
        self.kept[at][1] += 1
        if self.kept[at][1] > self.kept[0][1]:
            self.kept[0], self.kept[at] = self.kept[at], self.kept[0]

    @property
    def top(self) -> tuple[int, int, int]:
        """(token, its count, count of all that are kept)."""
        return self.kept[0][0], self.kept[0][1], sum(n for _, n in self.kept)

    def hint(self, order: int = 0) -> Hint:
        """The hint, with its bucket within block ``order``."""
        token, top, total = self.top
        high = max(i for i, least in enumerate(TOPS) if top >= least)
        low = max(i for i, least in enumerate(RESTS) if total - top >= least)
        return Hint(token, (order * len(TOPS) + high) * len(RESTS) + low, top, total)
