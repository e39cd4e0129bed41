"""How many probes fit the time: two timed calls, then streams, cuts, screens and forks in proportion."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.legality.scorer import Box

Clock = Callable[[], float]

LENGTHS = (64, 96, 128, 192, 256, 384, 512)
LONG = (256, 512, 1024, 2048, 4096, 8192)
DEFAULT_SECONDS = 60.0
DEEP_SECONDS = 600.0
SCREEN_TOKENS = 32
SMALL_VOCABULARY = 128
ENOUGH_FORKS, ENOUGH_CUTS = 96, 480
LEAST_LATIN, MOST_LATIN = 48, 4096
SHORT = 16
"""Tokens of the stream on which one context is forked."""
LEAST_FORKS = 8
"""Sums over the whole vocabulary without which nothing is called legal..."""
LEAST_FORKS_LATIN, LEAST_COLUMNS = 2, 64
"""...or so many beside so many columns of a Latin design, for scorers whose calls are slow."""
SLOW_SHARE = 0.55
"""Share of the time for full sums where fewer than the least would fit."""
PROBING, SHRINKING = 0.8, 0.95
"""Shares of the time after which no new question is asked, and after which no counter-example is made smaller."""


@dataclass(frozen=True)
class Effort:
    """What an audit sets out to ask.  Cuts, screens and forks are totals over the ordinary streams."""

    length: int = 96
    """Tokens of an ordinary probe stream."""
    streams: int = 4
    """Ordinary probe streams, of all kinds in turn."""
    cuts: int = 80
    """Replays with a replaced, cut or lengthened suffix."""
    forks: int = 20
    """Positions at which the probabilities of all tokens are summed."""
    screens: int = 0
    """Positions at which the sum is estimated from a few tokens, to choose where to fork."""
    long_length: int = 320
    """Tokens of the stream that outlasts warm-ups; 0: none."""
    long_cuts: int = 5
    long_forks: int = 1
    latin_length: int = 160
    """Tokens of the streams of the Latin design, one stream a token of the vocabulary; 0: none."""
    contexts: int = 4
    """Contexts of the Latin design that are forked, on streams of SHORT tokens."""
    own: int = 1
    """Streams of the scorer's own liking (taste.py), beside the ordinary ones."""
    own_cuts: int = 10
    own_forks: int = 3
    shrink: int = 40
    """Replays spent on making a counter-example small."""

    def share(self, total: int, stream: int) -> int:
        """What of a total falls to one ordinary stream."""
        return total // self.streams + (stream < total % self.streams)


QUICK = Effort()


@dataclass(frozen=True)
class Pace:
    """Seconds of one call: ``fixed`` plus ``per_token`` times the length."""

    fixed: float
    per_token: float

    def of(self, length: float) -> float:
        return self.fixed + self.per_token * length

    def fork(self, length: int, tokens: int) -> float:
        """Seconds of one sum over ``tokens`` tokens; every second one replays half of the stream only."""
        return 0.5 * tokens * (self.of(length) + self.of(length / 2))


def probe_clock(boxes: Sequence[Box]) -> Clock:
    """A clock that counts work in place of seconds: one probe is one call of ``score`` on 128 tokens.

    A call costs half a probe plus 1/256 probe per token, so an audit that is given probes asks the same questions on
    any machine, however busy.
    """
    return lambda: sum(0.5 * box.meter.calls + box.meter.tokens / 256 for box in boxes)


def measure(box: Box, rng: np.random.Generator, clock: Clock = time.perf_counter) -> Pace:
    """Time two lengths, the fastest of four calls of each (the first may compile, and the machine may be busy)."""
    took = []
    for length in (32, 128):
        tokens, best = rng.integers(0, box.facts.vocab_size, length), float("inf")
        for _ in range(4):
            start = clock()
            box.score(tokens)
            best = min(best, clock() - start)
        took.append(max(1e-5, best))
    per_token = max(0.0, (took[1] - took[0]) / 96)
    return Pace(max(1e-5, took[0] - 32 * per_token), per_token)


def plan(pace: Pace, vocab_size: int, seconds: float, most: int = 1 << 20) -> Effort:
    """Half of the time for full sums, the rest for screens, cuts, the long stream and the scorer's own ground.

    Slow scorers get fewer streams, as long as their calls cost no more for it.  ``most``: the longest stream taken.
    """
    length = min(_length(pace, vocab_size, seconds), most)
    forks = _count(0.3 * seconds / pace.fork(length, vocab_size), 0, ENOUGH_FORKS)
    slow = forks < LEAST_FORKS
    if slow:
        forks = _count(SLOW_SHARE * seconds / pace.fork(length, vocab_size), 0, LEAST_FORKS)
    long = min(_long(pace, vocab_size, seconds), most)
    screened = vocab_size > SMALL_VOCABULARY
    screens = _count(0.15 * seconds / pace.fork(length, SCREEN_TOKENS), 8, 400) if screened else 0
    return Effort(
        length=length,
        streams=int(np.clip(forks // 3, 4, 8)),
        cuts=_count(0.12 * seconds / pace.of(length), 12, ENOUGH_CUTS),
        forks=forks,
        screens=screens,
        long_length=long,
        long_cuts=_count(0.05 * seconds / pace.of(long), 2, 32),
        long_forks=0 if slow else _count(0.25 * seconds / (vocab_size * pace.of(long)), 0, 12),
        latin_length=min(_latin(pace, vocab_size, 0.12 * seconds), most),
        own=_count(0.1 * seconds / (40 * pace.of(length / 2)), 1, 3),
        own_cuts=_count(0.04 * seconds / pace.of(length), 4, 64),
        own_forks=_count(0.15 * seconds / pace.fork(length, vocab_size), 0, 24),
        contexts=_count(0.1 * seconds / (vocab_size * pace.of(SHORT)), 0, vocab_size),
        shrink=_count(0.1 * seconds / pace.of(length / 2), 40, 400),
    )


def _length(pace: Pace, vocab_size: int, seconds: float) -> int:
    """The longest ordinary stream that still leaves room for 24 full sums; the shortest when none does."""
    free = [n for n in LENGTHS if pace.of(n) <= 1.2 * pace.of(LENGTHS[0])]
    fits = [n for n in LENGTHS if 24 * pace.fork(n, vocab_size) <= 0.4 * seconds]
    return max([*free, *fits], default=LENGTHS[0])


def _long(pace: Pace, vocab_size: int, seconds: float) -> int:
    """The longest stream that leaves room for three full sums, or for one of 1024 tokens; else 1024, for cuts alone."""
    fits = [n for n in LONG if 3 * vocab_size * pace.of(n) <= 0.2 * seconds]
    return max([*fits, 1024])


def suffices(pace: Pace, vocab_size: int) -> float:
    """Seconds whose shares (see :func:`plan`) hold the least sums, a Latin design beside them, and sixty other calls."""
    sums = LEAST_FORKS_LATIN * pace.fork(LENGTHS[0], vocab_size) / SLOW_SHARE
    design = 4 * vocab_size * pace.of(LENGTHS[0])
    return (sums + design + 60 * pace.of(LENGTHS[0])) / PROBING


def _latin(pace: Pace, vocab_size: int, seconds: float) -> int:
    """The longest streams of a Latin design that fit the time; 0 when they would be too short to say anything."""
    length = (seconds / vocab_size - pace.fixed) / max(pace.per_token, 1e-9)
    if length < LEAST_LATIN and vocab_size * pace.of(LENGTHS[0]) <= 3 * seconds:
        length = LENGTHS[-1] if pace.of(LENGTHS[-1]) <= 1.2 * pace.of(LENGTHS[0]) else LENGTHS[0]
    return 0 if length < LEAST_LATIN else min(int(length), MOST_LATIN)


def _count(value: float, least: int, most: int) -> int:
    return int(np.clip(value, least, most))
