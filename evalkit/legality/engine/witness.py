"""The witness of the fast path: what the strict path, with the target withheld, would have booked.

At chosen targets the whole row of every stage is computed before the target is scored.  It must sum to 1; asking twice
must give the same bits (a row changes no state); and the fused score that follows must be the row's own entry.  Around
every update, a learner's state must be what it was after the update before: scoring changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64, Int32, Learner, LearnerProxy, Side
from evalkit.legality.probes.strict import Replay
from evalkit.scoring.sentinel import Sentinel

FLIPS = 8
"""Places at which the targets of a hint probe are changed."""


class Witness(Sentinel):
    """A sentinel that looks at given targets, asks each row twice, and goes on after a breach."""

    def __init__(self, stages: tuple[str, ...], targets: np.ndarray, seen: Replay) -> None:
        super().__init__(0, stages)
        self.targets, self.seen = np.unique(targets), seen

    def positions(self, chunk: int, lo: int, hi: int) -> list[int]:
        inside = self.targets[(self.targets >= lo) & (self.targets < hi)]
        return inside.tolist()

    def before(self, stack: Any, row: Float64, side: Side, target: int) -> None:
        super().before(stack, row.copy(), side, target)
        again = stack.row(row.copy(), side)
        for stage, values, twin in zip(self.stages, self._rows or [], again, strict=True):
            if not np.array_equal(values, twin):
                what = f"stage '{stage}' gives target {target} another row when asked twice: asking changes its state"
                self.breach("score-first", target, stage, float(np.abs(values - twin).max()), what)
        self.seen.rows += 1

    def breach(self, law: Any, target: int, stage: str, value: float, what: str) -> None:
        self.seen.breach(law, target, value, what)


class WatchedLearner(LearnerProxy):
    """A learner whose state is hashed before and after each update."""

    def __init__(self, inner: Learner, seen: Replay) -> None:
        super().__init__(inner)
        self._seen, self._after = seen, ""

    def attach(self, model: Any, info: Any) -> Any:
        attached = self.inner.attach(model, info)
        if self.lanes:
            _Bank(attached, self.name, self._seen)
        self._after = self._hash()
        return attached

    def observe(self, receipt: Any) -> None:
        now = self._hash()
        if now != self._after:
            what = f"learner '{self.name}' changed while targets up to {receipt.hi - 1} were being scored"
            self._seen.breach("score-first", receipt.lo, 1.0, what)
        self.inner.observe(receipt)
        self._after = self._hash()
        self._seen.updates += 1

    def _hash(self) -> str:
        return hashlib.blake2b(self.inner.snapshot(), digest_size=16).hexdigest()


class _Bank:
    """Watches the states of documents that learn by themselves: one may change where its document begins, goes on, or learns."""

    def __init__(self, model: Any, name: str, seen: Replay) -> None:
        self._model, self._name, self._seen = model, name, seen
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
        self._seen.updates += 1
        if self._early:
            what = (
                f"learner '{self._name}' changed a document's state before targets up to {receipt.hi - 1} were booked"
            )
            self._seen.breach("score-first", receipt.hi - 1, 1.0, what)
        self._early = False


def watch_hints(make_stack: Callable[[], Any], targets: Int32, seen: Replay) -> None:
    """Hints for target i must not move when target i or a later one is another token.

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
            seen.breach("causal", int(moved[0]) + 1, 1.0, what)
            return
