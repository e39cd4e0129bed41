"""Does the fast path book what the strict path would, with the target withheld?  (Tests T4, T5, T6.)

At chosen targets the whole row of every stage is computed before the target is scored.  It must sum to 1; asking twice
must give the same bits (a row changes no state); and the fused score that follows must be the row's own entry.  Around
every update, a learner's state must be what it was after the update before: scoring changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64, Int32, Learner, LearnerProxy, Side
from evalkit.legality.verdict import LAWS
from evalkit.scoring.sentinel import SUM_TOLERANCE, Sentinel

FLIPS = 8
"""Places at which the targets of a hint probe are changed."""
MOST = 1000
"""Breaches handed on from one replay."""


@dataclass
class Breach:
    """One target at which the strict path disagrees."""

    law: str
    target: int
    stage: str
    value: float
    limit: float
    sentence: str


@dataclass
class Record:
    """What a witness saw."""

    rows: int = 0
    worst_sum: float = 0.0
    updates: int = 0
    breaches: list[Breach] = field(default_factory=list)


class Witness(Sentinel):
    """A sentinel that looks at given targets, goes on after a breach, and keeps a record."""

    def __init__(self, stages: tuple[str, ...], targets: np.ndarray, record: Record) -> None:
        super().__init__(0, stages)
        self.targets, self.record = np.unique(targets), record

    def positions(self, chunk: int, lo: int, hi: int) -> list[int]:
        inside = self.targets[(self.targets >= lo) & (self.targets < hi)]
        return inside.tolist()

    def before(self, stack: Any, row: Float64, side: Side, target: int) -> None:
        self._rows = stack.row(row.copy(), side)
        again = stack.row(row.copy(), side)
        assert self._rows is not None
        for stage, values, twin in zip(self.stages, self._rows, again, strict=True):
            total = math.fsum(values)
            off = abs(1.0 - total)
            self.record.worst_sum = max(self.record.worst_sum, off)
            if not off <= SUM_TOLERANCE or float(values.min()) < 0.0:
                what = f"stage '{stage}' gives target {target} a row that sums to {total:.12g}"
                self._breach("normalised", target, stage, total, 1.0 + SUM_TOLERANCE, what)
            if not np.array_equal(values, twin):
                what = f"stage '{stage}' gives target {target} another row when asked twice: asking changes its state"
                self._breach("score-first", target, stage, float(np.abs(values - twin).max()), 0.0, what)
        self.record.rows += 1

    def after(self, scored: Float64, token: int, target: int) -> None:
        assert self._rows is not None
        for stage, values, fused in zip(self.stages, self._rows, scored, strict=True):
            if float(values[token]) != float(fused):
                off = abs(float(values[token]) - float(fused))
                what = (
                    f"stage '{stage}' books p={float(fused):.9g} for target {target}; its row with the target withheld "
                    f"says {float(values[token]):.9g}"
                )
                self._breach("causal", target, stage, off, 0.0, what)
        self._rows = None

    def _breach(self, law: str, target: int, stage: str, value: float, limit: float, what: str) -> None:
        self.record.breaches.append(Breach(law, target, stage, value, limit, what))


class WatchedLearner(LearnerProxy):
    """A learner whose state is hashed before and after each update."""

    def __init__(self, inner: Learner, record: Record) -> None:
        super().__init__(inner)
        self._record, self._after = record, ""

    def attach(self, model: Any, info: Any) -> Any:
        attached = self.inner.attach(model, info)
        if self.lanes:
            _Bank(attached, self.name, self._record)
        self._after = self._hash()
        return attached

    def observe(self, receipt: Any) -> None:
        now = self._hash()
        if now != self._after:
            what = f"learner '{self.name}' changed while targets up to {receipt.hi - 1} were being scored"
            self._record.breaches.append(Breach("score-first", receipt.lo, self.name, 1.0, 0.0, what))
        self.inner.observe(receipt)
        self._after = self._hash()
        self._record.updates += 1

    def _hash(self) -> str:
        return hashlib.blake2b(self.inner.snapshot(), digest_size=16).hexdigest()


class _Bank:
    """Watches the states of documents that learn by themselves: one may change where its document begins, goes on, or learns."""

    def __init__(self, model: Any, name: str, record: Record) -> None:
        self._model, self._name, self._record = model, name, record
        self._kept, self._scoring, self._early = model.values.clone(), False, False
        for method in ("start", "load_lane", "lane_logits", "learn"):
            setattr(model, method, self._watched(method, getattr(model, method)))

    def _watched(self, method: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nested, self._scoring = self._scoring, method == "lane_logits"
            self._early |= nested or self._moved()
            answer = real(*args)
            self._early |= method == "lane_logits" and self._moved()
            self._scoring, self._kept = False, self._model.values.clone()
            if method == "learn" and args[0] and not nested:
                self._learned(args[0][0][2])
            return answer

        return call

    def _moved(self) -> bool:
        return not np.array_equal(self._kept.cpu().numpy(), self._model.values.cpu().numpy())

    def _learned(self, receipt: Any) -> None:
        self._record.updates += 1
        if self._early:
            what = (
                f"learner '{self._name}' changed a document's state before targets up to {receipt.hi - 1} were booked"
            )
            self._record.breaches.append(Breach("score-first", receipt.hi - 1, self._name, 1.0, 0.0, what))
        self._early = False


def new_record() -> Record:
    return Record()


def watch_hints(make_stack: Callable[[], Any], targets: Int32, stages: tuple[str, ...], record: Record) -> None:
    """T5: hints for target i must not move when target i or a later one is another token.

    make_stack: a fresh stack, begun.  targets int32 [n]: the first chunk of a stream.
    """
    base = make_stack().propose(targets)
    if not base.shape[1]:
        return
    for i in range(0, len(targets), max(1, len(targets) // FLIPS)):
        other = targets.copy()
        other[i:] = (other[i:] + 1 + np.arange(len(other) - i)) % (int(targets.max()) + 1)
        moved = np.flatnonzero((make_stack().propose(other)[: i + 1] != base[: i + 1]).any(axis=1))
        if len(moved):
            what = f"a hint for target {int(moved[0]) + 1} moves when targets from {i + 1} on are others"
            record.breaches.append(Breach("causal", int(moved[0]) + 1, stages[-1], 1.0, 0.0, what))
            return


def encode(record: Record, stages: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The record as arrays that travel between processes: see :meth:`EngineScorer.strict`."""
    rows = [
        (LAWS.index(b.law), b.target, stages.index(b.stage) if b.stage in stages else -1, b.value, b.limit)
        for b in record.breaches[:MOST]
    ]
    counts = np.array([record.rows, record.updates], dtype=np.int64)
    return counts, np.array(rows, dtype=np.float64).reshape(len(rows), 5)
