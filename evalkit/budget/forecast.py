"""Forecast of a whole run: seconds, the number of ranks, and what decides both.

With experts alone, ranks compute ahead while the sequencer runs the experts: the run takes as long as the slower of the
two.  On CPUs without a core to spare the sequencer takes its time from rank 0's share of the forward.  A learner makes a
barrier of every chunk: units of a chunk are shared, the sequencer finishes, then all ranks learn.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from evalkit.budget.costs import DEVICE, HOST, LEARN, CostModel


@dataclass(frozen=True)
class Shape:
    """What of a run decides how it can be shared."""

    targets: int
    chunk_targets: int
    units_a_chunk: int
    learners: bool
    parts_a_step: int = 1
    """Micro-batches of a learner's step: what ranks can share."""


@dataclass(frozen=True)
class Seconds:
    """A forecast: seconds, a 90 % interval, and its parts (each as if it ran alone)."""

    total: float
    low: float
    high: float
    ranks: int
    path: str
    parts: dict[str, float] = field(default_factory=dict)
    assumption: str = ""

    def fits(self, budget: float) -> bool:
        """By the upper end of the interval: a plan that fits on average fails every other time."""
        return self.high <= budget

    def json(self) -> dict[str, Any]:
        return asdict(self)


def alone(model: CostModel, shape: Shape) -> Seconds:
    """One process as it was measured: one thing after the other."""
    return one_after_the_other(
        {place: model.place(place, shape.targets) for place in (DEVICE, HOST, LEARN)}, model.noise
    )


def one_after_the_other(parts: dict[str, float], noise: float) -> Seconds:
    """``parts``: seconds of one process by place."""
    return _forecast(sum(parts.values()), noise, 1, parts, noise)


def over_ranks(
    parts: dict[str, float], shape: Shape, ranks: int, spare_cores: bool, noise: float, spread: float = 0.0
) -> Seconds:
    """``parts``: seconds of one rank for all of the device's, the host's and the learners' work.

    ``spare_cores``: the sequencer has a core (or the device is a GPU).  ``spread``: further relative doubt about the
    device's and the learners' seconds.
    """
    device, host, learn = parts[DEVICE], parts[HOST], parts[LEARN]
    chunks = max(1, math.ceil(shape.targets / shape.chunk_targets))
    if shape.learners:
        rounds = math.ceil(shape.units_a_chunk / ranks) / shape.units_a_chunk
        forward = max(device * rounds, host) if spare_cores else max(device * rounds, host, (device + host) / ranks)
        tail = host / shape.units_a_chunk
        steps = math.ceil(shape.parts_a_step / ranks) / shape.parts_a_step
        shared = {DEVICE: forward, HOST: tail, LEARN: learn * steps}
        total = sum(shared.values())
    else:
        busy = device / ranks if spare_cores else (device + host) / ranks
        shared = {DEVICE: busy, HOST: host, LEARN: 0.0}
        total = max(busy, host) + device / (chunks * shape.units_a_chunk)
    path = max(shared, key=lambda place: shared[place])
    doubt = math.hypot(noise, spread if path != HOST else 0.0)
    return _forecast(total, doubt, ranks, shared, noise, path)


def _forecast(
    total: float, doubt: float, ranks: int, parts: dict[str, float], noise: float, path: str | None = None
) -> Seconds:
    path = path or max(parts, key=lambda place: parts[place])
    low, high = total * max(0.0, 1.0 - doubt), total * (1.0 + doubt)
    return Seconds(total, low, high, ranks, path, {k: round(v, 6) for k, v in parts.items()})
