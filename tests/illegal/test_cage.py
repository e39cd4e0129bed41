"""Does a hostile scorer get a clear verdict, and never a traceback of ours?"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.cli.main import main
from evalkit.errors import InputError
from evalkit.legality.cage import Cage, Limits
from evalkit.legality.effort import Effort
from evalkit.legality.referee import audit
from evalkit.legality.scorer import ScorerFault
from evalkit.legality.verdict import Verdict

HOSTILE = Path(__file__).with_name("hostile.py")
SMALL = Effort(length=48, streams=2, cuts=8, forks=8, long_length=0, latin_length=0, own=0, shrink=10)
LIMITS = Limits(call_seconds=30.0, load_seconds=60.0, memory_bytes=2 << 30)
"""Long enough for a busy machine; only the one that hangs waits for it to pass."""


def judge(name: str) -> Verdict:
    box = Cage(f"{HOSTILE}:{name}", replace(LIMITS, call_seconds=2.0) if name == "Hangs" else LIMITS)
    try:
        return audit(box, target=name, effort=SMALL)
    finally:
        box.close()


@pytest.mark.parametrize(
    ("name", "verdict", "word"),
    [
        ("Raises", "inconclusive", "not to my taste"),
        ("Hangs", "inconclusive", "within 2 s"),
        ("NotANumber", "inconclusive", "NaN"),
        ("WrongLength", "inconclusive", "shape [63]"),
        ("WrongType", "inconclusive", "dict"),
        ("HugeAnswer", "inconclusive", "50000000"),
        ("SlightlyMore", "violation", "normalised"),
        ("Positive", "violation", "normalised"),
        ("Fickle", "inconclusive", "identical calls differ"),
        ("Mutates", "inconclusive", "changed its input"),
        ("EatsMemory", "inconclusive", "memory"),
        ("Leaves", "inconclusive", "I am leaving"),
        ("Exits", "inconclusive", "SystemExit"),
        ("Prints", "legal", ""),
        ("DeepRecursion", "inconclusive", "score()"),
        ("WritesFiles", "inconclusive", "File too large"),
        ("LeavesThreads", "legal", ""),
        ("Crashes", "inconclusive", "signal SIGSEGV"),
        ("ClosesEverything", "inconclusive", "ended by itself"),
        ("Halves", "legal", ""),
        ("Lists", "legal", ""),
        ("Tensors", "legal", ""),
        ("Columns", "inconclusive", "shape [64, 1]"),
        ("Complex", "inconclusive", "complex128"),
        ("Strings", "inconclusive", "not real numbers"),
        ("Nothing", "inconclusive", "NoneType"),
        ("Infinite", "inconclusive", "+infinity at position 0"),
        ("Impossible", "legal", ""),
        ("Forks", "legal", ""),
    ],
)
def test_each_gets_its_verdict(name: str, verdict: str, word: str) -> None:
    found = judge(name)
    assert found.verdict == verdict, found.reason
    assert word in found.reason
    assert found.exit_code == (0 if verdict == "legal" else 1)


def test_a_small_constant_excess_is_measured() -> None:
    found = judge("SlightlyMore")
    worst = found.laws["normalised"].worst
    assert worst is not None
    assert abs(worst - 1.001) < 2e-4


def test_state_that_survives_a_call_is_noticed_and_cleared() -> None:
    found = judge("Remembers")
    assert found.verdict == "violation"
    assert found.violated() == {"single-pass"}
    assert "less in the second call" in found.reason
    assert any("fresh" in note for note in found.notes)


@pytest.mark.parametrize("name", ["NoVocabulary", "raises_at_once", "not_callable", "missing"])
def test_what_is_no_scorer_is_wrong_input(name: str) -> None:
    with pytest.raises(InputError, match="cannot be audited"):
        Cage(f"{HOSTILE}:{name}", LIMITS)


def test_children_are_gone_after_close() -> None:
    box = Cage(f"{HOSTILE}:Forks", LIMITS)
    import numpy as np

    box.score(np.arange(8) % 4)
    group = box._child.pid
    box.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.05)
    pytest.fail(f"process group {group} still lives")


def test_a_dead_child_is_a_fault_not_a_crash() -> None:
    import numpy as np

    box = Cage(f"{HOSTILE}:Uniform", LIMITS)
    try:
        os.kill(box._child.pid, 9)
        with pytest.raises(ScorerFault, match="ended by itself"):
            box.score(np.arange(8) % 4)
    finally:
        box.close()


@pytest.mark.parametrize(
    ("name", "code", "verdict"),
    [
        ("ChattyAtImport", 0, "legal"),
        ("Crashes", 1, "inconclusive"),
        pytest.param("Prints", 0, "legal", marks=pytest.mark.slow),
        pytest.param("Infinite", 1, "inconclusive", marks=pytest.mark.slow),
        pytest.param("Positive", 1, "violation", marks=pytest.mark.slow),
        pytest.param("Impossible", 0, "legal", marks=pytest.mark.slow),
        pytest.param("DeepRecursion", 1, "inconclusive", marks=pytest.mark.slow),
    ],
)
def test_json_on_stdout_stays_clean(name: str, code: int, verdict: str, capfd: pytest.CaptureFixture[str]) -> None:
    import json

    flags = ["--probes", "250", "--timeout", "30", "--json", "-"]
    assert main(["audit", f"{HOSTILE}:{name}", *flags]) == code
    out, err = capfd.readouterr()
    assert json.loads(out)["verdict"] == verdict
    assert "Traceback" not in err


def test_a_factory_that_hangs_is_given_up() -> None:
    with pytest.raises(ScorerFault, match="within 3 s"):
        Cage(f"{HOSTILE}:hangs_at_once", Limits(call_seconds=3.0, load_seconds=3.0))
