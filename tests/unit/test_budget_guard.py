"""A budget is kept by clocks and booked scores alone, and a resumed run sheds the same work from the same chunk on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.adapters.registry import parse_adapter
from evalkit.budget.guard import SETTLE, Shedding
from evalkit.errors import InputError
from evalkit.plan import Disjoint
from evalkit.scoring.guard import Deadline, Guard
from evalkit.scoring.journal import read_journal
from evalkit.scoring.score import ScoreOptions, score
from evalkit.stream import open_stream, open_tokenizer
from tests.kit import golf

CHUNK = 64
TTT = f"full_ttt:chunk={CHUNK},seq_len=32,epochs=2,lr=0.05"


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """A learner as the guard sees it."""

    sheds = ("epochs",)

    def __init__(self, name: str) -> None:
        self.name, self.did = name, list[str]()

    def shed(self, work: str) -> str:
        self.did.append(work)
        return f"less {work}"


def test_a_deadline_starts_no_chunk_that_would_end_too_late() -> None:
    clock = Clock()
    guard = Deadline(10.0, clock=clock)
    clock.now = 5.0
    guard.begin(0, 100)
    assert guard.may_start()
    clock.now = 8.0
    assert guard.may_start()
    clock.now = 11.5
    assert guard.may_start()
    clock.now = 13.0
    assert not guard.may_start()
    assert guard.report() == {"seconds": 10.0, "policy": "stop", "spent": 8.0, "shed": [], "stopped": "budget"}


def test_one_chunk_is_scored_whatever_the_budget() -> None:
    clock = Clock()
    guard = Deadline(1.0, clock=clock)
    guard.begin(0, 100)
    assert guard.may_start()
    clock.now = 1.0
    assert not guard.may_start()


def test_a_signal_stops_whatever_the_clock_says() -> None:
    asked = False
    guard = Guard(lambda: asked)
    guard.begin(0, 1)
    assert guard.may_start()
    asked = True
    assert not guard.may_start()
    assert guard.stopped == "signal"


def drive(limit: float, pace: Callable[[tuple[str, ...]], float], order: list[str], chunks: int = 30) -> Any:
    """Ten targets a chunk, ``pace(shed)`` seconds each; returns (guard, shed after each chunk, workers)."""
    clock, workers, seen = Clock(), [Worker("slow"), Worker("slot")], []
    guard = Shedding(limit, order, clock=clock)
    guard.check(workers)
    guard.begin(0, 10 * chunks)
    shed: tuple[str, ...] = ()
    for chunk in range(chunks):
        if not guard.may_start():
            break
        clock.now += pace(shed)
        shed = guard.decide(10 * (chunk + 1) + 1)
        guard.follow(shed, 10 * (chunk + 1) + 1, workers)
        seen.append(shed)
    return guard, seen, workers


def test_nothing_is_shed_when_the_budget_suffices() -> None:
    guard, seen, _ = drive(31.0, lambda shed: 1.0, ["slow.epochs", "slow"])
    assert set(seen) == {()}
    assert guard.stopped is None
    assert len(seen) == 30


def test_work_goes_in_order_and_only_as_much_as_needed() -> None:
    guard, seen, (slow, slot) = drive(
        24.0, lambda shed: {0: 1.0, 1: 0.7}.get(len(shed), 0.1), ["slow.epochs", "slow", "slot"]
    )
    assert seen[SETTLE - 1] == ("slow.epochs",)
    assert seen[-1] == ("slow.epochs",)
    assert slow.did == ["epochs"]
    assert slot.did == []
    assert guard.stopped is None
    assert guard.report()["shed"] == [{"work": "slow.epochs", "from_target": 10 * SETTLE + 1, "change": "less epochs"}]


def test_when_all_is_shed_the_run_stops_at_the_limit() -> None:
    guard, seen, _ = drive(12.0, lambda shed: 1.0, ["slow.epochs", "slow", "slot"])
    assert seen[-1] == ("slow.epochs", "slow", "slot")
    assert len(seen) == 12
    assert guard.stopped == "budget"


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (["fast"], ("'fast'", "only learners can be shed", "slow")),
        (["slow.rank"], ("'slow.rank'", "cannot do less of 'rank'", "epochs")),
    ],
)
def test_names_that_are_not_there_are_refused(order: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refused:
        Shedding(10.0, order).check([Worker("slow")])
    assert all(word in str(refused.value) for word in words)


def parts(tmp_path: Path) -> tuple[Any, Any, list[Any]]:
    torch.set_num_threads(1)
    model = golf(layers=1, heads=1, hidden=16, std=None)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log. " * 30, encoding="utf-8")
    stream = open_stream([text], open_tokenizer("byte"))
    return model, stream, [parse_adapter(TTT)]


def run(tmp_path: Path, out: str, limit: float, stop_after: int | None = None) -> Any:
    """A chunk takes 10 seconds, 4 with one epoch, 1 without learning; ``stop_after`` chunks a signal comes."""
    clock, count = Clock(), 0
    guard = Shedding(limit, ["full_ttt.epochs", "full_ttt"], clock=clock, stopping=lambda: count == stop_after)

    def on_chunk(booked: Any) -> None:
        nonlocal count
        count += 1
        clock.now += {0: 10.0, 1: 4.0, 2: 1.0}[len(booked.shed)]

    model, stream, adapters = parts(tmp_path)
    options = ScoreOptions(chunk_tokens=CHUNK)
    return score(
        model,
        stream,
        adapters,
        Disjoint(seq_len=32),
        out=tmp_path / out,
        options=options,
        on_chunk=on_chunk,
        guard=guard,
    )


def test_what_is_shed_is_in_the_journal_and_a_resume_sheds_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", 100.0)
    assert whole.complete
    shed = [entry.shed for entry in read_journal(tmp_path / "whole" / "journal.jsonl")[1]]
    assert shed[0] == ()
    assert shed[-1] == ("full_ttt.epochs", "full_ttt")
    report = whole.run["budget"]
    assert [entry["work"] for entry in report["shed"]] == ["full_ttt.epochs", "full_ttt"]
    assert report["shed"][0]["change"] == "epochs 2 -> 1"
    assert "observe/full_ttt" in whole.run["seconds"]
    cut = shed.index(("full_ttt.epochs",)) + 2
    first = run(tmp_path, "cut", 100.0, stop_after=cut)
    assert not first.complete
    assert first.run["budget"]["stopped"] == "signal"
    assert first.run["coverage"] == {
        "booked": [[1, 1 + cut * CHUNK]],
        "targets": [1, whole.run["totals"]["targets"] + 1],
    }
    again = run(tmp_path, "cut", 1e9)
    assert again.complete
    booked = cut * CHUNK
    a = np.fromfile(tmp_path / "whole" / "scores.f64").reshape(-1, 2)[:booked]
    b = np.fromfile(tmp_path / "cut" / "scores.f64").reshape(-1, 2)[:booked]
    assert np.array_equal(a, b)
    resumed = [entry.shed for entry in read_journal(tmp_path / "cut" / "journal.jsonl")[1]]
    assert resumed[:cut] == shed[:cut]
    assert set(resumed[cut:]) == {shed[cut - 1]}


def test_the_files_of_a_run_have_a_trace_with_the_verbs_of_the_loop(tmp_path: Path) -> None:
    run(tmp_path, "whole", 1e9)
    events = json.loads((tmp_path / "whole" / "trace.json").read_text())["traceEvents"]
    verbs = {event["name"] for event in events if event["ph"] == "X"}
    assert {"forward", "gather", "experts", "book", "journal", "observe/full_ttt"} <= verbs
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in events if event["ph"] == "X")
