"""What does a rank keep of the rows it computed, and how are they asked for?

A part is one :class:`~evalkit.models.forward.BatchRows` with what every stack needs taken at once: log p of the targets
and the prefix-only scalars.  Hints are asked for later, when the sequencer knows them; whole rows only by the sentinel,
one per chunk, and by stacks that declare ``Needs.rows``.

Shape legend: n targets of the part, K candidate ids, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from evalkit.adapters.base import Float64, Int32, Needs, Side
from evalkit.models.forward import BatchRows, Forward
from evalkit.models.lanes import LaneForward
from evalkit.models.rows import RowScalars, floored_exp, pick
from evalkit.plan import Window

Ask = Callable[[int, int, Int32 | None], Float64]
"""(begin, end, ids [n, K] or None) -> log p of the ids [n, K], or whole rows of probabilities [n, V] for None."""


class Part:
    """Targets [lo, hi): the face that the scoring loop expects of rows, wherever they were computed."""

    def __init__(self, lo: int, hi: int, logp: Float64, side: Side, needs: Needs, ask: Ask) -> None:
        self.lo, self.hi, self.logp, self.side = lo, hi, logp, side
        self._needs, self._ask = needs, ask

    def scalars(self, begin: int, end: int, cands: Int32) -> RowScalars:
        """What the stack needs of targets lo+begin..lo+end-1; cands int32 [end-begin, K], column 0 the targets."""
        logp = self.logp[begin:end]
        if self._needs.rows:
            p = self._ask(begin, end, None)
        elif cands.shape[1] == 1:
            p = floored_exp(logp[:, None])
        else:
            hints = self._ask(begin, end, np.ascontiguousarray(cands[:, 1:]))
            p = floored_exp(np.concatenate((logp[:, None], hints), axis=1))
        return RowScalars(np.ascontiguousarray(logp), p, self.side.cut(begin, end))

    def row(self, i: int) -> tuple[Float64, Side]:
        """The whole row of target lo+i, float64 [V], and its side scalars."""
        return self._ask(i, i + 1, None)[0], self.side.at(i)


class Kept:
    """Rows held on this rank's device, by (unit, number in the unit), until they are released."""

    def __init__(self, forwards: Sequence[Forward | LaneForward]) -> None:
        """``forwards``: one per sweep, the scored model's last."""
        self.forwards = tuple(forwards)
        self._rows: dict[int, list[BatchRows]] = {}
        self._stream = _own_stream(torch.device(forwards[-1].model.device))
        self._lock = threading.Lock()

    def run(
        self, unit: int, sweep: int, windows: Sequence[Window], state: bytes = b""
    ) -> Iterator[tuple[int, BatchRows, Float64]]:
        """Compute a unit: yields (number, rows, log p of the targets [n]) as each is done.

        ``state``: what the chunk before left to it.
        """
        forward = self.forwards[sweep]
        if forward.hands_on:
            forward.restore(state)
        for number, rows in enumerate(forward.rows(windows)):
            tokens = np.asarray(forward.tokens[rows.lo : rows.hi], dtype=np.int32)
            logp = np.ascontiguousarray(pick(rows.logits, rows.stats.lse, tokens[:, None])[:, 0])
            with self._lock:
                self._rows.setdefault(unit, []).append(rows)
            yield number, rows, logp

    def left(self, sweep: int) -> bytes:
        """What the unit that was computed last leaves to the next chunk."""
        forward = self.forwards[sweep]
        return forward.snapshot() if forward.hands_on else b""

    def ask(self, unit: int, number: int, begin: int, end: int, ids: Int32 | None) -> Float64:
        """See :data:`Ask`.  On CUDA beside the forward that is under way, not behind it."""
        with self._lock:
            rows = self._rows[unit][number]
        with self._beside():
            logits, stats = rows.logits[begin:end], rows.stats.cut(begin, end)
            return stats.probabilities(logits) if ids is None else pick(logits, stats.lse, ids)

    def release(self, unit: int) -> None:
        with self._lock:
            self._rows.pop(unit, None)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """The host has seen the rows' own results, so their kernels are over: no event to wait for."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield


def side_arrays(side: Side) -> dict[str, np.ndarray]:
    """Side scalars as arrays for the wire."""
    named = {"entropy": side.entropy, "top_id": side.top_id, "top_p": side.top_p}
    return {k: v for k, v in named.items() if v is not None} | {f"mass/{k}": v for k, v in side.masses.items()}


def side_from(arrays: dict[str, np.ndarray]) -> Side:
    masses = {k.removeprefix("mass/"): v for k, v in arrays.items() if k.startswith("mass/")}
    found: dict[str, Any] = {k: arrays.get(k) for k in ("entropy", "top_id", "top_p")}
    return Side(**found, masses=masses)


def _own_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device) if device.type == "cuda" else None
