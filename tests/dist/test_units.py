"""Who gets which unit: each once, in stream order, whoever is slow, and within a bound of bytes."""

from __future__ import annotations

from collections import deque
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapters.base import Needs
from evalkit.harness import sharded
from evalkit.harness.sharded import QUEUED, Crew, Worker, choose
from evalkit.harness.units import Done
from evalkit.models.forward import WindowForward
from evalkit.plan import Banded, Chunk, Disjoint, Document, Plan, Sliding

PLANS = (
    Disjoint(seq_len=30),
    Sliding(seq_len=48, stride=16),
    Document(seq_len=40, stride=20),
    Banded(window=24, block=32, segment=64),
)
VOCAB = 4
START = np.array([0], dtype=np.int64)


class Asked(WindowForward):
    """A forward whose rows are log p of -target, and that remembers what it was asked, in order."""

    def __init__(self, plan: Plan, n: int, rows: bool) -> None:
        text: Any = SimpleNamespace(tokens=np.arange(n, dtype=np.int32) % VOCAB, doc_start=START)
        model = SimpleNamespace(can={"banded"}, max_seq_len=512, vocab_size=VOCAB)
        super().__init__(model, plan, text, Needs(rows=rows), {}, 60)
        self.asked: list[tuple[int, int]] = []
        targets = self.ask
        self.ask = lambda chunk, lo, hi: self.asked.append((lo, hi)) or targets(chunk, lo, hi)  # type: ignore[func-returns-value]


class Shuffled:
    """Lines to ranks that take a unit off their queue at random, and say so in random order of the ranks."""

    lost = None

    def __init__(self, random: Random) -> None:
        self.random, self.queues = random, dict[int, deque[Done]]()
        self.peers: dict[int, Any] = {}

    def stopping(self) -> bool:
        return False

    def send(self, rank: int, kind: str, arrays: dict[str, np.ndarray], **values: Any) -> None:
        assert kind == "run"
        found = self.queues.setdefault(rank, deque())
        for start, lo, hi in arrays["windows"].tolist():
            assert start < lo
            at = lo - arrays["windows"][0, 1]
            rows = {"logp": -np.arange(lo, hi, dtype=float)[:, None], "lse": np.zeros(hi - lo)}
            assert len(arrays["cands"]) >= at + hi - lo
            found.append(Done(values["number"], 0.0, 0.0, lo, hi, rows, rank=rank))
        found.append(Done(values["number"], 0.0, 0.0, arrays={"left": np.empty(0, np.uint8)}, rank=rank))
        assert sum(not done.hi for done in found) <= QUEUED

    def next(self) -> Done:
        rank = self.random.choice([rank for rank, found in self.queues.items() if found])
        return self.queues[rank].popleft()

    def put(self, event: Any) -> None:
        raise AssertionError("rank 0 has no share here")


def crew_of(forwards: list[Asked], chunks: list[Chunk], size: int, ahead: bool, random: Random) -> tuple[Crew, Shuffled]:
    lines, job = Shuffled(random), SimpleNamespace(size=size + 1, threads=1)
    crew = Crew(job, lines, forwards, lambda: iter(chunks), ahead=ahead)  # type: ignore[arg-type]
    crew.workers[0].queued = QUEUED  # rank 0 only sequences
    return crew, lines


@given(
    st.sampled_from(PLANS), st.integers(2, 700), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_every_unit_is_computed_once_and_taken_in_order(
    plan: Plan, n: int, size: int, sweeps: int, ahead: bool, rows: bool, seed: int
) -> None:
    chunks = list(plan.chunks(n, START, 100))
    forwards = [Asked(plan, n, rows) for _ in range(sweeps)]
    crew, _ = crew_of(forwards, chunks, size, ahead, Random(seed))
    seen: list[list[float]] = [[] for _ in range(sweeps)]
    try:
        for chunk in chunks:
            for sweep in range(sweeps):
                for found in crew.rows(sweep, chunk):
                    seen[sweep] += (-found.logp[:, 0]).tolist()
                if not ahead:
                    assert all(hi <= chunk.hi for forward in forwards for _, hi in forward.asked)
    finally:
        crew.stop()
    assert all(targets == list(range(1, n)) for targets in seen)
    for forward in forwards:
        assert [t for lo, hi in forward.asked for t in range(lo, hi)] == list(range(1, n)), "asked once, in order"
    assert sum(worker.units for worker in crew.workers) == sum(len(forward.asked) for forward in forwards)


@given(st.sampled_from(PLANS), st.integers(300, 700), st.integers(1, 6), st.integers(0, 99))
def test_rows_under_way_are_bounded_and_two_units_always_go_out(plan: Plan, n: int, size: int, seed: int) -> None:
    chunks = list(plan.chunks(n, START, 100))
    forward = Asked(plan, n, True)
    crew, _ = crew_of([forward], chunks, size, True, Random(seed))
    most = 150 * forward.target_bytes
    held: list[int] = []
    before, sharded.IN_FLIGHT = sharded.IN_FLIGHT, most
    try:
        for chunk in chunks:
            for _ in crew.rows(0, chunk):
                out = [each.bytes for each in crew.out]
                assert sum(out) <= most or len(out) <= 2
                held.append(len(out))
    finally:
        sharded.IN_FLIGHT = before
        crew.stop()
    assert max(held) >= min(2, len(forward.asked))


def test_rank_0_is_asked_last_among_equals() -> None:
    workers = [Worker(0), Worker(1), Worker(2, queued=1)]
    first = choose(workers)
    assert first is workers[1]
    workers[1].queued = QUEUED
    assert choose(workers) is workers[0]
    workers[0].queued, workers[2].queued = QUEUED, QUEUED
    assert choose(workers) is None
