"""One forward pass over several ranks: rank 0 hands out units of the plan and takes finished rows back in stream order.

A unit is a batch of windows (or a segment of a banded pass) whose make-up depends on the plan alone, so it has the same
bits on whichever rank it runs; that is why units may be handed out by who is free.  It goes out with what is asked of its
rows and comes back finished.  While the sequencer, in the thread that iterates :meth:`ShardedForward.rows`, runs the
experts over one unit, all ranks compute later ones: of the same chunk, and without learners of the chunks after it too.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError, InputError
from evalkit.harness.job import Job
from evalkit.harness.lines import Done, Lines
from evalkit.harness.units import IN_FLIGHT, Lane, Roll, Unit, choose
from evalkit.harness.wire import pack_answer, unpack_answer
from evalkit.machine import peak_memory_bytes
from evalkit.models.forward import LocalForward
from evalkit.models.rows import Answer, Ask
from evalkit.plan import Chunk


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
        self.lanes = [Lane(rank) for rank in range(job.size)]
        self.job, self.forwards = job, tuple(forwards)
        self._lines = lines
        ahead = ahead and not plan.carries_on
        self._roll = Roll(forwards, chunks, ahead)
        self._given: dict[int, Unit] = {}
        self._left: dict[int, bytes] = {}
        self._ready: dict[int, deque[Done]] = {}
        self._own: queue.Queue[Unit | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run_own, name="forward", daemon=True)
        self._thread.start()

    def rows(self, sweep: int, chunk: Chunk) -> Iterator[Answer]:
        """The chunk's rows in one sweep, in stream order."""
        for number in self._roll.numbers(sweep, chunk):
            self._feed()
            question = self._given[number].question
            assert question is not None
            while (done := self._wait(number)).rows is not None:
                yield unpack_answer(done.rows, question.cut(done.lo, done.hi))
            if done.fault is not None:
                raise done.fault
            del self._given[number], self._ready[number]

    def stats(self) -> list[dict[str, Any]]:
        """One entry a rank; of rank 0 alone when the job is being stopped.  Takes in the others' own spans."""
        rows = [rank_stats(self.job)]
        if self._lines.lost is None and not self._lines.stopping():
            rows += [self._lines.ask(rank, "stats").values for rank in self._lines.peers]
        for row, lane in zip(rows, self.lanes, strict=False):
            row["units"] = lane.units
            row["busy_seconds"] = round(sum(end - begin for _, begin, end in lane.spans), 6)
            lane.spans += [(verb, begin, end) for verb, begin, end in row.pop("spans", [])]
        return rows

    def snapshot(self, sweep: int) -> bytes:
        """What the last chunk left to the next one, whichever rank computed it."""
        forward = self.forwards[sweep]
        return self._left.get(sweep, b"") if forward.hands_on else forward.snapshot()

    def restore(self, sweep: int, state: bytes) -> None:
        forward = self.forwards[sweep]
        if not forward.hands_on:
            forward.restore(state)
        elif state:
            self._left[sweep] = state

    def stop(self) -> None:
        """End our thread; a unit under way is finished and forgotten."""
        while not self._own.empty():
            self._own.get_nowait()
        self._own.put(None)
        self._thread.join()

    def _feed(self) -> None:
        """Give work to ranks that have room, in stream order, as far as its rows may take memory."""
        while (lane := choose(self.lanes)) is not None:
            held = [unit.bytes for unit in self._given.values()]
            unit = self._roll.take(IN_FLIGHT - sum(held) if len(held) > 1 else sys.maxsize)
            if unit is None:
                return
            self._give(unit, lane)

    def _give(self, unit: Unit, lane: Lane) -> None:
        forward = self.forwards[unit.sweep]
        unit.rank, unit.question = lane.rank, forward.ask(unit.chunk, unit.windows[0].lo, unit.windows[-1].hi)
        self._given[unit.number] = unit
        self._ready[unit.number] = deque()
        if forward.continues(unit.windows):
            unit.state = self._left.pop(unit.sweep, b"")
        lane.queued, lane.units = lane.queued + 1, lane.units + 1
        if lane.rank == 0:
            self._own.put(unit)
        else:
            arrays, values = run_message(unit)
            self._lines.send(lane.rank, "run", arrays, **values)

    def _wait(self, number: int) -> Done:
        while not self._ready[number]:
            self._book(self._lines.next())
            self._feed()
        return self._ready[number].popleft()

    def _book(self, done: Done) -> None:
        lane = self.lanes[done.rank]
        lane.spans.append(done.span)
        lane.queued -= done.rows is None
        if done.left:
            self._left[self._given[done.unit].sweep] = done.left
        self._ready[done.unit].append(done)

    def _run_own(self) -> None:
        """Rank 0's share of the forward."""
        import torch

        torch.set_num_threads(self.job.threads)
        while (unit := self._own.get()) is not None:
            self.job.pulse.at(f"batch {unit.number}, in chunk {unit.chunk.index}")
            try:
                for done in run_unit(self.forwards, unit):
                    self._lines.put(done)
            except Exception as fault:
                self._lines.put(fault)
            self.job.pulse.at("")


def rank_stats(job: Job) -> dict[str, Any]:
    """What run.json says of a rank."""
    import torch

    peak = torch.cuda.max_memory_allocated(job.device) if job.device != "cpu" else None
    return {
        "rank": job.rank,
        "device": job.device,
        "threads": job.threads,
        "peak_memory_bytes": peak_memory_bytes(),
        "device_peak_bytes": peak,
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
        """Finished rows of the chunk's targets, in stream order."""
        return self._crew.rows(self._sweep, chunk)

    def snapshot(self) -> bytes:
        """Empty unless a state goes on into the next chunk."""
        return self._crew.snapshot(self._sweep)

    def restore(self, state: bytes) -> None:
        self._crew.restore(self._sweep, state)

    def ranks(self) -> list[dict[str, Any]]:
        """One entry a rank: device, threads, peak memory, units computed, busy seconds."""
        return self._crew.stats()

    def tracks(self) -> dict[int, list[tuple[str, float, float]]]:
        """For the trace: each rank's spans, seconds of the wall clock."""
        return {lane.rank: lane.spans for lane in self._crew.lanes}


def run_unit(forwards: Sequence[LocalForward], unit: Unit) -> Iterator[Done]:
    """Compute a unit on this rank: its rows as they are finished, then that it is through.

    An EvalkitError is an item, too: it counts when the stream gets there.  Anything else is raised: it counts at once.
    """
    forward, begin, question = forwards[unit.sweep], time.time(), unit.question
    assert question is not None
    if forward.hands_on:
        forward.restore(unit.state)
    try:
        for rows in forward.run(unit.windows, question):
            end = time.time()
            yield Done(0, unit.number, ("forward", begin, end), rows.lo, rows.hi, pack_answer(rows))
            begin = end
    except EvalkitError as fault:
        yield Done(0, unit.number, ("forward", begin, time.time()), fault=fault)
    else:
        left = forward.snapshot() if forward.hands_on else b""
        yield Done(0, unit.number, ("forward", begin, time.time()), left=left)


def run_message(unit: Unit) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A unit as a message: (arrays, values)."""
    assert unit.question is not None
    arrays = {
        "windows": np.array([[w.start, w.lo, w.hi] for w in unit.windows], dtype=np.int64),
        "cands": unit.question.cands,
        "probes": np.array(unit.question.probes, dtype=np.int64),
        "state": np.frombuffer(unit.state, dtype=np.uint8),
    }
    return arrays, {"unit": unit.number, "sweep": unit.sweep, "chunk": unit.chunk.index}
