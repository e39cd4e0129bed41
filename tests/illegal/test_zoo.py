"""Is every specimen caught by the law it breaks, and is every fix and look-alike let through?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.legality.effort import QUICK
from tests.zoo.registry import every_target, find, specimens
from tests.zoo.table import examine

FEW = replace(QUICK, length=48, streams=1, cuts=12, forks=10, long_length=0, latin_length=0, own=0)


def few(name: str) -> bool:
    """Legal targets, where more probes cannot change what is expected, and the one that runs the engine at every call."""
    return name == "P2" or not find(name)[2]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "P2:fix")) for n in every_target()])
def test_the_audit_names_the_broken_law_and_only_that(name: str) -> None:
    row, verdict = examine(name, seed=0, effort=FEW if few(name) else QUICK)
    assert row["right"], f"expected {row['expected']}, found {row['laws']}: {verdict.reason}"


@pytest.mark.slow
@pytest.mark.parametrize("name", every_target())
def test_other_seeds_agree(name: str) -> None:
    for seed in (0, 1, 2) if few(name) else (1, 2):
        row, verdict = examine(name, seed=seed)
        assert row["right"], f"seed {seed}: expected {row['expected']}, found {row['laws']}: {verdict.reason}"


def test_the_catalogue_is_complete() -> None:
    ids = set(specimens())
    assert {f"A{i}" for i in range(1, 16)} <= ids
    assert {f"B{i}" for i in range(1, 12)} <= ids
    assert {f"D{i}" for i in range(1, 12)} <= ids
    assert {f"L{i}" for i in range(1, 24)} <= ids
    assert {f"M{i}" for i in range(1, 8)} <= ids
    assert {"P1", "P2", "P6"} <= ids


@pytest.mark.parametrize("name", [s.id for s in specimens().values() if s.law])
def test_every_violation_has_a_fix_a_mechanism_and_a_source(name: str) -> None:
    specimen, factory, _ = find(name)
    assert specimen.fixed is not None
    assert specimen.sources or specimen.elsewhere
    assert (factory.__doc__ or "").strip(), "the mechanism stands in the docstring"


@pytest.mark.parametrize("name", ["A1", "B5", "B7"])
def test_a_counter_example_is_small_and_seen_again(name: str) -> None:
    from evalkit.legality.probes.ask import ask
    from evalkit.legality.probes.probe import from_json, to_json
    from evalkit.legality.probes.tolerance import Tolerance
    from evalkit.legality.scorer import LocalBox

    _, verdict = examine(name)
    _, factory, _ = find(name)
    box = LocalBox(factory)
    first = verdict.evidence[0]
    assert first.stream_tokens <= 24
    probe = from_json(first.reproduce.split("--reproduce ")[1].strip("'"))
    assert to_json(probe) == to_json(from_json(to_json(probe)))
    assert ask(box, probe, Tolerance(vocab_size=box.facts.vocab_size)).violated


def test_length_sorted_documents_are_judged_by_ruleset() -> None:
    """L3: legal in its declared order, a violation in stream order."""
    from evalkit.legality.referee import audit
    from evalkit.legality.scorer import LocalBox

    _, factory, _ = find("L3")
    strict = audit(LocalBox(factory), ruleset="strict", effort=QUICK)
    declared = audit(LocalBox(factory), ruleset="organizer-2026-05", effort=QUICK)
    assert strict.verdict == "violation"
    assert declared.verdict == "legal"
    assert any("stream order" in note for note in declared.notes)


@pytest.mark.parametrize("ruleset", ["readme", "organizer-2026-05"])
@pytest.mark.parametrize(("name", "verdict"), [("A4", "violation"), ("B7", "violation"), ("L4", "legal")])
def test_every_ruleset_agrees_on_the_plain_cases(ruleset: str, name: str, verdict: str) -> None:
    from evalkit.legality.referee import audit
    from evalkit.legality.scorer import LocalBox

    assert audit(LocalBox(find(name)[1]), ruleset=ruleset, effort=QUICK).verdict == verdict


def test_an_installed_evalkit_says_how_to_get_the_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from evalkit.cli.main import main
    from evalkit.legality import target

    monkeypatch.setattr(target, "__file__", str(tmp_path / "evalkit" / "legality" / "target.py"))
    for command in (["audit", "zoo:A4"], ["audit", "zoo:all"], ["zoo"], ["zoo", "A4"]):
        assert main(command) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "pip download" in said[0]
