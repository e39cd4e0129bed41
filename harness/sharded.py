"""One forward pass over several ranks: rank 0 hands out units of the plan and takes finished rows back in stream order.

A unit is a batch of windows (or a segment of a banded pass) whose make-up depends on the plan alone, so it has the same
bits on whichever rank it runs; that is why units may be handed out by who is free.  It goes out with what is asked of its
rows and comes back finished.  While the sequencer, in the thread that iterates :meth:`ShardedForward.rows`, runs the
experts over one unit, all ranks compute later ones: of the same chunk, and without learners of the chunks after it too.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evalkit.errors import InputError
from evalkit.harness.job import Job
from evalkit.harness.lines import Lines
from evalkit.harness.units import Done, Unit, run_unit
from evalkit.harness.wire import unpack_answer
from evalkit.machine import peak_memory_bytes
from evalkit.models.forward import LocalForward
from evalkit.models.rows import Answer, Ask
from evalkit.plan import Chunk, Window

QUEUED = 2
"""Units that a rank may have before it: one under way and one waiting."""

IN_FLIGHT = 1 << 30
"""Bytes of finished rows that may be under way or wait for the sequencer, over all ranks: bounds rank 0's memory where a
stack reads whole rows (4 bytes an entry: 262,144 targets of 1,024 ids, 5,342 of 50,257).  Two units may always be out, so
that one is computed while the other is scored."""


@dataclass
class Worker:
    """One rank's work.  ``spans``: (verb, begin, end) in seconds of the wall clock, for the trace."""

    rank: int
    queued: int = 0
    units: int = 0
    spans: list[tuple[str, float, float]] = field(default_factory=list)


def choose(workers: list[Worker]) -> Worker | None:
    """The worker for the next unit: the least busy; rank 0 last among equals, it has the experts to run."""
    free = [worker for worker in workers if worker.queued < QUEUED]
    return min(free, key=lambda worker: (worker.queued, worker.rank == 0, worker.units, worker.rank)) if free else None


@dataclass
class Out:
    """A unit that was given out, about how many bytes its rows take, and what has come back of it."""

    unit: Unit
    bytes: int
    ready: deque[Done] = field(default_factory=deque)


class Crew:
    """All ranks at work on the units of a run, seen from rank 0.  One thread of its own computes rank 0's share."""

    def __init__(
        self,
        job: Job,
        lines: Lines,
        forwards: Sequence[LocalForward],
        chunks: Callable[[], Iterator[Chunk]],
        *,
        ahead: bool,
    ) -> None:
        """``forwards``: one per sweep, on rank 0's device.  ``chunks``: those of the whole stream.

        ``ahead``: later chunks may start before this one is booked.
        """
        plan = forwards[-1].plan
        if plan.carries_on and job.size > 1:
            raise InputError(
                f"plan {plan.name}: with segment=0 every block needs the one before it, so {job.size} ranks cannot "
                "share it; use segment=8192, or --nproc 1"
            )
        self.workers = [Worker(rank) for rank in range(job.size)]
        self.job, self.forwards = job, tuple(forwards)
        self._lines, self._chunks, self._ahead = lines, chunks, ahead and not plan.carries_on
        self._cuts: Iterator[tuple[int, Chunk, tuple[Window, ...]]] | None = None
        self._cut: tuple[int, Chunk, tuple[Window, ...]] | None = None
        """The next unit of the stream, when there was no room for it yet."""
        self._reading = 0
        self._numbers = itertools.count()
        self.out = deque[Out]()
        """In stream order; each leaves when it has been read."""
        self._left = dict[int, bytes]()
        self._own: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_own, name="forward", daemon=True)
        self._thread.start()

    def rows(self, sweep: int, chunk: Chunk) -> Iterator[Answer]:
        """The chunk's rows in one sweep, in stream order; sweeps of a chunk must be asked for in order, too."""
        if self._cuts is None:
            self._cuts = self._cuts_from(chunk.index)
        self._reading = chunk.index
        self._feed()
        while self.out and (self.out[0].unit.sweep, self.out[0].unit.chunk) == (sweep, chunk.index):
            head = self.out[0]
            while (done := self._wait(head)).hi:
                yield unpack_answer(done.arrays, head.unit.question.cut(done.lo, done.hi))
            if done.fault is not None:
                raise done.fault
            self.out.popleft()
            self._feed()

    def stats(self) -> list[dict[str, Any]]:
        """One entry a rank; of rank 0 alone when the job is being stopped.  Takes in the others' own spans."""
        rows = [rank_stats(self.job)]
        if self._lines.lost is None and not self._lines.stopping():
            rows += [self._lines.ask(rank, "stats") for rank in self._lines.peers]
        for row, worker in zip(rows, self.workers, strict=False):
            row["units"] = worker.units
            row["busy_seconds"] = round(sum(end - begin for _, begin, end in worker.spans), 6)
            worker.spans += [(verb, begin, end) for verb, begin, end in row.pop("spans", [])]
        return rows

    def snapshot(self, sweep: int) -> bytes:
        """What the last chunk left to the next one, whichever rank computed it."""
        forward = self.forwards[sweep]
        return self._left.get(sweep, b"") if forward.hands_on else forward.snapshot()

    def restore(self, sweep: int, state: bytes) -> None:
        if self.forwards[sweep].hands_on:
            self._left[sweep] = state
        else:
            self.forwards[sweep].restore(state)

    def stop(self) -> None:
        """End our thread; a unit under way is finished and forgotten."""
        while not self._own.empty():
            self._own.get()
        self._own.put(None)
        self._thread.join()

    def _cuts_from(self, first: int) -> Iterator[tuple[int, Chunk, tuple[Window, ...]]]:
        """(sweep, chunk, windows) of every unit from a chunk on: of each chunk sweep by sweep, as they are read."""
        for chunk in self._chunks():
            for sweep, forward in enumerate(self.forwards if chunk.index >= first else ()):
                for windows in forward.units(chunk):
                    yield sweep, chunk, tuple(windows)

    def _feed(self) -> None:
        """Give work to ranks that have room, in stream order, as far as its rows may take memory."""
        assert self._cuts is not None
        while (worker := choose(self.workers)) is not None:
            self._cut = self._cut or next(self._cuts, None)
            if self._cut is None or (self._cut[1].index > self._reading and not self._ahead):
                return
            sweep, chunk, windows = self._cut
            lo, hi = windows[0].lo, windows[-1].hi
            size = self.forwards[sweep].target_bytes * (hi - lo)
            if len(self.out) > 1 and sum(out.bytes for out in self.out) + size > IN_FLIGHT:
                return
            self._cut, forward = None, self.forwards[sweep]
            state = self._left.pop(sweep, b"") if forward.continues(windows) else b""
            unit = Unit(next(self._numbers), sweep, chunk.index, windows, forward.ask(chunk, lo, hi), state)
            self.out.append(Out(unit, size))
            self._give(unit, worker)

    def _give(self, unit: Unit, worker: Worker) -> None:
        worker.queued, worker.units = worker.queued + 1, worker.units + 1
        if worker.rank == 0:
            self._own.put(unit)
        else:
            arrays, values = unit.pack()
            self._lines.send(worker.rank, "run", arrays, **values)

    def _wait(self, head: Out) -> Done:
        while not head.ready:
            done = self._lines.next()
            worker, out = self.workers[done.rank], self.out[done.unit - head.unit.number]
            worker.spans.append(("forward", done.begin, done.end))
            out.ready.append(done)
            if not done.hi:
                worker.queued -= 1
                if len(done.arrays["left"]):
                    self._left[out.unit.sweep] = done.arrays["left"].tobytes()
                self._feed()
        return head.ready.popleft()

    def _run_own(self) -> None:
        """Rank 0's share of the forward."""
        torch.set_num_threads(self.job.threads)
        while (unit := self._own.get()) is not None:
            self.job.pulse.at(f"batch {unit.number}, in chunk {unit.chunk}")
            try:
                for done in run_unit(self.forwards, unit):
                    self._lines.put(done)
            except Exception as fault:
                self._lines.put(fault)
            self.job.pulse.at("")


def rank_stats(job: Job) -> dict[str, Any]:
    """What run.json says of a rank."""
    return {
        "rank": job.rank,
        "device": job.device,
        "threads": job.threads,
        "peak_memory_bytes": peak_memory_bytes(),
        "device_peak_bytes": torch.cuda.max_memory_allocated(job.device) if job.device != "cpu" else None,
        **job.traffic(),
    }


class ShardedForward:
    """:class:`evalkit.models.rows.Forward` for one sweep, over all ranks."""

    def __init__(self, crew: Crew, sweep: int) -> None:
        self._crew, self._sweep = crew, sweep
        self.world_size = crew.job.size

    @property
    def ask(self) -> Ask:
        return self._crew.forwards[self._sweep].ask

    @ask.setter
    def ask(self, ask: Ask) -> None:
        self._crew.forwards[self._sweep].ask = ask

    def rows(self, chunk: Chunk) -> Iterator[Answer]:
        return self._crew.rows(self._sweep, chunk)

    def snapshot(self) -> bytes:
        return self._crew.snapshot(self._sweep)

    def restore(self, state: bytes) -> None:
        self._crew.restore(self._sweep, state)

    def ranks(self) -> list[dict[str, Any]]:
        return self._crew.stats()

    def tracks(self) -> dict[int, list[tuple[str, float, float]]]:
        return {worker.rank: worker.spans for worker in self._crew.workers}
