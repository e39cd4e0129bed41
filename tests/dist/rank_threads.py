"""Ranks as threads of one process: the harness's own code over queues instead of sockets.

Real processes, sockets and signals are in test_processes.py; here the same classes run a hundred times faster.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit.adapters.learners.ranks import SOLO, shares
from evalkit.harness.lead import Lead
from evalkit.harness.serve import Server
from evalkit.harness.wire import Lost, Message, decode, encode


class QueuePeer:
    """:class:`evalkit.harness.wire.Peer` over two queues; every message goes through the codec."""

    def __init__(self, rank: int, outbox: queue.Queue[Any], inbox: queue.Queue[Any]) -> None:
        self.rank, self._outbox, self._inbox = rank, outbox, inbox

    def send(self, kind: str, arrays: dict[str, np.ndarray] | None = None, **values: Any) -> None:
        self._outbox.put(encode(Message(kind, values, arrays or {})))

    def flush(self) -> None:
        """Nothing waits in a queue."""

    def receive(self) -> Message:
        frame = self._inbox.get(timeout=60)
        if frame is None:
            raise Lost(self.rank, "cut off")
        return decode(frame)

    def cut(self) -> None:
        """The other side sees this one die."""
        self._outbox.put(None)


class ThreadRanks:
    """:class:`evalkit.adapters.learners.ranks.Ranks` over threads, adding part by part in part order."""

    deterministic = True

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, board: dict[int, Any]) -> None:
        self.rank, self.size, self._barrier, self._board = rank, size, barrier, board

    def share(self, n: int) -> range:
        return shares(n, self.size)[self.rank]

    def _all(self, n: int, compute: Any) -> list[Any]:
        for part in self.share(n):
            self._board[part] = compute(part).clone()
        self._barrier.wait(60)
        found = [self._board[part] for part in range(n)]
        self._barrier.wait(60)
        return found

    def sum(self, n: int, compute: Any, like: Any) -> Any:
        total = like.clone().zero_()
        for part in self._all(n, compute):
            total += part
        return total

    def gather(self, n: int, compute: Any, shapes: Any) -> list[Any]:
        return [part.clone() for part in self._all(n, compute)]


class StillPulse:
    place = ""

    def at(self, place: str) -> None:
        self.place = place


@dataclass
class ThreadJob:
    """:class:`evalkit.harness.job.Job` of a thread."""

    rank: int
    size: int
    barrier: threading.Barrier
    board: dict[int, Any]
    tokens: queue.Queue[Any]
    peers: dict[int, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    pulse: StillPulse = field(default_factory=StillPulse)

    def broadcast(self, tensor: Any) -> None:
        if self.rank == 0:
            for _ in range(self.size - 1):
                self.tokens.put(tensor.clone())
        else:
            tensor.copy_(self.tokens.get(timeout=60))

    def traffic(self) -> dict[str, int]:
        return {}

    def ranks(self) -> Any:
        return ThreadRanks(self.rank, self.size, self.barrier, self.board) if self.size > 1 else SOLO


def thread_jobs(size: int) -> list[ThreadJob]:
    barrier, board, tokens = threading.Barrier(size), dict[int, Any](), queue.Queue[Any]()
    jobs = [ThreadJob(rank, size, barrier, board, tokens) for rank in range(size)]
    for rank in range(1, size):
        there, back = queue.Queue[Any](), queue.Queue[Any]()
        jobs[0].peers[rank] = QueuePeer(rank, there, back)
        jobs[rank].peers[0] = QueuePeer(0, back, there)
    return jobs


def score_on_threads(size: int, make_parts: Any, plan: Any, options: Any, **more: Any) -> Any:
    """``evalkit.score`` over ``size`` ranks; ``make_parts() -> (model, stream, adapters)``, fresh for each rank."""
    from evalkit.scoring.score import score

    jobs = thread_jobs(size)
    codes: dict[int, int] = {}

    def serve(job: Any) -> None:
        model, _, adapters = make_parts()
        learners = [a for a in adapters if not hasattr(a, "row")]
        codes[job.rank] = Server(job, lambda: model, learners).serve()

    threads = [threading.Thread(target=serve, args=(job,), daemon=True) for job in jobs[1:]]
    for thread in threads:
        thread.start()
    job: Any = jobs[0]
    lead = Lead(job, lambda: False)
    model, stream, adapters = make_parts()
    try:
        result = score(model, stream, lead.wrap(adapters), plan, options=options, forwards=lead.forwards, **more)
    finally:
        lead.close()
        for thread in threads:
            thread.join(60)
    assert all(codes[rank] == 0 for rank in range(1, size))
    return result
