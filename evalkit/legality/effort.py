"""How many probes fit the time?  Two timed calls, then streams, cuts and forks in proportion."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from evalkit.legality.scorer import Box

LENGTHS = (48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
DEFAULT_SECONDS = 90.0
DEEP_SECONDS = 600.0


@dataclass(frozen=True)
class Effort:
    """What an audit sets out to ask.  Counts are per stream unless a name says otherwise."""

    length: int = 96
    """Tokens of an ordinary probe stream."""
    streams: int = 4
    """Ordinary probe streams, of all kinds in turn."""
    cuts: int = 24
    """Replays with a replaced, cut or lengthened suffix."""
    forks: int = 6
    """Positions at which the probabilities of all tokens (or of ``subset``) are summed."""
    subset: int = 1 << 22
    """Tokens asked at a fork, at most."""
    long_length: int = 384
    """Tokens of the stream that outlasts warm-ups; 0: none."""
    long_cuts: int = 8
    long_forks: int = 1
    shrink: int = 120
    """Replays spent on making the counter-example small."""

    def calls(self, vocab_size: int) -> int:
        """Replays this effort amounts to when nothing is found."""
        asked = min(self.subset, vocab_size)
        return self.streams * (self.cuts + self.forks * asked) + self.long_cuts + self.long_forks * asked


QUICK = Effort(length=96, streams=4, cuts=20, forks=5, long_length=320, long_cuts=5, long_forks=1, shrink=40)
NORMAL = Effort(length=160, streams=6, cuts=64, forks=16, long_length=1024, long_cuts=12, long_forks=4)


@dataclass(frozen=True)
class Pace:
    """Seconds of one call: ``fixed`` plus ``per_token`` times the length."""

    fixed: float
    per_token: float

    def of(self, length: float) -> float:
        return self.fixed + self.per_token * length


def measure(box: Box, rng: np.random.Generator) -> Pace:
    """Time two lengths, the second call of each (the first may compile)."""
    took = []
    for length in (32, 128):
        tokens = rng.integers(0, box.facts.vocab_size, length)
        box.score(tokens)
        start = time.perf_counter()
        box.score(tokens)
        took.append(max(1e-5, time.perf_counter() - start))
    per_token = max(0.0, (took[1] - took[0]) / 96)
    return Pace(max(1e-5, took[0] - 32 * per_token), per_token)


def plan(pace: Pace, vocab_size: int, seconds: float) -> Effort:
    """The largest effort whose forecast stays under four fifths of ``seconds``; the rest is for shrinking."""
    best = _least(vocab_size)
    for length in LENGTHS:
        for scale in (1, 2, 4, 8):
            tried = replace(
                best,
                length=length,
                streams=min(4 + scale, 8),
                cuts=16 * scale,
                forks=4 * scale,
                subset=vocab_size,
                long_length=length * 4,
                long_cuts=4 * scale,
                long_forks=scale,
            )
            if forecast(tried, pace, vocab_size) <= 0.8 * seconds:
                best = _better(best, tried, vocab_size)
    return best


def forecast(effort: Effort, pace: Pace, vocab_size: int) -> float:
    """Seconds that an effort will take when nothing is found."""
    asked = min(effort.subset, vocab_size)
    fork = 0.5 * asked * (pace.of(effort.length) + pace.of(effort.length / 2))
    short = effort.streams * (effort.cuts * pace.of(effort.length) + effort.forks * fork)
    long = (effort.long_cuts + effort.long_forks * asked) * pace.of(effort.long_length)
    return short + long + 20 * pace.of(effort.length)


def _least(vocab_size: int) -> Effort:
    """When even the smallest full sums do not fit: bounds over subsets."""
    return Effort(
        length=LENGTHS[0],
        streams=4,
        cuts=12,
        forks=3,
        subset=min(vocab_size, 24),
        long_length=4 * LENGTHS[0],
        long_cuts=4,
        long_forks=1,
    )


def _better(old: Effort, new: Effort, vocab_size: int) -> Effort:
    """More full sums first, then longer streams up to 256, then more of both."""

    def worth(e: Effort) -> float:
        return float(
            np.log(min(e.forks * e.streams, 48)) + np.log(min(e.length, 256)) + 0.25 * np.log(e.calls(vocab_size))
        )

    if old.subset < new.subset or worth(new) > worth(old):
        return new
    return old
