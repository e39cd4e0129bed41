"""Who gets which unit: each once, in stream order, whoever is slow, and within every rank's memory."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapters.base import Needs
from evalkit.models.forward import Forward
from evalkit.plan import Banded, Disjoint, Document, Plan, Sliding, Window
from evalkit.harness.units import HELD, QUEUED, Lane, Roll, Unit, choose

PLANS = (
    Disjoint(seq_len=30),
    Sliding(seq_len=48, stride=16),
    Document(seq_len=40, stride=20),
    Banded(window=24, block=32, segment=64),
)
TEXT: Any = SimpleNamespace(tokens=None, doc_start=np.array([0]))


def consume(plan: Plan, n: int, size: int, sweeps: int, ahead: bool, random: Random) -> dict[int, list[Window]]:
    """Ranks finish in any order; the sequencer takes units in stream order.  Returns the windows it saw, by sweep."""
    chunks = list(plan.chunks(n, np.array([0], dtype=np.int64), 100))
    forward = Forward(SimpleNamespace(can={"banded"}, max_seq_len=512), plan, TEXT, Needs(), {}, 60)
    roll, lanes = Roll([forward] * sweeps, lambda: iter(chunks), ahead), [Lane(rank) for rank in range(size)]
    given_out: dict[int, Unit] = {}
    computing: list[Unit] = []
    ready: set[int] = set()

    def feed() -> None:
        while (lane := choose(lanes)) is not None and (unit := roll.take()) is not None:
            assert unit.number not in given_out
            unit.rank = lane.rank
            lane.queued, lane.held = lane.queued + 1, lane.held + 1
            assert lane.queued <= QUEUED
            assert lane.held <= HELD
            given_out[unit.number] = unit
            computing.append(unit)

    seen: dict[int, list[Window]] = {sweep: [] for sweep in range(sweeps)}
    for chunk in chunks:
        for sweep in range(sweeps):
            for number in roll.numbers(sweep, chunk):
                feed()
                while number not in ready:
                    done = computing.pop(random.randrange(len(computing)))
                    lanes[done.rank].queued -= 1
                    ready.add(done.number)
                    feed()
                seen[sweep].extend(given_out[number].windows)
                lanes[given_out[number].rank].held -= 1
            if not ahead:
                assert all(unit.chunk <= chunk.index for unit in given_out.values())
    return seen


@given(
    st.sampled_from(PLANS), st.integers(2, 700), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.integers(0, 99)
)
def test_every_window_is_computed_once_and_taken_in_order(
    plan: Plan, n: int, size: int, sweeps: int, ahead: bool, seed: int
) -> None:
    want = list(plan.windows(n, np.array([0], dtype=np.int64)))
    seen: dict[int, Any] = consume(plan, n, size, sweeps, ahead, Random(seed))
    assert all(seen[sweep] == want for sweep in range(sweeps))


def test_rank_0_is_asked_last_among_equals() -> None:
    lanes = [Lane(0), Lane(1), Lane(2, queued=1)]
    first = choose(lanes)
    assert first is lanes[1]
    lanes[1].queued = QUEUED
    assert choose(lanes) is lanes[0]
    lanes[0].held, lanes[2].queued = HELD, QUEUED
    assert choose(lanes) is None
