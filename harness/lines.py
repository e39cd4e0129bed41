"""Who said what?  Rank 0's ends of the lines: results go to one queue, answers to whoever asked."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError, Stopped
from evalkit.harness.faults import RankFailed, leave_unless_stopped, unpack_fault
from evalkit.harness.wire import Lost, Message, Peer, listen

GONE = "rank {} is gone; the same command with the same --out goes on from the journal"
PATIENCE = 10.0
"""Seconds for torchrun to stop this process after another died; then rank 0 speaks itself."""


@dataclass(frozen=True)
class Done:
    """Rows [lo, hi) of a unit are finished; or, without any, the rank is through with it, or failed at it.

    ``rows``: as :func:`evalkit.harness.wire.pack_answer` has them.  ``left``: what the unit leaves to the next chunk.
    """

    rank: int
    unit: int
    span: tuple[str, float, float]
    lo: int = 0
    hi: int = 0
    rows: dict[str, np.ndarray] | None = None
    fault: EvalkitError | None = None
    left: bytes = b""


class Lines:
    """``stopping``: True once this process was asked to stop."""

    def __init__(self, peers: dict[int, Peer], stopping: Callable[[], bool]) -> None:
        self.peers, self.stopping = peers, stopping
        self.lost: int | None = None
        self._events: queue.Queue[Done | BaseException] = queue.Queue()
        self._answers: dict[int, queue.Queue[Message | Lost]] = {rank: queue.Queue() for rank in peers}
        self.threads = [
            listen(peer, lambda message, rank=rank: self._deliver(rank, message)) for rank, peer in peers.items()
        ]

    def put(self, event: Done | BaseException) -> None:
        """From this process's own thread."""
        self._events.put(event)

    def next(self) -> Done:
        """The next result, or the exception that ended something."""
        event = self._patiently(self._events)
        if isinstance(event, Lost):
            self._gone(event)
        if isinstance(event, BaseException):
            raise event
        return event

    def blame(self) -> None:
        """After a collective broke: raise what another rank says, or that it is gone; return when nobody does."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            if self.stopping():
                raise Stopped("asked to stop")
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=0.1)
                if isinstance(event, Lost):
                    self._gone(event)
                if isinstance(event, BaseException):
                    raise event

    def ask(self, rank: int, kind: str, arrays: dict[str, np.ndarray] | None = None, **values: Any) -> Message:
        """Ask a rank and wait.  One thread asks, so answers come in order."""
        self.send(rank, kind, arrays, **values)
        answer = self._patiently(self._answers[rank])
        if isinstance(answer, Lost):
            self._gone(answer)
        assert isinstance(answer, Message)
        return answer

    def send(self, rank: int, kind: str, arrays: dict[str, np.ndarray] | None = None, **values: Any) -> None:
        """A message that needs no answer.  Stopped or RankFailed when the rank is gone."""
        try:
            self.peers[rank].send(kind, arrays, **values)
        except Lost as gone:
            self._gone(gone)

    def tell(self, kind: str, arrays: dict[str, np.ndarray] | None = None, **values: Any) -> None:
        """The same message to every other rank."""
        for rank in self.peers:
            self.send(rank, kind, arrays, **values)

    def farewell(self) -> None:
        """Let the others go; who is gone already is not waited for."""
        for peer in self.peers.values():
            with contextlib.suppress(Lost):
                peer.send("stop")
        for thread in self.threads if self.lost is None else ():
            thread.join(PATIENCE)

    def _patiently(self, source: queue.Queue[Any]) -> Any:
        while True:
            if self.stopping():
                raise Stopped("asked to stop")
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                continue

    def _gone(self, event: Lost) -> None:
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            if self.stopping():
                raise Stopped("asked to stop")
            time.sleep(0.05)
        raise RankFailed(GONE.format(event.rank))

    def _deliver(self, rank: int, message: Message | Lost) -> bool:
        """In the thread that listens to a rank.  False ends it."""
        if isinstance(message, Lost):
            self.lost = rank
            self._answers[rank].put(message)
            self._events.put(message)
            leave_unless_stopped(GONE.format(rank), 3, 2 * PATIENCE)
        elif message.kind == "answer":
            self._answers[rank].put(message)
        elif message.kind == "fault" and message.values["unit"] < 0:
            self._events.put(unpack_fault(message.values))
        elif message.kind in ("rows", "done", "fault"):
            self._events.put(_done(rank, message))
        return not isinstance(message, Lost) and message.kind != "bye"


def _done(rank: int, message: Message) -> Done:
    v, a = message.values, message.arrays
    span = ("forward", v["begin"], v["end"])
    if message.kind == "rows":
        return Done(rank, v["unit"], span, v["lo"], v["hi"], a)
    if message.kind == "fault":
        return Done(rank, v["unit"], span, fault=unpack_fault(v))
    return Done(rank, v["unit"], span, left=a["left"].tobytes())
