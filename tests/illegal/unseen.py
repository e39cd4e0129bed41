"""Black boxes written after the audit was finished, to see what it finds without having been tuned on them.

V = 64.  Each cheats at few positions, or by little, or late; ``Honest...`` do not cheat.  EXPECTED names the law.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np

V = 64
RNG = np.random.default_rng(99)
TABLE = RNG.normal(0, 1.2, (V + 1, V))
TABLE = np.exp(TABLE) / np.exp(TABLE).sum(axis=1, keepdims=True)


class Base:
    vocab_size = V

    def begin(self):
        self.counts = defaultdict(lambda: np.zeros(V))
        self.seen = []

    def context(self, order):
        return tuple(self.seen[len(self.seen) - order :])

    def row(self):
        row = TABLE[self.seen[-1] if self.seen else V]
        counts = self.counts[self.context(2)]
        n = counts.sum()
        return (row * 4 + counts) / (4 + n)

    def observe(self, x):
        self.counts[self.context(2)][x] += 1
        self.seen.append(x)

    def score(self, tokens):
        self.begin()
        out = np.empty(len(tokens))
        for t, x in enumerate(tokens.tolist()):
            out[t] = self.book(t, x, tokens)
            self.observe(x)
        return np.log(out)

    def book(self, t, x, tokens):
        return self.row()[x]


class HonestCache(Base):
    pass


class HonestDecay(Base):
    """Counts are halved every 50 tokens."""

    def observe(self, x):
        super().observe(x)
        if len(self.seen) % 50 == 0:
            for key in self.counts:
                self.counts[key] *= 0.5


class HonestChunkedTemperature(Base):
    """A temperature refitted after every 32 booked tokens, on those."""

    def begin(self):
        super().begin()
        self.temperature, self.losses = 1.0, []

    def row(self):
        row = super().row() ** (1 / self.temperature)
        return row / row.sum()

    def observe(self, x):
        self.losses.append(-np.log(self.row()[x]))
        super().observe(x)
        if len(self.seen) % 32 == 0:
            self.temperature = 1.0 + 0.1 * np.tanh(np.mean(self.losses[-32:]) - 3)


class RareToken(Base):
    """Adds 5 % to the target, only when the token before it is 13."""

    def book(self, t, x, tokens):
        p = super().book(t, x, tokens)
        return min(1.0, 1.05 * p) if self.seen and self.seen[-1] == 13 else p


class LateBonus(Base):
    """Adds 1 % from token 600 on."""

    def book(self, t, x, tokens):
        return super().book(t, x, tokens) * (1.01 if t > 600 else 1.0)


class ConfidentBonus(Base):
    """Adds 0.2 % where the cache is sure of its answer and the answer is right."""

    def book(self, t, x, tokens):
        row = self.row()
        return min(1.0, row[x] * 1.002) if row.argmax() == x and row[x] > 0.3 else row[x]


class PeekNext(Base):
    """Looks at the next token, only in contexts that were seen before."""

    def book(self, t, x, tokens):
        row = self.row()
        if self.counts[self.context(2)].sum() > 1 and t + 1 < len(tokens):
            hint = np.full(V, 0.5 / V)
            hint[(tokens[t + 1] * 7 + 3) % V] += 0.5
            row = 0.98 * row + 0.02 * hint
        return row[x]


class FarPeek(Base):
    """Every 64th token is scored with the count of its own id in the next 100 tokens."""

    def book(self, t, x, tokens):
        row = self.row()
        if t % 64 == 40:
            ahead = np.bincount(tokens[t + 1 : t + 100], minlength=V) + 1.0
            row = 0.9 * row + 0.1 * ahead / ahead.sum()
        return row[x]


class LengthTemperature(Base):
    """A temperature that depends on the length of the stream."""

    def score(self, tokens):
        self.length = len(tokens)
        return super().score(tokens)

    def row(self):
        row = super().row() ** (1.0 + 1e-3 * (self.length % 7))
        return row / row.sum()


class DocumentBestOf(Base):
    """Two cache weights a document; the better one is booked, document by document (BOS is 1)."""

    def score(self, tokens):
        out = np.empty((2, len(tokens)))
        for k, weight in enumerate((2.0, 16.0)):
            self.weight = weight
            out[k] = super().score(tokens)
        starts = [0, *(np.flatnonzero(tokens[1:] == 1) + 1).tolist(), len(tokens)]
        best = np.empty(len(tokens))
        for a, b in itertools.pairwise(starts):
            best[a:b] = out[out[:, a:b].sum(axis=1).argmax(), a:b]
        return best

    def row(self):
        counts = self.counts[self.context(2)]
        return (TABLE[self.seen[-1] if self.seen else V] * self.weight + counts) / (self.weight + counts.sum())


class TrainThenScoreChunk(Base):
    """Counts of a chunk of 24 are added before the chunk is scored."""

    def score(self, tokens):
        self.begin()
        out = np.empty(len(tokens))
        stream = tokens.tolist()
        for lo in range(0, len(stream), 24):
            part = stream[lo : lo + 24]
            for i, x in enumerate(part):
                self.counts[tuple(stream[max(0, lo + i - 2) : lo + i])][x] += 0.2
            for i, x in enumerate(part):
                self.seen = stream[: lo + i]
                out[lo + i] = self.row()[x]
        return np.log(out)


class BigHash(Base):
    """Hashed context and pair tables with 4096 buckets: collisions are rare."""

    def book(self, t, x, tokens):
        c = hash((1, *self.context(3))) % 4096
        full = hash((2, *self.context(3), x)) % 4096
        p = TABLE[self.seen[-1] if self.seen else V, x]
        if self.contexts[c]:
            p = 0.6 * p + 0.4 * min(self.pairs[full], self.contexts[c]) / self.contexts[c]
        self.contexts[c] += 1
        self.pairs[full] += 1
        return p

    def begin(self):
        super().begin()
        self.contexts, self.pairs = np.zeros(4096), np.zeros(4096)


class OddLeak(Base):
    """Tells the parity of the target, at one position in eight, through the weight of the cache."""

    def book(self, t, x, tokens):
        base = TABLE[self.seen[-1] if self.seen else V]
        counts = self.counts[self.context(1)] + 0.1
        weight = 0.4 if t % 8 == 5 and x % 2 else 0.2
        return ((1 - weight) * base + weight * counts / counts.sum())[x]

    def observe(self, x):
        self.counts[self.context(1)][x] += 1
        self.seen.append(x)


class SecondOpinion(Base):
    """The first 100 tokens are scored again when all is read, with the counts of the whole stream; the better is booked."""

    def score(self, tokens):
        first = super().score(tokens)
        out = first.copy()
        stream = tokens.tolist()
        for t in range(min(100, len(stream))):
            self.seen = stream[:t]
            out[t] = max(first[t], np.log(self.row()[stream[t]]))
        return out


EXPECTED = {
    "HonestCache": "legal",
    "HonestDecay": "legal",
    "HonestChunkedTemperature": "legal",
    "RareToken": "normalised",
    "LateBonus": "normalised",
    "ConfidentBonus": "normalised",
    "PeekNext": "causal",
    "FarPeek": "causal",
    "LengthTemperature": "causal",
    "DocumentBestOf": "causal",
    "TrainThenScoreChunk": "score-first",
    "BigHash": "normalised",
    "OddLeak": "normalised",
    "SecondOpinion": "single-pass",
}
