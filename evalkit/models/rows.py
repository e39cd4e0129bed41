"""What is asked of consecutive rows of logits before they are computed, and the answer: all that a stack reads of them.

The reduction itself, which needs torch, is in ``reduce.py``.  Whoever answers is a :class:`Forward`.

Shape legend: n targets, V vocabulary, K candidate ids per target, column 0 the target itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evalkit import _native
from evalkit.adapters.base import Float64, Int32, Rows, Side
from evalkit.plan import Chunk

P_FLOOR = 1e-300
"""Smallest probability that enters a stack: log stays finite, and V * 1e-300 is far below 1e-12."""


@dataclass(frozen=True)
class Question:
    """What is asked of the rows of targets [lo, hi) before they are computed; it follows from tokens and seeds alone.

    cands int32 [n, K]: column 0 the targets, then hints (-1 where there is none, TOP for the model's most probable id).
    probes: the targets whose whole row is wanted, in order.
    """

    lo: int
    cands: Int32
    probes: tuple[int, ...] = ()

    @property
    def hi(self) -> int:
        return self.lo + len(self.cands)

    def cut(self, lo: int, hi: int) -> Question:
        """The question about targets [lo, hi) alone."""
        inside = tuple(t for t in self.probes if lo <= t < hi)
        return Question(lo, self.cands[lo - self.lo : hi - self.lo], inside)


Ask = Callable[[Chunk, int, int], Question]
"""(chunk, lo, hi) -> what to ask of targets [lo, hi) of the chunk; called in stream order, without gaps."""


def ask_targets(tokens: npt.NDArray[np.integer]) -> Ask:
    """Ask for log p of the targets and nothing else.  tokens: the stream's."""
    return lambda chunk, lo, hi: Question(lo, np.asarray(tokens[lo:hi], dtype=np.int32)[:, None])


@dataclass(frozen=True)
class Answer:
    """Targets [lo, hi), finished: all that the stack reads of their rows, on the host.

    cands int32 [n, K] as they were asked, TOP replaced by the id.
    logp float64 [n, K] nats (negative) of them, a hint of -1 reads token 0; [n, 1], the targets', where rows is there.
    side: the prefix-only scalars.  rows: the whole rows for a stack that reads them, None for all others.
    probed: the whole row, float64 [V] probabilities, of each target that was probed.
    """

    lo: int
    cands: Int32
    logp: Float64
    side: Side
    rows: Rows | None = None
    probed: dict[int, Float64] = field(default_factory=dict)

    @property
    def hi(self) -> int:
        return self.lo + len(self.cands)

    def p(self, begin: int, end: int) -> Float64 | Rows:
        """Of targets lo+begin..lo+end-1: probabilities of the candidates [m, K], or whole rows."""
        return exp_floored(self.logp[begin:end]) if self.rows is None else self.rows.cut(begin, end)


def exp_floored(logp: Float64) -> Float64:
    """Exp of nats float64, floored at P_FLOOR."""
    return np.maximum(_native.exp_values(np.ascontiguousarray(logp)), P_FLOOR)


class Forward(Protocol):
    """A model run over the chunks of a plan: units of windows go out with what is asked of them and come back finished.

    One process or many ranks, windows or documents that learn: the same shape, the same bits.
    """

    ask: Ask
    """What to ask of each unit, set by whoever scores before the first chunk; the targets alone if it is left.  It is
    called in stream order and may be called for units far ahead of the rows that were taken."""
    world_size: int

    def rows(self, chunk: Chunk, /) -> Iterator[Answer]:
        """Finished rows of the chunk's targets, in stream order; chunks must be asked for in order."""
        ...

    def snapshot(self) -> bytes:
        """What the chunk taken last leaves to the next one; empty when the plan carries nothing that far."""
        ...

    def restore(self, state: bytes) -> None: ...

    def ranks(self) -> list[dict[str, Any]]:
        """For run.json, one entry a rank; empty in one process."""
        ...

    def tracks(self) -> dict[int, list[tuple[str, float, float]]]:
        """For the trace, (verb, begin, end) in seconds of the wall clock by rank; empty in one process."""
        ...
