"""Own ground, lengths, state and time: what the audit asks of scorers that random text does not wake up."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cli.main import main
from evalkit.legality.effort import LENGTHS, LONG, Effort, Pace, plan, suffices
from evalkit.legality.probes import latin, lengths, taste
from evalkit.legality.probes.lab import Lab
from evalkit.legality.probes.lengths import Lengths
from evalkit.legality.referee import audit
from evalkit.legality.scorer import LocalBox
from evalkit.legality.verdict import Verdict

UNSEEN = Path(__file__).with_name("unseen_third.py")


@pytest.fixture(scope="module")
def unseen() -> ModuleType:
    spec = importlib.util.spec_from_file_location(UNSEEN.stem, UNSEEN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Simulated:
    """A clock that only calls move: every one takes ``pace`` seconds."""

    def __init__(self, factory, pace: float) -> None:
        self.factory, self.pace, self.now, self.calls = factory, pace, 0.0, 0

    def __call__(self) -> float:
        return self.now

    def make(self):
        clock, scorer = self, self.factory()
        plain = scorer.score

        def score(tokens):
            clock.now += clock.pace
            clock.calls += 1
            return plain(tokens)

        scorer.score = score
        return scorer

    def audit(self, seconds: float) -> Verdict:
        return audit(LocalBox(self.make), seconds=seconds, clock=self)


class Flat:
    vocab_size = 32

    def score(self, tokens):
        return np.full(len(tokens), -np.log(self.vocab_size))


class Wide(Flat):
    vocab_size = 4096


@pytest.mark.parametrize("name", ["CalmBonus", "RunOfSuccess", "CalmPeek"])
def test_gates_on_well_predicted_text_are_opened(unseen: ModuleType, name: str) -> None:
    found = audit(LocalBox(getattr(unseen, name)), probes=1500)
    assert unseen.EXPECTED[name] in found.violated(), found.reason
    assert found.power["families"]["own"]["cuts"] > 0


def test_what_the_scorer_likes_is_cheap_for_it(unseen: ModuleType) -> None:
    lab = Lab(LocalBox(unseen.HonestCalm), np.random.default_rng(0), Effort())
    latin.sweep(lab)
    grown = taste.grown(lab, 160, surprises=False, documents=2)
    liked = lab.box.score(grown.tokens).mean()
    assert len(grown) == 160
    assert liked > lab.box.score(lab.rng.integers(0, lab.vocab_size, 160)).mean() + 1.0


@pytest.mark.parametrize(
    ("name", "least", "most", "multiple"),
    [
        ("HonestContext", 1, 768, 1),
        ("HonestSilentLimit", 1, 230, 1),
        ("HonestLeast", 100, lengths.LONGEST, 1),
        ("HonestBlocks", 64, lengths.LONGEST, 64),
        ("BlocksOnly", 48, lengths.LONGEST, 48),
    ],
)
def test_lengths_are_found_by_asking(unseen: ModuleType, name: str, least: int, most: int, multiple: int) -> None:
    lab = Lab(LocalBox(getattr(unseen, name)), np.random.default_rng(0), Effort())
    lab.lengths = lengths.find(lab)
    lab.lengths = lengths.longest(lab, 512)
    found = lab.lengths
    assert (found.least, found.multiple) == (least, multiple)
    assert found.most == most or (most == lengths.LONGEST and found.most > most - multiple)


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 90), st.integers(1, 9000))
def test_a_length_that_is_chosen_is_one_that_is_taken(steps: int, multiple: int, more: int, wanted: int) -> None:
    known = Lengths(multiple * steps, multiple * (steps + more), multiple)
    for length in (known.room(wanted), known.within(wanted)):
        assert length % multiple == 0
        assert length >= known.least
    assert known.room(wanted) >= wanted
    assert known.within(wanted) <= max(known.least, min(wanted, known.most))


@pytest.mark.parametrize("name", ["HonestSilentLimit", "HonestLeast", "HonestBlocks"])
def test_a_limit_is_no_fault(unseen: ModuleType, name: str) -> None:
    found = audit(LocalBox(getattr(unseen, name)), probes=2500)
    assert found.verdict == "legal", found.reason
    assert any("the scorer takes" in note for note in found.notes)


@pytest.mark.parametrize("name", ["BlocksOnly", "Remembers"])
def test_evidence_is_shown_again_by_its_command(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "v.json"
    assert main(["audit", f"{UNSEEN}:{name}", "--probes", "200", "--json", str(kept)]) == 1
    evidence = json.loads(kept.read_text())["evidence"]
    capsys.readouterr()
    assert main(["audit", f"{UNSEEN}:{name}", "--reproduce", str(kept)]) == 1
    assert capsys.readouterr().out.count("violated:") == len(evidence)


def test_memory_is_told_from_noise(unseen: ModuleType) -> None:
    effort = Effort(length=48, streams=1, cuts=6, forks=2, long_length=0, latin_length=0, own=0)
    for name in ("Remembers", "RemembersLongOnes"):
        assert "single-pass" in audit(LocalBox(getattr(unseen, name)), effort=effort).violated()
    for name in ("HonestNoisy", "HonestMemo"):
        assert not audit(LocalBox(getattr(unseen, name)), effort=effort).violated()


@pytest.mark.parametrize("pace", [0.001, 0.1, 0.3])
@pytest.mark.parametrize("seconds", [20.0, 60.0])
def test_the_time_is_kept_to_one_call(pace: float, seconds: float) -> None:
    clock = Simulated(Flat, pace)
    found = clock.audit(seconds)
    assert clock.now <= seconds + pace
    assert found.verdict == "legal" or "would suffice" in found.reason
    assert found.laws["causal"].probes > 0


def test_the_seconds_that_would_suffice_do(unseen: ModuleType) -> None:
    short = Simulated(Flat, 0.1).audit(10.0)
    assert short.verdict == "inconclusive"
    assert Simulated(Flat, 0.1).audit(float(short.reason.split("--seconds ")[1])).verdict == "legal"


def test_a_vocabulary_that_cannot_be_summed_says_so() -> None:
    clock = Simulated(Wide, 0.2)
    found = clock.audit(30.0)
    assert clock.now <= 30.2
    assert found.verdict == "inconclusive"
    assert "would suffice" in found.reason


@given(st.floats(1e-4, 1.0), st.floats(0, 1e-3), st.sampled_from([32, 1024, 50257]), st.integers(16, 1024))
def test_plans_keep_to_the_longest_stream(fixed: float, per_token: float, vocab: int, most: int) -> None:
    made = plan(Pace(fixed, per_token), vocab, 60.0, most)
    assert max(made.length, made.long_length, made.latin_length) <= most
    assert made.length <= max(LENGTHS)
    assert made.long_length <= max(LONG)
    assert suffices(Pace(fixed, per_token), vocab) > vocab * fixed


def test_the_page_says_what_the_benches_found() -> None:
    root = UNSEEN.parents[2]
    page = " ".join((root / "docs" / "verdicts.md").read_text(encoding="utf-8").split())
    first, second, seconds = (
        json.loads((root / "benches" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("audit_unseen_third_first", "audit_unseen_third", "audit_seconds")
    )
    assert f"| {first['right']} of {first['of']} right | `benches/results/audit_unseen_third_first.json` |" in page
    assert f"Its second run was right on {second['right']} of {second['of']}, without a false alarm" in page
    assert not [r for r in second["rows"] if r["expected"] == "legal" and r["verdict"] == "violation"]
    for row in seconds["table"]:
        cells = (f"{row['seconds']:g}", row["scorers"], f"{row['maximum']:.1f}", f"{row['median']:.1f}", row["right"])
        assert f"| {' | '.join(map(str, cells))} | {row['false_alarms']} |" in page


def test_a_grown_stream_is_no_longer_than_was_asked(unseen: ModuleType) -> None:
    for length in (48, 61, 230):
        lab = Lab(LocalBox(unseen.HonestSilentLimit), np.random.default_rng(length), Effort())
        for documents in (1, 2):
            assert len(taste.grown(lab, length, surprises=True, documents=documents)) == length
