"""What does ``log_bias`` compute?  The same arithmetic on Python lists: the twin the tests trust."""

from __future__ import annotations

import math

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.adapters.experts.rows import LogBiasSettings
from tests.twins.rows import exp_values

WIDEST = 16.0
"""No part of the bias leaves +-16 nats."""


def column_sum(terms: list[float]) -> float:
    """The sum in the order of the kernels: eight running sums by column, then a fixed tree."""
    s = [0.0] * 8
    for i, term in enumerate(terms):
        s[i % 8] += term
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))


class NaivePart:
    """One bias vector with its gradient and its preconditioner."""

    def __init__(self, vocab: int, prior: float) -> None:
        self.prior = prior
        self.bias, self.scale, self.gradient = [0.0] * vocab, [0.0] * vocab, [0.0] * vocab


class NaiveLogBias:
    """The twin of ``log_bias``."""

    def __init__(self, settings: LogBiasSettings, vocab: int, bos: int, first_token: int) -> None:
        self.settings, self.vocab, self.bos, self.last = settings, vocab, bos, first_token
        self.all, self.document = NaivePart(vocab, settings.global_prior), NaivePart(vocab, settings.document_prior)
        self.previous: dict[int, NaivePart] = {}
        self.seen = 0
        self.factor = [1.0] * vocab
        self.rows: list[tuple[list[float], int]] = []

    def row(self, p: Float64) -> list[float]:
        part = self.previous.get(self.last)
        extra = [1.0] * self.vocab if part is None else exp_values(np.array(part.bias)).tolist()
        y = [float(p[v]) * self.factor[v] * extra[v] for v in range(self.vocab)]
        inverse = 1.0 / column_sum(y)
        self.y = [x * inverse for x in y]
        return self.y

    def observe(self, token: int) -> None:
        s = self.settings
        self.rows.append((self.y, token))
        self.seen += 1
        if s.previous_prior > 0.0:
            self._learn_previous(token)
        on_grid, ends = self.seen % s.stride == 0, token == self.bos
        if on_grid or ends:
            self._fold()
        if on_grid:
            self._step(self.all)
            self._step(self.document)
        if ends:
            self._end_document()
        if on_grid or ends:
            self.factor = exp_values(np.array(self.all.bias) + np.array(self.document.bias)).tolist()
        self.last = token

    def _learn_previous(self, token: int) -> None:
        if self.last not in self.previous:
            if (len(self.previous) + 1) * 16 * self.vocab > self.settings.memory_mib << 20:
                return
            self.previous[self.last] = NaivePart(self.vocab, self.settings.previous_prior)
        part = self.previous[self.last]
        for v, y in enumerate(self.y):
            part.scale[v] += y * (1.0 - y)
            part.bias[v] = _within(part.bias[v] - (y - float(v == token)) / (part.prior + part.scale[v]))

    def _fold(self) -> None:
        for v in range(self.vocab):
            total = squares = hits = 0.0
            for y, token in self.rows:
                total += y[v]
                squares += y[v] * y[v]
                hits += float(v == token)
            for part in (self.all, self.document):
                part.gradient[v] += total - hits
                part.scale[v] += total - squares if self.settings.precondition == "fisher" else 0.0
        self.rows = []

    def _step(self, part: NaivePart) -> None:
        s = self.settings
        for v in range(self.vocab) if part.prior > 0.0 else ():
            if s.precondition == "fisher":
                change = part.gradient[v] / (part.prior + part.scale[v])
            else:
                mean = part.gradient[v] / float(s.stride)
                part.scale[v] += mean * mean
                change = s.rate * mean / (math.sqrt(part.scale[v]) + 1e-8)
            part.bias[v] = _within(part.bias[v] - change)
            part.gradient[v] = 0.0

    def _end_document(self) -> None:
        part, keep = self.document, self.settings.keep
        part.bias = [b * keep for b in part.bias]
        part.scale = [x * keep for x in part.scale]
        part.gradient = [0.0] * self.vocab


def _within(b: float) -> float:
    return min(WIDEST, max(-WIDEST, b))
