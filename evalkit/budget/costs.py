"""The cost of each verb of the loop: seconds per chunk from a calibration run, and the model fitted to them.

A verb costs ``rate`` seconds per target; verbs that read tables may get slower as the tables outgrow the caches, so they
have a slope over log2 of the stream position where the calibration shows one.  The first chunk pays for warming up
(allocations, first calls of kernels): what it costs above the others is counted once a run, not per target.  A learner
works when its own chunk is full, so rates are taken over whole periods of it: a last chunk that is cut short learns
nothing, and among the five chunks of a small calibration it hid a quarter of the learning (forecast 11 % too low).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GROWING = ("propose", "experts")
"""Verbs whose cost may depend on how much was counted before."""

ENOUGH = 6
"""Chunks from which a slope is looked for."""

DEVICE, HOST, LEARN = "device", "host", "learn"


@dataclass(frozen=True)
class ChunkCost:
    """Targets [lo, hi) took ``seconds`` by verb; "other" is what no span covers."""

    lo: int
    hi: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass
class Watch:
    """Give :meth:`chunk` to ``score(on_chunk=...)``; afterwards :meth:`costs` cuts the spans at the chunks' ends."""

    clock: Any
    began: float = 0.0
    marks: list[tuple[int, int, float]] = field(default_factory=list)

    def chunk(self, booked: Any) -> None:
        self.marks.append((booked.lo, booked.hi, self.clock()))

    def costs(self, spans: Any) -> list[ChunkCost]:
        """Of every chunk after the first mark's begin, in order."""
        costs, events, at = list[ChunkCost](), spans.events, 0
        previous = min((spans.origin + begin for _, begin, _ in events), default=self.began)
        for lo, hi, end in self.marks:
            seconds: dict[str, float] = {}
            while at < len(events) and spans.origin + events[at][2] <= end:
                verb, begin, stop = events[at]
                seconds[verb] = seconds.get(verb, 0.0) + stop - begin
                at += 1
            seconds["other"] = max(0.0, end - previous - sum(seconds.values()))
            costs.append(ChunkCost(lo, hi, seconds))
            previous = end
        return costs


def place_of(verb: str) -> str:
    """Where a verb runs: the device, the host beside it, or all ranks learning."""
    if verb in ("forward", "base"):
        return DEVICE
    return LEARN if verb.startswith("observe/") else HOST


@dataclass(frozen=True)
class VerbCost:
    """Seconds for targets [0, t): ``rate`` * t + ``slope`` * integral of log2, plus ``warm`` once."""

    verb: str
    rate: float
    slope: float = 0.0
    warm: float = 0.0

    def seconds(self, targets: int) -> float:
        grown = targets * math.log2(targets) - targets / math.log(2.0) if targets > 1 else 0.0
        return self.warm + self.rate * targets + self.slope * grown


@dataclass(frozen=True)
class CostModel:
    """Fitted verbs, and the relative error of their sum: ``noise`` is half the width of a 90 % interval."""

    verbs: tuple[VerbCost, ...]
    noise: float
    targets: int
    """Targets of the calibration that it rests on."""

    def seconds(self, targets: int) -> dict[str, float]:
        return {v.verb: v.seconds(targets) for v in self.verbs}

    def place(self, where: str, targets: int) -> float:
        return sum(v.seconds(targets) for v in self.verbs if place_of(v.verb) == where)


def fit(costs: Sequence[ChunkCost], period: int = 1) -> CostModel:
    """From the chunks of one calibration run, at least one of them.  ``period``: targets after which the work repeats."""
    names = list(dict.fromkeys(verb for cost in costs for verb in cost.seconds))
    first, later = _settled(costs, period)
    verbs = tuple(_fit_verb(name, first, later) for name in names)
    return CostModel(verbs, _noise(later), costs[-1].hi - costs[0].lo)


def _settled(costs: Sequence[ChunkCost], period: int) -> tuple[Sequence[ChunkCost], Sequence[ChunkCost]]:
    """(first period, the whole periods after it); with fewer than three the first is not set apart and comes empty."""
    ends = [i for i, cost in enumerate(costs, 1) if (cost.hi - 1) % period == 0]
    if len(ends) > 2:
        return costs[: ends[0]], costs[ends[0] : ends[-1]]
    return [], costs[: ends[-1]] if ends else costs


def _fit_verb(verb: str, first: Sequence[ChunkCost], later: Sequence[ChunkCost]) -> VerbCost:
    n = np.array([c.hi - c.lo for c in later], dtype=np.float64)
    y = np.array([c.seconds.get(verb, 0.0) for c in later])
    rate, slope = float(y.sum() / n.sum()), 0.0
    if verb in GROWING and len(later) >= ENOUGH:
        rate, slope = _growing(np.array([math.log2(c.hi) for c in later]), y / n, rate)
    warm = sum(c.seconds.get(verb, 0.0) - rate * (c.hi - c.lo) for c in first)
    return VerbCost(verb, rate, slope, max(0.0, warm) if slope == 0.0 else 0.0)


def _growing(x: np.ndarray, y: np.ndarray, flat: float) -> tuple[float, float]:
    """(rate, slope) of y = rate + slope * x where the slope is positive and twice its error; else (flat, 0)."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread == 0.0:
        return flat, 0.0
    slope = float(centred @ y) / spread
    residual = y - y.mean() - slope * centred
    error = math.sqrt(float(residual @ residual) / (len(y) - 2) / spread)
    return (float(y.mean() - slope * x.mean()), slope) if slope > 2.0 * error else (flat, 0.0)


FLOOR = 0.03
"""No machine repeats itself better than this between runs."""


def _noise(costs: Sequence[ChunkCost], draws: int = 500) -> float:
    """Moving-block bootstrap of the mean seconds per target (Kuensch 1989): neighbouring chunks share their weather."""
    totals = np.array([c.total for c in costs])
    sizes = np.array([c.hi - c.lo for c in costs], dtype=np.float64)
    if len(costs) < 4:
        return 0.25
    block = max(1, round(math.sqrt(len(costs))))
    starts = np.random.default_rng(0).integers(0, len(costs) - block + 1, (draws, -(-len(costs) // block)))
    pick = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)
    rates = totals[pick].sum(axis=1) / sizes[pick].sum(axis=1)
    low, high = np.quantile(rates, [0.05, 0.95])
    return max(FLOOR, float(high - low) / 2.0 / float(totals.sum() / sizes.sum()))
