"""Are the engine's own adapters legal, are cheating ones named, and does a run's record hold?"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.adapters.registry import BUILT_IN, make_adapter, parse_adapter
from evalkit.cli.main import main
from evalkit.errors import InputError, LegalityError
from evalkit.legality.effort import Effort
from evalkit.legality.engine.setup import EngineScorer, replay, stream_of, worst_after_resume
from evalkit.legality.engine.toy import toy_setup
from evalkit.legality.referee import audit
from evalkit.legality.scorer import LocalBox
from evalkit.plan import parse_plan
from evalkit.testing import check_adapter
from tests.kit import toy_box

SMALL = Effort(length=48, streams=3, cuts=18, forks=3, long_length=0, own=0, shrink=40)
LEAST = Effort(length=40, streams=1, cuts=8, forks=1, long_length=0, latin_length=0, contexts=1, own=0, shrink=40)
LATER = ("lora_lanes", "lora_ttt", "muon_ttt", "phased_ttt")
HARD = pytest.param(SMALL, marks=pytest.mark.slow, id="three streams and a Latin design")


@pytest.fixture(scope="session")
def classes(cheats: Path) -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("cheats", cheats)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("effort", [pytest.param(LEAST, id="one stream"), HARD])
@pytest.mark.parametrize(
    "name",  # of the learners two are audited here on every run, and honest lanes in test_lanes.py
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LATER)) for name in sorted(BUILT_IN)],
)
def test_our_adapters_pass_as_black_boxes(name: str, effort: Effort) -> None:
    """SLOT, PPM, Hedge, best_agree and the rest: look-alikes of what was illegal as first published."""
    box = toy_box(lambda: make_adapter(name), longest=64 if effort is LEAST else 0)
    found = audit(box, target=name, effort=effort)
    assert found.violated() == set(), found.reason
    assert found.laws["causal"].probes > effort.cuts
    assert found.laws["normalised"].worst == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "laws"),
    [
        ("Peek", {"causal", "normalised"}),
        ("Excess", {"normalised"}),
        ("AskedTwice", {"causal", "score-first"}),
        ("HintsAhead", {"causal"}),
    ],
)
def test_a_cheating_expert_is_named(classes: ModuleType, name: str, laws: set[str]) -> None:
    found = audit(toy_box(getattr(classes, name)), target=name, effort=replace(LEAST, cuts=12, forks=3, shrink=120))
    assert found.violated() == laws
    assert all(e.stream_tokens <= 8 and e.position >= 1 for e in found.evidence)


def test_check_adapter_speaks_in_the_authors_tests(classes: ModuleType) -> None:
    effort = replace(LEAST, length=24, forks=8)
    assert check_adapter(classes.Honest(), effort=effort).verdict == "legal"
    with pytest.raises(LegalityError, match="withheld") as caught:
        check_adapter(classes.Peek(), effort=effort)
    assert caught.value.law in ("causal", "normalised")
    with pytest.raises(LegalityError, match="goes on from its snapshot"):
        check_adapter(classes.Forgets(), effort=effort)
    with pytest.raises(InputError, match="neither an expert"):
        check_adapter(object())


@pytest.mark.parametrize("name", ["ppm", "slot", "full_ttt:lr=0.05"])
def test_a_resumed_replay_has_the_same_bits(name: str) -> None:
    setup = toy_setup([parse_adapter(name)])
    tokens = np.random.default_rng(0).integers(0, 32, 80)
    assert worst_after_resume(setup, stream_of(tokens, setup.tokenizer)) == 0.0


def test_the_black_box_is_the_engine() -> None:
    """EngineScorer books what score() books."""
    from evalkit.scoring.score import ScoreOptions, score

    setup = toy_setup([parse_adapter("ppm")])
    tokens = np.random.default_rng(1).integers(0, 32, 60)
    stream = stream_of(tokens, setup.tokenizer)
    options = ScoreOptions(chunk_tokens=setup.chunk_tokens, batch_tokens=setup.batch_tokens)
    run = score(setup.model, stream, setup.fresh(), setup.plan, options=options).run
    assert -EngineScorer(setup).score(tokens).sum() == pytest.approx(run["totals"]["nats"], abs=1e-12)
    assert replay(setup, stream)[0].sum() == pytest.approx(run["totals"]["base_nats"], abs=1e-12)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param("disjoint:seq_len=16", marks=pytest.mark.slow),
        pytest.param("sliding:seq_len=16,stride=8", marks=pytest.mark.slow),
        "banded:window=8,block=8,segment=16",
    ],
)
def test_plans_are_causal_with_a_learner(plan: str) -> None:
    setup = replace(toy_setup([parse_adapter("full_ttt:lr=0.05")]), plan=parse_plan(plan))
    effort = replace(LEAST, length=64, cuts=20)
    scorer: Any = EngineScorer(setup)
    scorer.max_tokens = 96
    assert audit(LocalBox(lambda: scorer), effort=effort).laws["causal"].status == "ok"


@pytest.fixture(scope="module")
def run_folder(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--checkpoint", str(checkpoint), "--tokenizer", "byte", "--text", str(text), "--threads", "1"]
    plan = ["--plan", "sliding:seq_len=32,stride=16", "--chunk-tokens", "256"]
    assert main(["eval", *flags, *plan, "--out", str(out)]) == 0
    return out


def verdict_of(folder: Path, tmp_path: Path, *more: str, probes: int = 40) -> tuple[int, dict]:
    path = tmp_path / "verdict.json"
    code = main(["audit", str(folder), "--probes", str(probes), "--json", str(path), *more])
    return code, json.loads(path.read_text())


def test_a_run_is_legal_and_says_what_was_looked_at(run_folder: Path, tmp_path: Path) -> None:
    code, found = verdict_of(run_folder, tmp_path, "--html", str(tmp_path / "v.html"), probes=300)
    assert code == 0, found["reason"]
    assert found["verdict"] == "legal"
    assert found["ledgers"]["record"]["status"] == "ok"
    assert found["ledgers"]["coverage"]["status"] == "ok"
    assert found["ledgers"]["bytes"]["status"] == "ok"
    replayed = next(c for c in found["checks"] if c["name"] == "replay")
    assert "bit for bit" in replayed["detail"]
    page = (tmp_path / "v.html").read_text()
    assert page.count("<svg") >= 2
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_numbers_that_are_not_the_runs_are_found(run_folder: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(run_folder, forged)
    run = json.loads((forged / "run.json").read_text())
    run["totals"]["bpb"] *= 0.99
    (forged / "run.json").write_text(json.dumps(run))
    code, found = verdict_of(forged, tmp_path)
    assert code == 1
    assert found["ledgers"]["record"]["status"] == "violated"
    assert "bpb" in found["ledgers"]["record"]["detail"]


def test_scores_that_were_not_booked_are_found(run_folder: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(run_folder, forged)
    scores = np.fromfile(forged / "scores.f64", "<f8")
    scores[301] -= 1.0
    scores.tofile(forged / "scores.f64")
    code, found = verdict_of(forged, tmp_path)
    assert code == 1
    assert "not those that were booked" in found["ledgers"]["record"]["detail"]


def test_a_folder_that_is_no_run_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(tmp_path)]) == 2
    assert "no run directory" in capsys.readouterr().err


def test_the_sentinel_stops_and_the_audit_explains(
    cheats: Path, checkpoint: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A peeking expert: eval stops with law and position and books nothing; audit names the law and reproduces it."""
    flags = ["--checkpoint", str(checkpoint), "--tokenizer", "byte", "--text", str(text), "--limit-tokens", "400"]
    plan = ["--plan", "sliding:seq_len=32,stride=16", "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main(["eval", *flags, *plan, "--adapter", f"{cheats}:Peek"]) == 1
    said = capsys.readouterr().err
    assert "withheld" in said
    assert "target" in said
    assert (tmp_path / "run" / "journal.jsonl").read_text().count("\n") == 1, "the header and no chunk"
    assert main(["audit", f"{cheats}:Peek", "--probes", "120", "--json", str(tmp_path / "v.json")]) == 1
    evidence = json.loads((tmp_path / "v.json").read_text())["evidence"]
    assert {e["law"] for e in evidence} >= {"causal"}
    capsys.readouterr()
    assert main(["audit", f"{cheats}:Peek", "--reproduce", json.dumps(evidence[0]["probe"])]) == 1
    assert "violated" in capsys.readouterr().out
