"""How do several ranks run one forward pass?  Rank 0 hands out units of the plan and takes scalars back in stream order.

A unit is a batch of windows (or a segment of a banded pass) whose make-up depends on the plan alone, so it has the same
bits on whichever rank it runs; that is why units may be handed out by who is free.  While the sequencer, in the thread
that iterates :meth:`ShardedForward.batches`, runs the experts over one unit, all ranks compute later ones: of the same
chunk, and without learners of the chunks after it too.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64, Int32
from evalkit.errors import EvalkitError, InputError
from evalkit.harness.job import Job
from evalkit.harness.lines import Done, Lines
from evalkit.harness.parts import Kept, Part, side_from
from evalkit.harness.units import Lane, Roll, Unit, choose
from evalkit.harness.wire import Message
from evalkit.machine import peak_memory_bytes
from evalkit.models.forward import Forward
from evalkit.models.lanes import LaneForward
from evalkit.plan import Chunk


class Crew:
    """All ranks at work on the units of a run, seen from rank 0.  One thread of its own computes rank 0's share."""

    def __init__(
        self,
        job: Job,
        lines: Lines,
        forwards: Sequence[Forward | LaneForward],
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
        self._kept = Kept(forwards)
        self._given: dict[int, Unit] = {}
        self._left: dict[int, bytes] = {}
        self._ready: dict[tuple[int, int], Part | EvalkitError] = {}
        self._own: queue.Queue[Unit | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run_own, name="forward", daemon=True)
        self._thread.start()

    def parts(self, sweep: int, chunk: Chunk) -> Iterator[Part]:
        """The chunk's rows in one sweep, in stream order."""
        for number in self._roll.numbers(sweep, chunk):
            self._feed()
            unit = self._given[number]
            for part in range(unit.parts):
                yield self._wait(number, part)
            self._release(unit)

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
        """Give work to ranks that have room, in stream order."""
        while (lane := choose(self.lanes)) is not None and (unit := self._roll.take()) is not None:
            unit.rank = lane.rank
            self._given[unit.number] = unit
            if self.forwards[unit.sweep].continues(unit.windows):
                unit.state = self._left.pop(unit.sweep, b"")
            lane.queued, lane.held, lane.units = lane.queued + 1, lane.held + 1, lane.units + 1
            if lane.rank == 0:
                self._own.put(unit)
                continue
            windows = np.array([[w.start, w.lo, w.hi] for w in unit.windows], dtype=np.int64)
            where = {"unit": unit.number, "sweep": unit.sweep, "chunk": unit.chunk}
            state = {"state": np.frombuffer(unit.state, dtype=np.uint8)} if unit.state else {}
            self._lines.send(lane.rank, "run", {"windows": windows, **state}, **where)

    def _release(self, unit: Unit) -> None:
        del self._given[unit.number]
        self.lanes[unit.rank].held -= 1
        if unit.rank == 0:
            self._kept.release(unit.number)
        else:
            self._lines.send(unit.rank, "release", unit=unit.number)

    def _wait(self, number: int, part: int) -> Part:
        while (number, part) not in self._ready:
            self._book(self._lines.next())
            self._feed()
        found = self._ready.pop((number, part))
        if isinstance(found, EvalkitError):
            raise found
        return found

    def _book(self, done: Done) -> None:
        lane = self.lanes[done.rank]
        lane.spans.append(done.span)
        lane.queued -= done.last
        if done.left:
            self._left[self._given[done.unit].sweep] = done.left
        found = self._part(done, done.found) if isinstance(done.found, Message) else done.found
        self._ready[done.unit, done.part] = found

    def _part(self, done: Done, message: Message) -> Part:
        """The stand-in for rows that another rank keeps."""
        needs = self.forwards[self._given[done.unit].sweep].needs
        side = side_from({k: v for k, v in message.arrays.items() if k not in ("logp", "left")})

        def ask(begin: int, end: int, ids: Int32 | None) -> Float64:
            where = {"unit": done.unit, "part": done.part, "begin": begin, "end": end}
            return self._lines.ask(done.rank, "ask", {} if ids is None else {"ids": ids}, **where).arrays["found"]

        return Part(message.values["lo"], message.values["hi"], message.arrays["logp"], side, needs, ask)

    def _run_own(self) -> None:
        """Rank 0's share of the forward."""
        import torch

        torch.set_num_threads(self.job.threads)
        while (unit := self._own.get()) is not None:
            self.job.pulse.at(f"batch {unit.number}, in chunk {unit.chunk}")
            for done in run_unit(self._kept, unit):
                self._lines.put(done)
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
    """The face of :class:`evalkit.models.forward.Forward` for one sweep, over all ranks."""

    def __init__(self, crew: Crew, sweep: int) -> None:
        self._crew, self._sweep = crew, sweep
        self.world_size = crew.job.size

    def batches(self, chunk: Chunk) -> Iterator[Part]:
        """Rows of the chunk's targets, in stream order."""
        return self._crew.parts(self._sweep, chunk)

    def snapshot(self) -> bytes:
        """Empty unless a state goes on into the next chunk."""
        return self._crew.snapshot(self._sweep)

    def restore(self, state: bytes) -> None:
        self._crew.restore(self._sweep, state)

    def ranks(self) -> list[dict[str, Any]]:
        """For run.json, one entry a rank: device, threads, peak memory, units computed, busy seconds."""
        return self._crew.stats()

    def tracks(self) -> dict[int, list[tuple[str, float, float]]]:
        """For the trace: each rank's spans, seconds of the wall clock."""
        return {lane.rank: lane.spans for lane in self._crew.lanes}


def run_unit(kept: Kept, unit: Unit) -> Iterator[Done | BaseException]:
    """Compute a unit on this rank.  What goes wrong is an item, too: it counts when the stream gets there."""
    begin, part = time.time(), 0
    needs = kept.forwards[unit.sweep].needs

    def asker(number: int) -> Any:
        return lambda lo, hi, ids: kept.ask(unit.number, number, lo, hi, ids)

    try:
        for part, rows, logp in kept.run(unit.number, unit.sweep, unit.windows, unit.state):
            found = Part(rows.lo, rows.hi, logp, rows.stats.side, needs, asker(part))
            end, last = time.time(), part + 1 == unit.parts
            left = kept.left(unit.sweep) if last else b""
            yield Done(0, unit.number, part, found, last, ("forward", begin, end), left)
            begin = end
    except EvalkitError as fault:
        yield Done(0, unit.number, part, fault, True, ("forward", begin, time.time()))
    except Exception as fault:
        yield fault
