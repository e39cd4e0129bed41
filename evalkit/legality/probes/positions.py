"""Positions worth asking: where the scorer is active, sure or surprised, at an edge, and, for the statistics, anywhere.

A hidden gate is most likely where scores on repeated material part from scores on fresh material, after a repeated
phrase that ends otherwise, and at edges of windows, chunks and batches.  Random positions alone give the bound on what
was missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest

import numpy as np

from evalkit.legality.probes.streams import Stream
from evalkit.legality.probes.tolerance import moves
from evalkit.legality.scorer import Float64, Int64

STRATA = (
    "screened",
    "calm",
    "repeated",
    "active",
    "torn",
    "random",
    "edge",
    "sure",
    "broken",
    "surprised",
    "onset",
    "last",
)


def edges(length: int) -> Int64:
    """Candidate edges: powers of two, multiples of the larger ones, each with its neighbours; sorted, in [1, length)."""
    powers = [1 << k for k in range(3, 24) if 1 << k < 2 * length]
    found = {1, 2, 3}
    for power in powers:
        for multiple in range(power, length + 2, power) if 8 * power >= length else (power,):
            found.update((multiple - 1, multiple, multiple + 1))
    return np.array(sorted(p for p in found if 1 <= p < length))


def activity(stream: Stream, scores: Float64) -> Float64:
    """How much the score of a copy differs from that of the original, nats, float64 [T]; 0 where nothing is copied."""
    copies = stream.copied >= 0
    moved = np.zeros(len(stream))
    moved[copies] = np.minimum(moves(scores[copies], scores[stream.copied[copies]]), 1e3)
    return moved


def strata(stream: Stream, scores: Float64, onsets: Iterable[int], rng: np.random.Generator) -> dict[str, list[int]]:
    """Positions of every stratum, the most promising first."""
    length = len(stream)
    moved, jitter = activity(stream, scores), rng.random(length)
    by_score = np.lexsort((jitter, scores))
    active = [int(t) for t in np.lexsort((jitter, -moved)) if moved[t] > 0]
    after = [int(t) for t in (stream.broken[:, None] + np.array([0, 1])).ravel() if t < length]
    return {
        "calm": calm(stream, scores, rng) if stream.name.startswith("own") else [],
        "repeated": repeated(stream.tokens),
        "active": active,
        "torn": torn(stream.tokens, rng),
        "broken": list(rng.permutation(after)),
        "edge": list(rng.permutation(edges(length))),
        "sure": [int(t) for t in by_score[::-1]],
        "random": [int(t) for t in rng.permutation(np.arange(1, length))],
        "surprised": [int(t) for t in by_score],
        "onset": [t for t in onsets if t < length],
        "last": [length - 1, length - 2, length // 2],
    }


def calm(stream: Stream, scores: Float64, rng: np.random.Generator, window: int = 24) -> list[int]:
    """The half of the positions behind whose last ``window`` tokens the scorer lost least, in random order."""
    losses = np.minimum(-scores, 50.0)
    before = np.convolve(losses, np.ones(window))[: len(losses)][:-1] if len(losses) > window else losses[:-1]
    chosen = np.argsort(before[window - 1 :], kind="stable") + window
    return rng.permutation(chosen[: max(1, len(chosen) // 2)]).tolist()


def repeated(tokens: Int64) -> list[int]:
    """Positions whose last six tokens stood together at least twice before, those that did so most often first."""
    stream, times, found = tokens.tolist(), dict[tuple[int, ...], int](), dict[int, int]()
    for t in range(6, len(stream)):
        gram = tuple(stream[t - 6 : t])
        if times.get(gram, 0) >= 2:
            found[t] = times[gram]
        times[gram] = times.get(gram, 0) + 1
    return sorted(found, key=lambda t: -found[t])


def torn(tokens: Int64, rng: np.random.Generator) -> list[int]:
    """Positions whose context (1 to 3 tokens) went on in two ways or more before; long contexts first, then anyhow.

    Where a cache holds several followers of one context, "was the target seen" and "was the context seen" part.
    """
    stream, found = tokens.tolist(), dict[int, int]()
    for order in (3, 2, 1):
        followers: dict[tuple[int, ...], set[int]] = {}
        for t in range(order, len(stream)):
            seen = followers.setdefault(tuple(stream[t - order : t]), set())
            if len(seen) > 1:
                found.setdefault(t, order)
            seen.add(stream[t])
    jitter = rng.random(len(stream))
    return sorted(found, key=lambda t: (-found[t], jitter[t]))


def pick(groups: dict[str, list[int]], count: int, first: int = 0) -> list[tuple[str, int]]:
    """``count`` distinct positions from ``first`` on, taken from the strata in turn."""
    chosen: dict[int, str] = {}
    for name, position in _in_turn(groups):
        if len(chosen) >= count:
            break
        if position >= first:
            chosen.setdefault(int(position), name)
    return [(name, position) for position, name in chosen.items()]


def _in_turn(groups: dict[str, list[int]]) -> Iterator[tuple[str, int]]:
    for row in zip_longest(*(groups[name] for name in STRATA if groups.get(name))):
        yield from (
            (name, position)
            for name, position in zip((n for n in STRATA if groups.get(n)), row, strict=True)
            if position is not None
        )


def onset_positions(base: Float64, changed: list[tuple[int, Float64]]) -> list[int]:
    """Where learning lands: positions at which the influence of a changed token begins, far behind that token.

    base: float64 [T].  changed: (first changed position, scores of the changed stream).
    """
    votes: dict[int, int] = {}
    for cut, scores in changed:
        n = min(len(base), len(scores))
        moved = moves(base[:n], scores[:n]) > 1e-6
        starts = np.flatnonzero(moved[1:] & ~moved[:-1]) + 1
        for t in starts[starts > cut + 2][:3].tolist():
            votes[t] = votes.get(t, 0) + 1
    return sorted(votes, key=lambda t: -votes[t])
