"""The scorer's own ground: streams that it predicts well, since some cheats sleep on all others.

A gate on low loss, on a run of successes or on a repeated phrase opens on text that the model likes.  What it likes is
learned for nothing from streams that were scored anyway (a Latin design asks every token behind every token), and a
stream is grown piece by piece: several continuations are scored, the likeliest stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from evalkit.legality.probes.streams import Source, Stream, Writer
from evalkit.legality.scorer import Box, Float64, Int64

KEPT = 12
"""Likeliest followers that are remembered of each token."""
PIECE = 16
"""Tokens of one continuation, at the least..."""
MOST_PIECES = 10
"""...and so many continuations make a stream at the most."""


class Taste:
    """For each token the likeliest followers seen so far, with their log-probabilities."""

    def __init__(self) -> None:
        self.followers: dict[int, dict[int, float]] = {}

    def column(self, context: int, tokens: Int64, scores: Float64) -> None:
        """Many tokens behind one context: tokens int64 [n], scores float64 [n] in nats."""
        best = np.argsort(-scores, kind="stable")[:KEPT]
        best = best[np.isfinite(scores[best])]
        self._keep(context, dict(zip(tokens[best].tolist(), scores[best].tolist(), strict=True)))

    def stream(self, tokens: Int64, scores: Float64) -> None:
        """The pairs of one scored stream."""
        for t in np.flatnonzero(np.isfinite(scores[1:])) + 1:
            self._keep(int(tokens[t - 1]), {int(tokens[t]): float(scores[t])})

    def _keep(self, context: int, seen: dict[int, float]) -> None:
        known = self.followers.get(context, {}) | seen
        if len(known) > KEPT:
            known = dict(sorted(known.items(), key=lambda item: -item[1])[:KEPT])
        self.followers[context] = known

    def walk(self, rng: np.random.Generator, last: int, count: int, *, greedy: bool) -> list[int] | None:
        """``count`` liked tokens behind ``last``, the likeliest or drawn by their probability; None in unknown land."""
        out = []
        for _ in range(count):
            known = self.followers.get(last)
            if not known:
                return None
            ids, scores = np.array(list(known)), np.array(list(known.values()))
            weights = np.exp(scores - scores.max())
            last = int(ids[scores.argmax()] if greedy else rng.choice(ids, p=weights / weights.sum()))
            out.append(last)
        return out


class Asking(Protocol):
    """What growing a stream needs of an audit in progress (:class:`evalkit.legality.probes.lab.Lab`)."""

    box: Box
    rng: np.random.Generator
    taste: Taste

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int: ...


def grown(lab: Asking, length: int, *, surprises: bool, documents: int) -> Stream:
    """A stream of the scorer's liking: the likeliest of a few continuations, piece by piece.

    surprises: a random token now and then.  documents: how many beginnings (BOS and a random token) it has.
    """
    rng, writer, source = lab.rng, Writer(), Source(lab.rng, lab.vocab_size, lab.bos)
    piece = max(PIECE, length // MOST_PIECES)
    while len(writer.tokens) < length:
        starts = writer.tokens.count(lab.bos) * length // documents
        if len(writer.tokens) >= starts and len(writer.tokens) + 2 < length:
            writer.fresh([lab.bos, int(rng.integers(lab.vocab_size))])
        step = max(1, min(piece, length - len(writer.tokens)))
        offers = [offer for make in OFFERS if (offer := make(lab, source, writer.tokens, step))]
        tokens = np.array([[*writer.tokens, *offer] for offer in offers])
        scores = np.array([lab.box.score(row) for row in tokens])
        for row, told in zip(tokens, scores, strict=True):
            lab.taste.stream(row[-step - 1 :], told[-step - 1 :])
        writer.fresh(offers[int(scores[:, -step:].sum(axis=1).argmax())])
        if surprises and rng.random() < 0.4:
            writer.surprise(int(rng.integers(lab.vocab_size)))
    return writer.stream("own with surprises" if surprises else "own", length)


def _greedy(lab: Asking, source: Source, tokens: list[int], piece: int) -> list[int]:
    return lab.taste.walk(lab.rng, tokens[-1], piece, greedy=True) or source.words(piece, tokens[-1])


def _drawn(lab: Asking, source: Source, tokens: list[int], piece: int) -> list[int]:
    return lab.taste.walk(lab.rng, tokens[-1], piece, greedy=False) or source.words(piece, tokens[-1])


def _period(lab: Asking, source: Source, tokens: list[int], piece: int) -> list[int]:
    """What followed the last earlier occurrence of the last token, over and over."""
    where = [t for t in range(len(tokens) - 1) if tokens[t] == tokens[-1]]
    if not where:
        return []
    return np.resize(tokens[where[-1] + 1 :], piece).tolist()


def _copied(lab: Asking, source: Source, tokens: list[int], piece: int) -> list[int]:
    """A passage from earlier on."""
    if len(tokens) < 2 * piece:
        return []
    start = int(lab.rng.integers(0, len(tokens) - piece))
    return tokens[start : start + piece]


OFFERS: tuple[Callable[[Asking, Source, list[int], int], list[int]], ...] = (_greedy, _drawn, _period, _copied)
