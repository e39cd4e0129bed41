"""Which experts and models look like cheats and are not?  Exact caches, dense rows, prefix gates, windows, tilts."""

from __future__ import annotations

import zlib

import numpy as np

from tests.zoo.bytecount import CaseSidecar
from tests.zoo.declare import look_alike
from tests.zoo.hashed import BUCKETS, ExactCounts, ExactPair, bucket
from tests.zoo.hints import tilt
from tests.zoo.spelling import TokenMixture
from tests.zoo.toy import (
    CommitReveal,
    Float64,
    Int64,
    Toy,
    V,
    logprob,
    network,
    network_logits,
    previous,
    softmax,
)


@look_alike("L4", "exact n-gram and a closed-form tilt", sources=(1514, 1642))
class TokenTilt(ExactCounts):
    """L4.  The most frequent follower of the longest context seen is tilted up, p e^{b [v = hint]} / Z."""

    def row(self) -> Float64:
        for context in reversed(self.contexts()):
            counts = self.rows.get(context)
            if counts is not None and counts.max() >= 2:
                return tilt(super().row(), int(counts.argmax()), 1.0)
        return super().row()


@look_alike("L5", "hashed context, dense row")
class DenseHashedRows(CommitReveal):
    """L5.  The context is hashed, the row is dense: collisions mix rows, every row still sums to 1."""

    def begin(self) -> None:
        super().begin()
        self.table, self.seen = np.full((BUCKETS, V), 0.1), list[int]()

    def row(self) -> Float64:
        counts = self.table[bucket(self.seen[-2:])]
        return 0.6 * super().row() + 0.4 * counts / counts.sum()

    def observe(self, x: int) -> None:
        self.table[bucket(self.seen[-2:]), x] += 1
        self.seen.append(x)
        super().observe(x)


@look_alike("L6", "hashed bigrams as input features", sources=(1458,))
class HashedInputs(Toy):
    """L6.  Embeddings of hashed bigrams (x_{t-2}, x_{t-1}) are added to the input that predicts x_t."""

    def score(self, tokens: Int64) -> Float64:
        context = previous(tokens)
        slots = (context * 31 + previous(context) * 17) % 64
        table = np.random.default_rng(3).normal(0.0, 0.5, (64, V))
        rows = softmax(network_logits()[context] + table[slots])
        return np.log(rows[np.arange(len(tokens)), tokens])


@look_alike("L7", "prefix gates and Hedge over whole rows", sources=(659,))
class HedgedGates(ExactPair):
    """L7.  Hedge over whole rows, weights updated after booking, gated on entropy and past losses."""

    def begin(self) -> None:
        super().begin()
        self.evidence, self.lost = np.zeros(2), 0.0

    def experts(self) -> Float64:
        return np.array([network()[self.last], 0.9 * super().row() + 0.1 / V])

    def row(self) -> Float64:
        weights = softmax(self.evidence)
        if self.lost > 4.0:
            weights = 0.5 * weights + 0.25
        return weights @ self.experts()

    def observe(self, x: int) -> None:
        self.lost = -float(np.log(self.row()[x]))
        self.evidence += np.log(self.experts()[:, x])
        super().observe(x)


def attention(tokens: Int64, start: int) -> Float64:
    """Rows of a toy causal attention over tokens[start:], float64 [n, V]: older copies of the last token vote."""
    part = tokens[start:]
    rows = network()[previous(tokens)][start:].copy()
    if len(part) < 3:
        return rows
    alike = np.tril(part[:-1, None] == part[None, :-1], -1)[:, :-1].astype(np.float64)
    votes, n = alike @ np.eye(V)[part[1:-1]], alike.sum(axis=1, keepdims=True)
    rows[1:] = np.where(n > 0, 0.7 * rows[1:] + 0.3 * votes / np.maximum(n, 1), rows[1:])
    return rows


@look_alike("L8", "overlapping windows, each target booked once", sources=(50,))
class SlidingWindows(Toy):
    """L8.  Overlapping windows of 32 at stride 8; the first books all it has, each later one its last 8."""

    def score(self, tokens: Int64) -> Float64:
        booked, done, length = np.empty(len(tokens)), 0, len(tokens)
        while done < length:
            hi = min(done + (8 if done else 32), length)
            start = max(0, done - 24)
            rows = attention(tokens[:hi], start)[done - start :]
            booked[done:hi] = np.log(rows[np.arange(hi - done), tokens[done:hi]])
            done = hi
        return booked


@look_alike("L9", "attention over earlier documents")
class WholeStream(Toy):
    """L9.  Attention over everything before, documents included."""

    def score(self, tokens: Int64) -> Float64:
        rows = attention(tokens, 0)
        return np.log(rows[np.arange(len(tokens)), tokens])


@look_alike("L11", "hint table made in one pass beforehand", sources=(1514, 2135))
class HintTable(Toy):
    """L11.  Hints for the whole file are computed in one pass beforehand; entry t uses x_<t only."""

    def hints(self, tokens: Int64) -> list[int]:
        successor: dict[int, int] = {}
        table, stream = [-1], tokens.tolist()
        for t in range(1, len(stream)):
            table.append(successor.get(stream[t - 1], -1))
            successor[stream[t - 1]] = stream[t]
        return table

    def score(self, tokens: Int64) -> Float64:
        booked, context = np.empty(len(tokens)), previous(tokens)
        for t, hint in enumerate(self.hints(tokens)[: len(tokens)]):
            row = network()[context[t]]
            booked[t] = (tilt(row, hint) if hint >= 0 else row)[tokens[t]]
        return np.log(booked)


@look_alike("L12", "training statistics paid for in the artifact", sources=(931, 982))
class PackedStatistics(Toy):
    """L12.  Statistics of training text, packed in the artifact, one normalised row for each context."""

    def score(self, tokens: Int64) -> Float64:
        counts = np.random.default_rng(4).integers(0, 9, (V + 1, V)).astype(np.uint8)
        table = np.frombuffer(zlib.decompress(zlib.compress(counts.tobytes())), np.uint8).reshape(V + 1, V) + 0.5
        rows = 0.8 * network() + 0.2 * table / table.sum(axis=1, keepdims=True)
        return np.log(rows[previous(tokens), tokens])


@look_alike("L17", "fixed temperature, softcap, rescale")
class Rescaled(Toy):
    """L17.  Temperature, softcap and an asymmetric rescale with constants fixed beforehand."""

    def score(self, tokens: Int64) -> Float64:
        capped = 4.0 * np.tanh(network_logits() / 4.0)
        return logprob(np.where(capped > 0, capped / 0.9, capped / 1.1), previous(tokens), tokens)


@look_alike("L19", "mass left unused, tail shorter than a sequence")
class Subnormalised(ExactPair):
    """L19.  Mass is kept back for an end symbol that never comes: Z is 0.97, wasteful and legal.

    Of the tail, the last tokens that fill no whole sequence are not booked, fewer than ``seq_len``.
    """

    seq_len = 16

    def row(self) -> Float64:
        return 0.97 * super().row()

    def ledger(self, tokens: Int64) -> tuple[Int64, Float64]:
        index = np.arange(1, max(2, (len(tokens) - 1) // self.seq_len * self.seq_len + 1))
        return index, self.score(tokens)[index]


@look_alike("L19b", "rounding that moves with the batch shape")
class Rounded(ExactPair):
    """L19.  Rounding that depends on the shape of the batch: scores move by some 1e-3 with the stream's length."""

    precision = "bfloat16"

    def score(self, tokens: Int64) -> Float64:
        booked = super().score(tokens)
        noise = np.random.default_rng(len(tokens)).normal(0.0, 3e-4, len(tokens))
        return np.minimum(booked * (1 + noise), 0.0)


look_alike("L14", "lossless case transform, bytes of the original", sources=(1729,))(CaseSidecar)
look_alike("L20", "PPM over tokens, divided by its sum")(TokenMixture)
