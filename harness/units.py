"""The pieces of work, and who gets the next one.  (Rank 0's bookkeeping; nothing here computes or sends.)"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evalkit.models.rows import Question
from evalkit.plan import Chunk, Window

QUEUED = 2
"""Units that a rank may have before it: one under way and one waiting."""

IN_FLIGHT = 1 << 30
"""Bytes of finished rows that may be under way or wait for the sequencer, over all ranks: bounds rank 0's memory where a
stack reads whole rows (4 bytes an entry: 262,144 targets of 1,024 ids, 5,342 of 50,257).  Two units may always be out, so
that one is computed while the other is scored."""


@dataclass
class Unit:
    """A batch of windows, a segment of a banded pass, or a document that learns, with what is asked of its rows.

    ``sweep``: which forward pass over the stream it belongs to (the models before each learner, then the one scored).
    """

    number: int
    sweep: int
    chunk: Chunk
    windows: tuple[Window, ...]
    bytes: int
    """What its finished rows take, about."""
    question: Question | None = None
    rank: int = -1
    state: bytes = b""
    """What the chunk before left to it (see ``LocalForward.continues``)."""


class Cuts(Protocol):
    """What of a forward the bookkeeping needs."""

    @property
    def target_bytes(self) -> int: ...

    def units(self, chunk: Chunk) -> Iterable[Sequence[Window]]: ...


@dataclass
class Lane:
    """One rank's work.  ``spans``: (verb, begin, end) in seconds of the wall clock, for the trace."""

    rank: int
    queued: int = 0
    units: int = 0
    spans: list[tuple[str, float, float]] = field(default_factory=list)


class Roll:
    """Numbers the units of the stream's chunks, in order, as far ahead as allowed: of each chunk sweep by sweep."""

    def __init__(self, forwards: Sequence[Cuts], chunks: Callable[[], Iterator[Chunk]], ahead: bool) -> None:
        """``forwards``: one a sweep; each says how it cuts a chunk."""
        self._forwards, self._chunks, self._ahead = forwards, chunks, ahead
        self._source: Iterator[Chunk] | None = None
        self._numbers: dict[tuple[int, int], range] = {}
        self._todo: deque[Unit] = deque()
        self._next = 0

    def numbers(self, sweep: int, chunk: Chunk) -> range:
        """The numbers of the chunk's units; chunks must be asked for in order, from any first one."""
        if self._source is None:
            first = chunk.index
            self._source = (c for c in self._chunks() if c.index >= first)
        if (sweep, chunk.index) not in self._numbers:
            self._cut()
        return self._numbers.pop((sweep, chunk.index))

    def _cut(self) -> bool:
        """Cut the next chunk of the stream into units.  False at the end."""
        chunk = next(self._source, None) if self._source is not None else None
        if chunk is None:
            return False
        for sweep, forward in enumerate(self._forwards):
            first = self._next
            for windows in forward.units(chunk):
                size = forward.target_bytes * (windows[-1].hi - windows[0].lo)
                self._todo.append(Unit(self._next, sweep, chunk, tuple(windows), size))
                self._next += 1
            self._numbers[sweep, chunk.index] = range(first, self._next)
        return True

    def take(self, room: int) -> Unit | None:
        """The next unit that may start and whose rows take at most ``room`` bytes, or None."""
        if not self._todo and not (self._ahead and self._cut()):
            return None
        return self._todo.popleft() if self._todo[0].bytes <= room else None


def choose(lanes: list[Lane]) -> Lane | None:
    """The lane for the next unit: the least busy; rank 0 last among equals, it has the experts to run."""
    free = [lane for lane in lanes if lane.queued < QUEUED]
    return min(free, key=lambda lane: (lane.queued, lane.rank == 0, lane.units, lane.rank)) if free else None
