"""Rank 0's connections: results go to one queue, replies to whoever asked."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from evalkit.errors import Stopped
from evalkit.harness.faults import GONE, RankFailed, leave_unless_stopped, unpack_fault
from evalkit.harness.units import Done
from evalkit.harness.wire import Lost, Message, Peer

PATIENCE = 10.0
"""Seconds for torchrun to stop this process after another died; then rank 0 speaks itself."""


class Lines:
    """One thread a line receives: a rank sends rows when they are finished, whatever rank 0 does then.

    ``stopping``: True once this process was asked to stop.
    """

    def __init__(self, peers: dict[int, Peer], stopping: Callable[[], bool]) -> None:
        self.peers, self.stopping = peers, stopping
        self.lost: int | None = None
        self._events: queue.Queue[Done | BaseException] = queue.Queue()
        self._answers: dict[int, queue.Queue[Message | Lost]] = {rank: queue.Queue() for rank in peers}
        self._threads = [threading.Thread(target=self._listen, args=(p,), daemon=True) for p in peers.values()]
        for thread in self._threads:
            thread.start()

    def put(self, event: Done | BaseException) -> None:
        """From this process's own thread."""
        self._events.put(event)

    def next(self) -> Done:
        """The next result, or the exception that ended something."""
        return self._take(self._events)

    def blame(self) -> None:
        """After a collective broke: raise what another rank says, or that it is gone; return when nobody does."""
        while self._take(self._events, PATIENCE) is not None:
            pass

    def ask(self, rank: int, kind: str, arrays: dict[str, np.ndarray] | None = None, **values: Any) -> dict[str, Any]:
        """Ask a rank and wait.  One thread asks, so answers come in order."""
        self.send(rank, kind, arrays, **values)
        return self._take(self._answers[rank]).values

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
        for thread in self._threads if self.lost is None else ():
            thread.join(PATIENCE)

    def _take(self, source: queue.Queue[Any], seconds: float = math.inf) -> Any:
        """The next event, None after ``seconds``.  Raises it when it is a fault, and Stopped when we were asked to stop."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if self.stopping():
                raise Stopped("asked to stop")
            with contextlib.suppress(queue.Empty):
                event = source.get(timeout=0.1)
                if isinstance(event, Lost):
                    self._gone(event)
                if isinstance(event, BaseException):
                    raise event
                return event
        return None

    def _gone(self, event: Lost) -> None:
        """torchrun stops this process when another dies; speak only if it does not."""
        self._take(queue.Queue(), PATIENCE)
        raise RankFailed(GONE.format(event.rank))

    def _listen(self, peer: Peer) -> None:
        """A thread of its own for each line, until the rank says goodbye or is gone."""
        while True:
            try:
                message = peer.receive()
            except Lost as gone:
                self.lost = peer.rank
                self._answers[peer.rank].put(gone)
                self._events.put(gone)
                leave_unless_stopped(GONE.format(peer.rank), 3, 2 * PATIENCE)
                return
            if message.kind == "bye":
                return
            if message.kind == "answer":
                self._answers[peer.rank].put(message)
            else:
                self._events.put(Done.unpack(message) if message.kind == "done" else unpack_fault(message.values))
