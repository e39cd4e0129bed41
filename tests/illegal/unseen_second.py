"""Eleven more black boxes, all written before the audit was run on any of them.  EXPECTED names the law.

Other worlds than unseen.py: 24 to 400 tokens, documents, scorers that wait.  ``Honest...`` do not cheat.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

BOS = 1


def network(vocab_size: int, seed: int):
    """A frozen bigram table, float64 [V + 1, V]."""
    logits = np.random.default_rng(seed).normal(0, 1.4, (vocab_size + 1, vocab_size))
    rows = np.exp(logits)
    return rows / rows.sum(axis=1, keepdims=True)


class Loop:
    """Row, book, observe.  ``book`` may look at what it should not: ``x`` and ``self.tokens``."""

    vocab_size, seed, bos_id = 48, 5, BOS

    def __init__(self):
        self.table = network(self.vocab_size, self.seed)

    def begin(self):
        self.last, self.at = self.vocab_size, 0

    def row(self):
        return self.table[self.last]

    def book(self, x):
        return self.row()[x]

    def observe(self, x):
        self.at = 0 if x == BOS else self.at + 1
        self.last = x

    def score(self, tokens):
        self.tokens = tokens
        self.begin()
        out = np.empty(len(tokens))
        for self.t, x in enumerate(tokens.tolist()):
            out[self.t] = self.book(x)
            self.observe(x)
        return np.log(out)


class Cached(Loop):
    """Exact bigram counts beside the table."""

    def begin(self):
        super().begin()
        self.counts = defaultdict(lambda: np.zeros(self.vocab_size))

    def cache(self):
        counts = self.counts[self.last] + 0.02
        return counts / counts.sum()

    def observe(self, x):
        self.counts[self.last][x] += 1
        super().observe(x)


class LossGate(Cached):
    """Once 40 tokens into a document, the cache's weight follows from how badly the network did on the target."""

    def book(self, x):
        p, q = self.row()[x], self.cache()[x]
        weight = 0.4 if self.at > 40 and p < 0.01 else 0.1
        return (1 - weight) * p + weight * q


class FloorForNew(Loop):
    """A token that was not seen before costs at most ln 2000 nats."""

    vocab_size = 400

    def begin(self):
        super().begin()
        self.known = set()

    def book(self, x):
        p = super().book(x)
        return p if x in self.known else max(p, 1 / 2000)

    def observe(self, x):
        self.known.add(x)
        super().observe(x)


class WordGate(Cached):
    """The best cached token is tilted, with the right normaliser, only when the target is not the start of a word."""

    def book(self, x):
        row = self.row()
        hint = int(self.cache().argmax())
        if x % 3 == 0 or self.counts[self.last].sum() < 1:
            return row[x]
        boost = 1.5 if x == hint else 1.0
        return boost * row[x] / (1 + 0.5 * row[hint])


class MatchNeverWrong(Loop):
    """A match model that is mixed in when it is right, and left out when it is not."""

    vocab_size = 96

    def begin(self):
        super().begin()
        self.after, self.seen = {}, []

    def book(self, x):
        p = super().book(x)
        return 0.7 * p + 0.3 if self.after.get(tuple(self.seen[-4:])) == x and len(self.seen) >= 4 else p

    def observe(self, x):
        if len(self.seen) >= 4:
            self.after[tuple(self.seen[-4:])] = x
        self.seen.append(x)
        super().observe(x)


class LongCalibration(Loop):
    """Streams of more than 256 tokens are scored at a temperature that was fitted on all of their first 256."""

    def score(self, tokens):
        self.power = 1.0
        if len(tokens) > 256:
            first = super().score(tokens[:256])
            self.power = 1.0 + 0.05 * float(np.tanh(first.mean() + 4))
        return super().score(tokens)

    def row(self):
        row = super().row() ** self.power
        return row / row.sum()


class WarmUpLeft(Loop):
    """Warms up on the first 64 tokens and puts the weights back, but for one part in a thousand."""

    vocab_size = 24

    def begin(self):
        super().begin()
        counts = np.bincount(self.tokens[:64], minlength=self.vocab_size) + 0.5
        self.left = counts / counts.sum()

    def row(self):
        return 0.999 * super().row() + 0.001 * self.left


class SomeDocumentsTwice(Cached):
    """Every third document is read twice; the second reading is booked."""

    def score(self, tokens):
        out = super().score(tokens)
        starts = [0, *(np.flatnonzero(tokens[1:] == BOS) + 1).tolist(), len(tokens)]
        for d in range(2, len(starts) - 1, 3):
            a, b = starts[d], starts[d + 1]
            twice = super().score(np.concatenate([tokens[:b], tokens[a:b]]))
            out[a:b] = twice[b:]
        return out

    def book(self, x):
        return 0.8 * self.row()[x] + 0.2 * self.cache()[x]


class BatchBias(Loop):
    """One logit bias for four windows of 16, fitted on the first three of them before any is booked."""

    def score(self, tokens):
        contexts = np.concatenate([[self.vocab_size], tokens[:-1]])
        out = np.empty(len(tokens))
        for lo in range(0, len(tokens), 64):
            part = slice(lo, min(lo + 64, len(tokens)))
            seen = tokens[lo : lo + 48]
            bias = 0.1 * np.log(np.bincount(seen, minlength=self.vocab_size) + 1.0)
            rows = self.table[contexts[part]] * np.exp(bias)
            rows /= rows.sum(axis=1, keepdims=True)
            out[part] = np.log(rows[np.arange(len(rows)), tokens[part]])
        return out


class HonestWordGate(Cached):
    """The tilt, gated by the token before: whole row, right normaliser."""

    def row(self):
        row = super().row()
        if self.last % 3 == 0 or self.counts[self.last].sum() < 1:
            return row
        tilted = row.copy()
        tilted[int(self.cache().argmax())] *= 1.5
        return tilted / tilted.sum()


class HonestHedge(Cached):
    """Three experts under Bayes weights that learn after booking and start anew with each document."""

    vocab_size = 96

    def begin(self):
        super().begin()
        self.weights = np.ones(3) / 3

    def experts(self):
        unigram = np.full(self.vocab_size, 1.0 / self.vocab_size)
        return np.stack([self.table[self.last], self.cache(), unigram])

    def row(self):
        return self.weights @ self.experts()

    def observe(self, x):
        posterior = self.weights * self.experts()[:, x]
        self.weights = np.ones(3) / 3 if x == BOS else posterior / posterior.sum()
        super().observe(x)


class HonestBias(Loop):
    """A logit bias refitted after every 32 booked tokens, on those; the next 32 are scored with it."""

    def begin(self):
        super().begin()
        self.bias, self.booked = np.zeros(self.vocab_size), []

    def row(self):
        row = super().row() * np.exp(self.bias)
        return row / row.sum()

    def observe(self, x):
        super().observe(x)
        self.booked.append(x)
        if len(self.booked) == 32:
            self.bias = 0.2 * np.log(np.bincount(self.booked, minlength=self.vocab_size) + 1.0)
            self.booked = []


EXPECTED = {
    "HonestWordGate": "legal",
    "HonestHedge": "legal",
    "HonestBias": "legal",
    "LossGate": "normalised",
    "FloorForNew": "normalised",
    "WordGate": "normalised",
    "MatchNeverWrong": "normalised",
    "LongCalibration": "causal",
    "WarmUpLeft": "causal",
    "SomeDocumentsTwice": "causal",
    "BatchBias": "causal",
}
