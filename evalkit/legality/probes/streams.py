"""Streams that wake an adapter up: repeated documents, phrases with surprise endings, rare tokens, loops, noise.

A cheat is silent at most positions: an n-gram gate does not fire on fresh text, a two-pass cache needs repetition, a
warm-up needs length.  So the streams repeat themselves, and remember which position copies which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.legality.scorer import Int64


@dataclass(frozen=True)
class Stream:
    """Tokens int64 [T], and for each position the earlier one that it copies (-1: fresh)."""

    name: str
    tokens: Int64
    copied: Int64
    broken: Int64
    """Positions where a copied phrase ends in a token other than the one copied."""

    def __len__(self) -> int:
        return len(self.tokens)

    def head(self, tokens: Int64) -> Stream:
        """The same record for ``tokens``, which begin this stream and may end otherwise."""
        n = len(tokens)
        return Stream(self.name, tokens, self.copied[:n], self.broken[self.broken < n])


class Source:
    """Text-like tokens: a sparse Markov chain with Zipf weights, and one token in fifty from the whole vocabulary."""

    def __init__(self, rng: np.random.Generator, vocab_size: int, bos: int) -> None:
        self.rng, self.vocab_size, self.bos = rng, vocab_size, bos
        self.common = rng.permutation(vocab_size)[: min(vocab_size, 512)]
        self.zipf = _weights(len(self.common), 1.0)
        self.branch = _weights(min(6, vocab_size), 1.2)
        self.successors: dict[int, Int64] = {}

    def words(self, count: int, start: int) -> list[int]:
        """``count`` tokens that continue ``start``."""
        out, last = [], start
        for _ in range(count):
            last = self._next(last)
            out.append(last)
        return out

    def _next(self, last: int) -> int:
        if self.rng.random() < 0.02:
            return int(self.rng.integers(self.vocab_size))
        if last not in self.successors:
            self.successors[last] = self.rng.choice(self.common, len(self.branch), p=self.zipf)
        return int(self.rng.choice(self.successors[last], p=self.branch))


class Writer:
    """Builds a stream piece by piece, and keeps the record of what copies what."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.copied: list[int] = []
        self.broken: list[int] = []

    def fresh(self, tokens: Sequence[int]) -> None:
        self.tokens.extend(tokens)
        self.copied.extend([-1] * len(tokens))

    def again(self, start: int, stop: int) -> None:
        """Copy positions [start, stop) of what is written."""
        self.tokens.extend(self.tokens[start:stop])
        self.copied.extend(range(start, stop))

    def surprise(self, token: int) -> None:
        """A token that ends a copy in another way than the original went on."""
        self.broken.append(len(self.tokens))
        self.fresh([token])

    def stream(self, name: str, length: int) -> Stream:
        broken = np.array([b for b in self.broken if b < length], dtype=np.int64)
        return Stream(name, np.array(self.tokens[:length]), np.array(self.copied[:length]), broken)


def textlike(rng: np.random.Generator, vocab_size: int, bos: int, length: int) -> Stream:
    """Documents after BOS: some fresh, some whole repeats, some that quote phrases and then turn elsewhere."""
    source, writer, starts = Source(rng, vocab_size, bos), Writer(), list[int]()
    size = int(np.clip(length // 6, 6, 400))
    while len(writer.tokens) < length:
        if starts and rng.random() < 0.3:
            start = int(rng.choice(starts))
            writer.again(start, min(start + size, len(writer.tokens)))
            continue
        starts.append(len(writer.tokens))
        writer.fresh([bos])
        while len(writer.tokens) < starts[-1] + size:
            _paragraph(rng, source, writer)
    return writer.stream("text", length)


def _paragraph(rng: np.random.Generator, source: Source, writer: Writer) -> None:
    writer.fresh(source.words(int(rng.integers(3, 12)), writer.tokens[-1]))
    if len(writer.tokens) > 12 and rng.random() < 0.6:
        start = int(rng.integers(0, len(writer.tokens) - 8))
        writer.again(start, start + int(rng.integers(3, 8)))
        if rng.random() < 0.5:
            writer.surprise(int(rng.integers(source.vocab_size)))


def loops(rng: np.random.Generator, vocab_size: int, bos: int, length: int) -> Stream:
    """A few short phrases over and over, now and then with another ending: caches are sure, and sometimes wrong."""
    writer = Writer()
    writer.fresh([bos])
    phrases = []
    for size in rng.integers(2, 9, 4).tolist():
        phrases.append((len(writer.tokens), len(writer.tokens) + size))
        writer.fresh(rng.integers(0, vocab_size, size).tolist())
    while len(writer.tokens) < length:
        start, stop = phrases[int(rng.integers(len(phrases)))]
        for _ in range(int(rng.integers(1, 4))):
            writer.again(start, stop)
        if rng.random() < 0.5:
            writer.surprise(int(rng.integers(vocab_size)))
    return writer.stream("loops", length)


def noise(rng: np.random.Generator, vocab_size: int, bos: int, length: int) -> Stream:
    """Uniform tokens: every id occurs, nothing is learnable."""
    writer = Writer()
    writer.fresh([bos, *rng.integers(0, vocab_size, length - 1).tolist()])
    return writer.stream("noise", length)


def echo(rng: np.random.Generator, vocab_size: int, bos: int, length: int) -> Stream:
    """One document, then the same again and again with one token in twelve changed."""
    writer, source = Writer(), Source(rng, vocab_size, bos)
    size = max(8, length // 4)
    writer.fresh([bos, *source.words(size - 1, bos)])
    while len(writer.tokens) < length:
        at = len(writer.tokens) % size
        run = int(rng.integers(4, 20))
        writer.again(at, min(at + run, size))
        if rng.random() < 0.6 and len(writer.tokens) % size:
            writer.surprise(int(rng.integers(vocab_size)))
    return writer.stream("echo", length)


def given(rng: np.random.Generator, tokens: Int64, length: int) -> Stream:
    """A slice of the caller's own tokens, its last third a repeat of its first."""
    start = int(rng.integers(0, max(1, len(tokens) - length)))
    part = tokens[start : start + length].tolist()
    writer = Writer()
    keep = max(1, 2 * len(part) // 3)
    writer.fresh(part[:keep])
    writer.again(0, len(part) - keep)
    return writer.stream("given", length)


KINDS: tuple[Callable[[np.random.Generator, int, int, int], Stream], ...] = (textlike, loops, echo, noise)


def _weights(count: int, power: float) -> np.ndarray:
    weights = 1.0 / np.arange(1, count + 1) ** power
    return weights / weights.sum()
