"""A budget that does not suffice: exit code 1 and exact coverage, or named work left out and said so.  A fake clock."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from evalkit.budget.guard import Shedding
from evalkit.scoring.guard import Deadline
from evalkit.scoring.journal import read_journal
from evalkit.scoring.result import read_documents

TTT = "full_ttt:chunk=64,seq_len=32,epochs=2,lr=0.05"


@pytest.fixture
def score(evalkit, checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each look at the clock takes a second; a chunk looks two or three times."""
    monkeypatch.setattr("evalkit.cli.session.make_guard", slow_guard)
    common = (
        "--checkpoint",
        checkpoint,
        "--text",
        text,
        "--tokenizer",
        "byte",
        "--plan",
        "sliding:seq_len=48,stride=16",
    )

    def run(*arguments: object):
        said = evalkit("eval", *common, "--limit-tokens", "1280", "--adapter", TTT, "--out", tmp_path / "r", *arguments)
        return said, json.loads((tmp_path / "r" / "run.json").read_text())

    return run


def slow_guard(recipe: Any, stopping: Any) -> Deadline:
    run, clock = recipe.run, itertools.count().__next__
    return Shedding(run.budget, run.shed, clock=clock) if run.shed else Deadline(run.budget, clock=clock)


def test_stop_is_exit_code_1_and_the_ledger_says_exactly_what_is_booked(score, tmp_path: Path) -> None:
    said, run = score("--budget", "12")
    assert said.code == 1
    chunks = read_journal(tmp_path / "r" / "journal.jsonl")[1]
    booked = chunks[-1].hi - 1
    assert 0 < booked < 1280
    assert booked == 64 * len(chunks)
    assert run["complete"] is False
    assert run["coverage"] == {"booked": [[1, booked + 1]], "targets": [1, 1281]}
    assert run["totals"]["targets"] == booked == sum(read_documents(tmp_path / "r")["targets"])
    assert run["budget"]["policy"] == "stop"
    assert run["budget"]["stopped"] == "budget"
    assert f"the budget of 12 s stopped the run after {booked:,} targets" in said.err


def test_shed_finishes_and_says_what_was_left_out(score) -> None:
    said, run = score("--budget", "25", "--shed", "full_ttt.epochs", "--shed", "full_ttt")
    assert run["budget"]["policy"] == "shed"
    shed = run["budget"]["shed"]
    assert shed[0]["work"] == "full_ttt.epochs"
    assert shed[0]["change"] == "epochs 2 -> 1"
    assert said.code == (0 if run["complete"] else 1)
    assert f"full_ttt.epochs: epochs 2 -> 1 from target {shed[0]['from_target']:,} on" in said.err
