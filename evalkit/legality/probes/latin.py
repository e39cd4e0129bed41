"""Estimates of Z behind every token by a Latin design: every column of V streams is a permutation.

V streams of one length are scored once.  In a *free* column every token of the vocabulary stands in one of the streams,
so the column's probabilities sum to an estimate of Z there, without bias when the permutations are random: V replays
say something of every column, where a fork needs V replays for one.  Between free columns stand *fixed* ones, one token
in all streams, so each estimate has a context of its own, and 2 V^2 tokens look behind every token of the vocabulary.
The prefixes of a column differ among the streams, so an estimate is no proof: suspects are forked, contexts on the last
few tokens alone, as many as fit the time (of a small vocabulary: all of them).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evalkit.legality.effort import LEAST_LATIN, SHORT
from evalkit.legality.probes import mass
from evalkit.legality.probes.lab import Lab, Scored
from evalkit.legality.probes.probe import replay
from evalkit.legality.probes.streams import Stream
from evalkit.legality.scorer import Float64, Int64

BLOCK = 64
SLICES = 16
PERIODS = (2, 4, 8, 16, 32, 64)
SIGMAS = 4.0
"""How far the mean of a slice or of a residue must stand out before it is worth a fork."""


@dataclass(frozen=True)
class Design:
    """``streams`` int64 [V, n]; ``free``: the columns that hold a permutation, int64 [k]."""

    streams: Int64
    free: Int64


def design(rng: np.random.Generator, vocab_size: int, bos: int, length: int) -> Design:
    """A BOS column, then one or two fixed columns and a free one, over and over; tokens before free columns take all ids."""
    columns, free, contexts = [np.full(vocab_size, bos)], [], _through(rng, vocab_size, length)
    while len(columns) < length:
        if rng.random() < 0.2:
            pair = rng.choice(_extremes(vocab_size), 2) if rng.random() < 0.6 else [rng.integers(vocab_size), -1]
            columns.append(np.full(vocab_size, pair[0]))
            columns.append(np.full(vocab_size, pair[1] if pair[1] >= 0 else next(contexts)))
        else:
            columns.append(np.full(vocab_size, next(contexts)))
        free.append(len(columns))
        columns.append(rng.permutation(vocab_size))
    kept = np.array([c for c in free if c < length], dtype=np.int64)
    return Design(np.stack(columns[:length], axis=1), kept)


def _extremes(vocab_size: int) -> Int64:
    """The first eight ids or the last eight: in the tokenizers of the field those are the rare ones, and pairs of them
    (rare behind rare) are met by no random stream."""
    return np.r_[0 : min(8, vocab_size), max(0, vocab_size - 8) : vocab_size]


def _through(rng: np.random.Generator, vocab_size: int, count: int) -> Iterator[int]:
    """All ids in random order, then all again, at least ``count`` of them."""
    for _ in range(count // vocab_size + 1):
        yield from rng.permutation(vocab_size).tolist()


def sweep(lab: Lab) -> None:
    """Score one Latin design and fork what stands out.  Not in a declared order, which would change with BOS."""
    if not lab.effort.latin_length or lab.order or lab.late() or lab.found("normalised", "mass"):
        return
    made = _affordable(lab, design(lab.rng, lab.vocab_size, lab.bos, lab.effort.latin_length))
    scores = None if made is None else _scores(lab, made.streams)
    if made is None or scores is None:
        return
    z = np.exp(np.minimum(scores[:, made.free], 50.0)).sum(axis=0)
    for column in made.free.tolist():
        lab.taste.column(int(made.streams[0, column - 1]), made.streams[:, column], scores[:, column])
    lab.columns += z.tolist()
    lab.contexts.update(made.streams[0, made.free - 1].tolist())
    lab.contexts_of = lab.vocab_size
    for column, short in suspects(made, z, lab.effort.contexts):
        if lab.late() or lab.found("normalised", "mass"):
            break
        _fork(lab, made, column, short=short)


def _affordable(lab: Lab, made: Design) -> Design | None:
    """The design, cut short where one stream shows that a quarter of the time left would not do; None: not at all."""
    while lab.deadline is not None:
        start = lab.clock()
        lab.box.score(made.streams[0])
        now = lab.clock()
        if (now - start) * len(made.streams) <= 0.25 * (lab.deadline - now):
            break
        length = made.streams.shape[1] // 2
        if length < LEAST_LATIN:
            return None
        made = Design(made.streams[:, :length], made.free[made.free < length])
    return made


def _scores(lab: Lab, streams: Int64) -> Float64 | None:
    """float64 [V, n]; None when the time is over before all are scored."""
    parts = []
    for lo in range(0, len(streams), BLOCK):
        if lab.late():
            return None
        parts.append(replay(lab.box, streams[lo : lo + BLOCK]))
    return np.concatenate(parts)


def suspects(made: Design, z: Float64, contexts: int) -> list[tuple[int, bool]]:
    """Columns worth a fork: (column, whether a short stream will do).

    z float64 [k]: the columns' estimates.  contexts: how many contexts, those of the highest mean first.
    """
    behind = made.streams[0, made.free - 1]
    ids, group = np.unique(behind, return_inverse=True)
    means = np.bincount(group, weights=z) / np.bincount(group)
    worst = ids[np.argsort(-means, kind="stable")[:contexts]]
    highest = made.free[np.argsort(-z, kind="stable")[: 4 if contexts else 1]].tolist()
    found = [(int(made.free[np.flatnonzero(behind == c)[0]]), True) for c in worst]
    slices = np.arange(len(z)) * SLICES // len(z)
    found += [(c, False) for c in _outstanding(made.free, z, slices)]
    for period in PERIODS:
        found += [(c, False) for c in _outstanding(made.free, z, made.free % period)]
    return list(dict.fromkeys([*[(c, False) for c in highest[:1]], *found, *[(c, False) for c in highest[1:]]]))


def _outstanding(free: Int64, z: Float64, group: Int64) -> list[int]:
    """The first column of the group whose mean stands out most; none when none does."""
    spread = 1.4826 * float(np.median(np.abs(z - np.median(z)))) + 1e-6
    sizes = np.bincount(group)
    means = np.bincount(group, weights=z) / np.maximum(sizes, 1)
    sigmas = np.where(sizes > 0, (means - 1.0) * np.sqrt(sizes) / spread, -np.inf)
    best = int(sigmas.argmax())
    return [int(free[np.flatnonzero(group == best)[0]])] if sigmas[best] > SIGMAS else []


def _fork(lab: Lab, made: Design, column: int, *, short: bool) -> None:
    row = made.streams[int(lab.rng.integers(len(made.streams)))]
    tokens = row[max(0, column + 1 - SHORT) if short else 0 : column + 1]
    nothing = np.full(len(tokens), -1), np.zeros(0, dtype=np.int64)
    scored = Scored(Stream("latin", tokens, *nothing), np.zeros(len(tokens)))
    mass.fork(lab, scored, len(tokens) - 1, "latin" if short else "outstanding", keep=False)
