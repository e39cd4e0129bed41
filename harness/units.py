"""A unit of work, what comes back of it, how both travel, and what any rank does with one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.harness.faults import pack_fault, unpack_fault
from evalkit.harness.wire import Message, pack_answer
from evalkit.models.forward import LocalForward
from evalkit.models.rows import Question
from evalkit.plan import Window

Packed = tuple[dict[str, np.ndarray], dict[str, Any]]
"""(arrays, values) of a message."""


@dataclass(frozen=True)
class Unit:
    """A batch of windows, a segment of a banded pass, or a document that learns, with what is asked of its rows."""

    number: int
    sweep: int
    """Which forward pass over the stream it belongs to: the models before each learner, then the one that is scored."""
    chunk: int
    windows: tuple[Window, ...]
    question: Question
    state: bytes = b""
    """What the chunk before left to it (see ``LocalForward.continues``)."""

    def pack(self) -> Packed:
        arrays = {
            "windows": np.array([[w.start, w.lo, w.hi] for w in self.windows], dtype=np.int64),
            "cands": self.question.cands,
            "probes": np.array(self.question.probes, dtype=np.int64),
            "state": np.frombuffer(self.state, dtype=np.uint8),
        }
        return arrays, {"number": self.number, "sweep": self.sweep, "chunk": self.chunk}

    @classmethod
    def unpack(cls, message: Message) -> Unit:
        a = message.arrays
        windows = tuple(Window(*row) for row in a["windows"].tolist())
        question = Question(windows[0].lo, a["cands"], tuple(a["probes"].tolist()))
        return cls(**message.values, windows=windows, question=question, state=a["state"].tobytes())


@dataclass(frozen=True)
class Done:
    """Rows [lo, hi) of a unit are finished; or, with ``hi`` 0, the rank is through with the unit, or failed at it.

    ``arrays``: the rows as :func:`evalkit.harness.wire.pack_answer` has them; at the end ``left``, uint8: what the unit
    leaves to the next chunk.  ``begin``, ``end``: seconds of the wall clock.
    """

    unit: int
    begin: float
    end: float
    lo: int = 0
    hi: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    fault: EvalkitError | None = None
    rank: int = 0

    def pack(self, rank: int, place: str) -> Packed:
        """``place``: what this rank does."""
        fault = self.fault and pack_fault(self.fault, rank, place)
        where = {"unit": self.unit, "begin": self.begin, "end": self.end, "lo": self.lo, "hi": self.hi}
        return self.arrays, {**where, "fault": fault, "rank": rank}

    @classmethod
    def unpack(cls, message: Message) -> Done:
        fault = message.values.pop("fault")
        return cls(**message.values, arrays=message.arrays, fault=fault and unpack_fault(fault))


def run_unit(forwards: Sequence[LocalForward], unit: Unit) -> Iterator[Done]:
    """Compute a unit on this rank: its rows as they are finished, then that it is through.

    An EvalkitError is an item, too: it counts when the stream gets there.  Anything else is raised: it counts at once.
    """
    forward, begin, left, fault = forwards[unit.sweep], time.time(), b"", None
    if forward.hands_on:
        forward.restore(unit.state)
    try:
        for rows in forward.run(unit.windows, unit.question):
            end = time.time()
            yield Done(unit.number, begin, end, rows.lo, rows.hi, pack_answer(rows))
            begin = end
        left = forward.snapshot() if forward.hands_on else b""
    except EvalkitError as found:
        fault = found
    yield Done(unit.number, begin, time.time(), arrays={"left": np.frombuffer(left, np.uint8)}, fault=fault)
