"""What are the pieces of work, and who gets the next one?  (Rank 0's bookkeeping; nothing here computes or sends.)"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evalkit.plan import Chunk, Window

QUEUED = 2
"""Units that a rank may have before it: one under way and one waiting."""

HELD = 3
"""Units whose rows a rank may keep until the sequencer is done with them: bounds its memory."""


@dataclass
class Unit:
    """A batch of windows, a segment of a banded pass, or a document that learns; ``parts``: row batches that it yields.

    ``sweep``: which forward pass over the stream it belongs to (the models before each learner, then the one scored).
    """

    number: int
    sweep: int
    chunk: int
    windows: tuple[Window, ...]
    parts: int
    rank: int = -1
    state: bytes = b""
    """What the chunk before left to it (see ``Forward.continues``)."""


class Cuts(Protocol):
    """What of a forward the bookkeeping needs."""

    def units(self, chunk: Chunk) -> Iterable[Sequence[Window]]: ...

    def parts(self, unit: Sequence[Window]) -> int: ...


@dataclass
class Lane:
    """One rank's work.  ``spans``: (verb, begin, end) in seconds of the wall clock, for the trace."""

    rank: int
    queued: int = 0
    held: int = 0
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
                self._todo.append(Unit(self._next, sweep, chunk.index, tuple(windows), forward.parts(windows)))
                self._next += 1
            self._numbers[sweep, chunk.index] = range(first, self._next)
        return True

    def take(self) -> Unit | None:
        """The next unit that may start, or None."""
        if self._todo or (self._ahead and self._cut()):
            return self._todo.popleft()
        return None


def choose(lanes: list[Lane]) -> Lane | None:
    """The lane for the next unit: the least busy; rank 0 last among equals, it has the experts to run."""
    free = [lane for lane in lanes if lane.queued < QUEUED and lane.held < HELD]
    return min(free, key=lambda lane: (lane.queued, lane.rank == 0, lane.held, lane.rank)) if free else None
