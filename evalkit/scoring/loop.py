"""The scoring loop: rows, stack, book, journal, observe.

Nothing here knows a concrete model or adapter, or ranks.  ``forward`` takes units with what is asked of them and yields
finished rows (its own process or many), the stack scores them in stream order, the ledger books, the journal is on disk
before any learner sees a chunk.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from evalkit import _native
from evalkit.adapters.base import Float64, Learner, Receipt
from evalkit.adapters.stack import Stack
from evalkit.errors import DivergenceError, EvalkitError, Stopped
from evalkit.models.rows import Answer, Forward, Question
from evalkit.plan import Chunk
from evalkit.scoring.guard import Guard
from evalkit.scoring.journal import Journal
from evalkit.scoring.ledger import BookedChunk, Ledger
from evalkit.scoring.run import Run
from evalkit.scoring.sentinel import Sentinel
from evalkit.scoring.state import Snapshot, load_snapshot, save_snapshot
from evalkit.stream import Stream

SNAPSHOT_SECONDS = 1.0
"""Least seconds between two snapshots."""
SNAPSHOT_SHARE = 20.0
"""Least time between two snapshots, as a multiple of what the last one took."""


@dataclass
class Spans:
    """Wall seconds by verb of the loop.  A span inside another takes its time out of it: no second counts twice."""

    seconds: dict[str, float] = field(default_factory=dict)
    events: list[tuple[str, float, float]] = field(default_factory=list)
    """(verb, start, end) in seconds since the loop began, for the trace."""
    origin: float = field(default_factory=time.perf_counter)
    epoch: float = field(default_factory=time.time)
    """The wall clock at ``origin``, to put other processes' spans beside these."""
    _open: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def span(self, verb: str) -> Iterator[None]:
        begin = time.perf_counter()
        if self._open:
            self._note(*self._open[-1], begin)
        self._open.append((verb, begin))
        try:
            yield
        finally:
            end = time.perf_counter()
            self._note(*self._open.pop(), end)
            if self._open:
                self._open[-1] = self._open[-1][0], end

    def _note(self, verb: str, begin: float, end: float) -> None:
        self.seconds[verb] = self.seconds.get(verb, 0.0) + end - begin
        self.events.append((verb, begin - self.origin, end - self.origin))


class Scores(Protocol):
    """Where the scores of single targets go."""

    def append(self, nats: Float64, /) -> None:
        """nats float64 [S+1, n] of the chunk just booked."""
        ...


@dataclass
class Loop:
    """Everything a run is made of.  ``folder`` None: nothing is kept on disk."""

    stream: Stream
    forward: Forward
    stack: Stack
    learners: list[Learner]
    ledger: Ledger
    sentinel: Sentinel
    before: list[Forward] = field(default_factory=list)
    """Of the model as it was before each learner: stages in front of the stack's own."""
    spans: Spans = field(default_factory=Spans)
    journal: Journal | None = None
    scores: Scores | None = None
    folder: Path | None = None
    on_chunk: Callable[[BookedChunk], None] = lambda booked: None
    guard: Guard = field(default_factory=Guard)
    _probes: tuple[int, list[int]] = (-1, [])
    _saved_at: float = 0.0
    _save_cost: float = 0.0

    def __post_init__(self) -> None:
        self.forward.ask = self._ask

    @classmethod
    def of(
        cls,
        run: Run,
        sentinel: Sentinel,
        guard: Guard | None = None,
        journal: Journal | None = None,
        scores: Scores | None = None,
        folder: Path | None = None,
        on_chunk: Callable[[BookedChunk], None] = lambda booked: None,
    ) -> Loop:
        """The loop over an assembled run."""
        made = (run.stream, run.forward, run.stack, run.learners, run.ledger, sentinel, run.before)
        return cls(*made, Spans(), journal, scores, folder, on_chunk, guard or Guard())

    def tracks(self) -> dict[tuple[int, str], list[tuple[str, float, float]]]:
        """The loop's verbs, and the forward of each rank where ranks share it, on one clock."""
        found = {(0, "loop"): self.spans.events}
        for rank, events in self.forward.tracks().items():
            found[rank, "forward"] = [(v, a - self.spans.epoch, b - self.spans.epoch) for v, a, b in events]
        return found

    def run(self, chunks: Iterable[Chunk], booked: Sequence[BookedChunk]) -> bool:
        """Score what is not in ``booked`` yet.  True when every chunk is booked, False when it was stopped."""
        if booked and booked[-1].hi == self.stream.n_targets + 1:
            self.ledger.readmit(booked, self.stream.tokens)
            return True
        first = self._resume(booked)
        try:
            for chunk in chunks:
                if chunk.index < first:
                    continue
                if not self.guard.may_start():
                    return False
                self._chunk(chunk, booked[chunk.index] if chunk.index < len(booked) else None)
        except Stopped:
            self.guard.stopped = "signal"
            return False
        return True

    def _chunk(self, chunk: Chunk, known: BookedChunk | None) -> None:
        """Score, book (or compare with what the journal ``known`` says), learn."""
        nats = np.concatenate((self._before(chunk), self._score(chunk)))
        entry, receipt = self._book(chunk, nats, known)
        self.guard.follow(entry.shed, chunk.hi, self.learners)
        self._observe(entry, receipt)
        self._save(entry)
        self.on_chunk(entry)

    def _before(self, chunk: Chunk) -> Float64:
        """Nats [len(before), n] of the model before each learner, on the same windows."""
        out = np.empty((len(self.before), chunk.hi - chunk.lo))
        for nats, forward in zip(out, self.before, strict=True):
            with self.spans.span("base"):
                for rows in forward.rows(chunk):
                    nats[rows.lo - chunk.lo : rows.hi - chunk.lo] = -rows.logp[:, 0]
        return out

    def _ask(self, chunk: Chunk, lo: int, hi: int) -> Question:
        """What the stack and the sentinel want to know of targets [lo, hi); hints run ahead of scores."""
        tokens = np.ascontiguousarray(self.stream.tokens[lo:hi], dtype=np.int32)
        with self.spans.span("propose"):
            hints = self.stack.propose(tokens)
        if self._probes[0] != chunk.index:
            self._probes = chunk.index, self.sentinel.positions(chunk.index, chunk.lo, chunk.hi)
        cands = np.ascontiguousarray(np.concatenate((tokens[:, None], hints), axis=1))
        return Question(lo, cands, tuple(t for t in self._probes[1] if lo <= t < hi))

    def _score(self, chunk: Chunk) -> Float64:
        """Nats [S+1, n] of a chunk: fused, in stream order, with strict probes on the way."""
        parts, batches = [], self.forward.rows(chunk)
        while True:
            with self.spans.span("forward"):
                rows = next(batches, None)
            if rows is None:
                return np.concatenate(parts, axis=1)
            parts += [self._piece(rows, begin, end) for begin, end in _pieces(rows)]

    def _piece(self, rows: Answer, begin: int, end: int) -> Float64:
        """Score targets rows.lo+begin .. rows.lo+end-1, of which at most the first is probed."""
        cands, side, probe = rows.cands[begin:end], rows.side.cut(begin, end), rows.lo + begin
        tokens = np.ascontiguousarray(cands[:, 0])
        if probe in rows.probed:
            with self.spans.span("sentinel"):
                self.sentinel.before(self.stack, rows.probed[probe], rows.side.at(begin), probe)
        with self.spans.span("gather"):
            entering = rows.p(begin, end)
        with self.spans.span("experts"):
            p = self.stack.score(tokens, cands, entering, side)
        if probe in rows.probed:
            with self.spans.span("sentinel"):
                self.sentinel.after(p[:, 0], int(tokens[0]), probe)
        nats = np.empty_like(p)
        nats[0] = -rows.logp[begin:end, 0]
        nats[1:] = _native.neg_log(np.ascontiguousarray(p[1:]))
        return nats

    def _book(self, chunk: Chunk, nats: Float64, known: BookedChunk | None) -> tuple[BookedChunk, Receipt]:
        lo, hi = chunk.lo, chunk.hi
        shed = self.guard.decide(hi) if known is None else known.shed
        with self.spans.span("book"):
            tokens, docs, sizes = (
                self.stream.tokens[lo:hi],
                self.stream.doc_of_target(lo, hi),
                self.stream.target_bytes(lo, hi),
            )
            entry, receipt = self.ledger.book(chunk.index, lo, tokens, nats, docs, sizes, shed)
        if known is not None:
            _check_replay(entry, known)
            return entry, receipt
        with self.spans.span("journal"):
            if self.scores is not None:
                self.scores.append(nats)
            if self.journal is not None:
                self.journal.append(entry)
        return entry, receipt

    def _observe(self, entry: BookedChunk, receipt: Receipt) -> None:
        for learner in self.learners:
            if learner.name in entry.shed:
                continue
            with self.spans.span(f"observe/{learner.name}"):
                try:
                    learner.observe(receipt)
                except DivergenceError as fault:
                    raise DivergenceError(f"chunk {entry.index}: {fault}") from None

    def _save(self, entry: BookedChunk) -> None:
        """Snapshot when it costs under a twentieth of the time since the last one."""
        now = time.perf_counter()
        if self.folder is None or now - self._saved_at < max(SNAPSHOT_SECONDS, SNAPSHOT_SHARE * self._save_cost):
            return
        with self.spans.span("snapshot"):
            parts = {"forward": self.forward.snapshot(), "stack": self.stack.snapshot()}
            parts |= {f"before{i}": forward.snapshot() for i, forward in enumerate(self.before)}
            parts |= {f"learner{i}": learner.snapshot() for i, learner in enumerate(self.learners)}
            save_snapshot(self.folder / "state", Snapshot(entry.index, entry.hi, parts))
        self._saved_at = time.perf_counter()
        self._save_cost = self._saved_at - now

    def _resume(self, booked: Sequence[BookedChunk]) -> int:
        """Restore the newest snapshot; returns the index of the first chunk to run (some may be replayed)."""
        self._saved_at = time.perf_counter()
        found = load_snapshot(self.folder / "state", len(booked) - 1) if self.folder and booked else None
        if found is None:
            return 0
        with self.spans.span("restore"):
            self.ledger.readmit(booked[: found.chunk + 1], self.stream.tokens)
            if self.ledger.next_target != found.hi:
                raise EvalkitError(f"snapshot ends at target {found.hi}, the journal at {self.ledger.next_target}")
            self.forward.restore(found.parts["forward"])
            tokens = np.ascontiguousarray(self.stream.tokens[1 : found.hi], dtype=np.int32)
            self.stack.restore(found.parts["stack"], tokens)
            for i, forward in enumerate(self.before):
                forward.restore(found.parts[f"before{i}"])
            for i, learner in enumerate(self.learners):
                learner.restore(found.parts[f"learner{i}"])
            self.guard.follow(booked[found.chunk].shed, found.hi, self.learners)
        return found.chunk + 1


def _pieces(rows: Answer) -> Iterator[tuple[int, int]]:
    """Cut them in front of every probe: (begin, end) from ``rows.lo``."""
    return itertools.pairwise(sorted({0, *(t - rows.lo for t in rows.probed), rows.hi - rows.lo}))


def _check_replay(entry: BookedChunk, known: BookedChunk) -> None:
    if entry.digest != known.digest:
        raise EvalkitError(
            f"chunk {entry.index} (targets {entry.lo}..{entry.hi - 1}) scores differently than when it was booked; "
            "the software or the thread count changed under the run: start again with another --out"
        )
