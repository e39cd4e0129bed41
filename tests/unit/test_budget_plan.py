"""Does a plan choose what its own records say, refuse what it was chosen on, and go on where it stopped?"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from evalkit.budget import ladders
from evalkit.budget.diary import Diary, Measured, of_documents, whole_documents
from evalkit.budget.forecast import Seconds
from evalkit.budget.gain import few_documents, whole_gain
from evalkit.budget.ladders import BEST, label, ladders_for
from evalkit.budget.plan import YET, Ask, Candidate, Search, choose, here
from evalkit.cli.main import main
from evalkit.report.plan import by_rung
from evalkit.stream import open_texts
from evalkit.stream.tokenizer import open_tokenizer
from evalkit.units import LN2
from tests.kit import golf_file


def candidate(name: str, rung: int, bpb: float, seconds: float, budget: float) -> Candidate:
    said = Seconds(seconds, 0.97 * seconds, 1.03 * seconds, 1, "device")
    return Candidate(name, (), rung, 1000, bpb, bpb - 2.0, None, said, said.fits(budget))


def test_the_choice_is_the_lowest_of_those_that_fit() -> None:
    """Twin: look at all of them, keep one."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        budget = rng.uniform(1, 10)
        rows = [
            candidate(str(i), int(rng.integers(0, 3)), float(rng.integers(0, 9)), rng.uniform(0, 10), budget)
            for i in range(12)
        ]
        last, best = max(r.rung for r in rows), None
        for r in rows:
            if r.rung == last and r.seconds.high <= budget:
                better = (
                    best is None or r.bpb < best.bpb or (r.bpb == best.bpb and r.seconds.total < best.seconds.total)
                )
                best = r if better else best
        if best is None:
            with pytest.raises(ValueError):
                choose(rows)
        else:
            assert choose(rows) is best


def test_experts_that_have_not_paid_yet_stay_where_the_run_is_longer_than_the_sample() -> None:
    def stack(n: int, bpb: float, seconds: float = 1.0, plan: str = "a") -> Candidate:
        adapters = tuple((name, {}) for name in ("ppm", "match", "best_agree", "hedge")[:n])
        return replace(candidate(plan, 1, bpb, seconds, 2.0), adapters=adapters)

    rows = [stack(1, 2.001), stack(2, 2.0), stack(3, 2.0008), stack(4, 2.0011), stack(3, 2.0005, plan="b")]
    assert choose(rows) is rows[1]
    assert choose(rows, 1000) is rows[1]  # the run is as long as the sample
    assert choose(rows, 1001) is rows[2]  # 0.0008 behind; four are 0.0011 behind, and another plan is not continued
    rows[2] = stack(3, 2.0008, seconds=3.0)
    assert choose(rows, 1001) is rows[1]  # does not fit


def test_the_best_ladder_is_the_recipe_of_all_experts() -> None:
    path = Path(__file__).parents[2] / "recipes" / "experts.toml"
    told = [dict(adapter) for adapter in tomllib.loads(path.read_text(encoding="utf-8"))["adapter"]]
    assert [(adapter.pop("name"), adapter) for adapter in told] == [(name, settings) for name, settings in BEST]


def measured(doc_targets: list[int], nats: list[list[float]]) -> Measured:
    size = [4 * n for n in doc_targets]
    return Measured(
        key="", targets=sum(doc_targets), doc_targets=doc_targets, bytes=size, nats=nats, wall=1.0, elapsed=1.0,
        cpu=1.0, verbs={}, chunks=[], complete=True,
    )  # fmt: skip


def test_a_gain_that_grows_with_the_logarithm_is_carried_on_to_the_longer_run() -> None:
    docs, rng = [200] * 60, np.random.default_rng(1)
    middle = np.cumsum(docs) - 100.0
    bits = (0.02 - 0.01 * np.log(middle) + rng.normal(0, 0.002, 60)) * 800
    base = [1000.0] * 60
    grown = measured(docs, [base, (1000.0 + bits * LN2).tolist()])
    gain, low, high = whole_gain(grown, measured(docs, [base]), 120_000)
    assert gain == pytest.approx(0.02 - 0.01 * (math.log(120_000) - 1.0), abs=0.003)
    assert low < gain < high
    flat = measured(docs, [base, [1000.0 - 8.0 * LN2] * 60])
    assert whole_gain(flat, measured(docs, [base]), 120_000) == pytest.approx((-0.01, -0.01, -0.01))


def test_intervals_of_few_documents_are_wider_by_students_quantile() -> None:
    for n, quantile in ((6, 2.5706), (12, 2.2010), (31, 2.0423), (1000, 1.9623)):
        assert few_documents(n) == pytest.approx(quantile / 1.95996 * math.sqrt(n / (n - 1)), rel=0.01)


def test_samples_are_whole_documents() -> None:
    texts = [f"document {i} " * (3 + i) for i in range(20)]
    stream = open_texts(texts, open_tokenizer("byte"))
    sizes = np.diff(np.append(stream.doc_start, len(stream.tokens))).tolist()
    picked = whole_documents(sizes, [7, 3, 19, 0, 1, 2], 200)
    part = of_documents(stream, picked)
    assert part.total_bytes == sum(len(texts[d].encode()) for d in picked)
    assert part.doc_start.tolist() == np.flatnonzero(part.tokens == stream.tokenizer.bos_id).tolist()
    assert 200 <= sum(sizes[d] for d in picked) <= 400
    assert whole_documents([5000, 900], [0, 1], 10) == [1]


@pytest.mark.parametrize(
    "seconds", [0.5, pytest.param(2.0, marks=pytest.mark.slow), pytest.param(10.0, marks=pytest.mark.slow), 60.0]
)
def test_a_search_keeps_to_its_seconds_and_a_learner_stays_in_it(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that take as long as they take, and stop at their limit but for the chunk that is under way."""
    rng, chunk = np.random.default_rng(int(10 * seconds)), 64
    stream = open_texts([f"document {i} " * 40 for i in range(200)], open_tokenizer("byte"))
    model = SimpleNamespace(vocab_size=260, max_seq_len=None, can={"banded", "parameters"}, device="cpu")
    pace = dict[str, float]()

    def run(self: Search, key: str, plan: str, adapters: Any, documents: Any, until: float, exact: bool) -> Measured:
        slow = 20.0 if any("ttt" in n or "lora" in n for n, _ in adapters) else 1.0
        one = pace.setdefault(label(plan, adapters), slow * rng.uniform(0.5, 2.0) * 5e-5)
        sizes = [self.sizes[d] for d in sorted(documents)]
        most = max(1, math.ceil(max(until - self.spent, 0.0) / one / chunk)) * chunk
        kept = [n for n, end in zip(sizes, np.cumsum(sizes), strict=True) if end <= most] or [min(most, sizes[0])]
        nats = [[3.0 * n for n in kept], *([2.9 * n - 0.01 * i for n in kept] for i in range(len(adapters)))]
        done = measured(kept, nats)
        spans = [(lo, lo + chunk, {"forward": one * chunk}) for lo in range(1, sum(kept), chunk)]
        took = one * sum(kept)
        whole = len(kept) == len(sizes)
        return msgspec.structs.replace(done, key=key, wall=took, elapsed=took, chunks=spans, complete=whole)

    monkeypatch.setattr(Search, "_run", run)
    ask = Ask(seconds, 40_000, seconds, here, chunk_tokens=chunk)
    plain, asked = ladders_for(model, ask.chunk_tokens)
    found = Search(model, stream, ask, Diary(tmp_path / "search.jsonl", {}), lambda text: None).find(plain, asked)
    slowest = max(pace.values()) * chunk
    assert (
        found.spent <= seconds + 4 * slowest
    )  # base and first candidate, base and winner again: a chunk each at least
    if seconds == 60.0:
        last = max(c.rung for c in found.table)
        assert any(
            n.endswith("_ttt") or n == "lora_lanes" for c in found.table if c.rung == last for n, _ in c.adapters
        )


def text_file(path: Path, words: str, seed: int, documents: int = 24) -> Path:
    rng = np.random.default_rng(seed)
    pool = words.split()
    lines = (json.dumps({"text": " ".join(rng.choice(pool, 30))}) for _ in range(documents))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def _four_ladders() -> Iterator[None]:
    """So that a search ends because nothing is left to ask, however slow the machine is."""

    def few(*args: Any, **more: Any) -> tuple[str, list[Any]]:
        plain, all_of_them = ladders_for(*args, **more)
        return plain, all_of_them[:4]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladders, "ladders_for", few)
        yield


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    golf_file(folder / "model.pt", layers=1, heads=1, hidden=16, std=None)
    text_file(folder / "mine.jsonl", "the cat sat on a mat and saw seven dogs run past two old red barns", 1)
    text_file(folder / "other.jsonl", "some bird flew over that river while nine boats sailed under grey clouds", 2)
    assert main(command(folder)) == 0
    return folder


def command(folder: Path, *more: str) -> list[str]:
    model = ["--checkpoint", str(folder / "model.pt"), "--tokenizer", "byte", "--threads", "1"]
    text = ["--text", str(folder / "mine.jsonl"), "--budget", "3600", "--targets", "4000"]
    return ["plan", *model, *text, "--search-seconds", "60", "--out", str(folder / "out"), *more]


def test_a_plan_is_a_recipe_with_a_reason_and_a_machine_form(planned: Path) -> None:
    report = json.loads((planned / "out" / "plan.json").read_text(encoding="utf-8"))
    assert report["schema"] == 1
    assert {"ask", "chosen", "plain", "candidates", "front", "left_out", "more", "waste", "why", "at_size"} <= set(
        report
    )
    last = max(c["rung"] for c in report["candidates"])
    feasible = [c for c in report["candidates"] if c["fits"] and c["rung"] == last]
    lowest = min(feasible, key=lambda c: (c["bpb"], c["seconds"]))
    assert report["beats_plain"]
    chosen = next(c for c in feasible if c["name"] == report["chosen"]["name"])
    assert chosen["bpb"] <= lowest["bpb"] + YET or report["tried"]
    assert report["chosen"]["ci95"][1] < 0
    assert {label(report["plain"]["plan"], [BEST[0]]), report["plain"]["name"]} <= {
        c["name"] for c in report["candidates"]
    }
    recipe = tomllib.loads((planned / "out" / "planned.toml").read_text(encoding="utf-8"))
    assert recipe["run"]["plan"] == report["chosen"]["plan"]
    assert recipe["run"]["budget"] == 3600
    groups = [rows for _, rows in by_rung(report)]
    assert sum(map(len, groups)) == len(report["candidates"])
    assert all(len({c["rung"] for c in rows}) == 1 for rows in groups)
    assert [rows[0]["rung"] for rows in groups] == sorted({c["rung"] for c in report["candidates"]}, reverse=True)
    assert recipe.get("adapter", []) == report["chosen"]["adapters"]
    assert "<svg" in (planned / "out" / "plan.html").read_text(encoding="utf-8")


def test_a_text_that_was_chosen_on_is_refused_and_another_is_scored(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(planned / "out" / "planned.toml")
    assert main(["eval", recipe, "--text", str(planned / "mine.jsonl")]) == 1
    assert "law provenance: 24 of 24 scored documents" in capsys.readouterr().err
    lines = (planned / "mine.jsonl").read_text(encoding="utf-8").splitlines()
    near = {"text": json.loads(lines[0])["text"] + " and one more ending"}
    (planned / "near.jsonl").write_text(json.dumps(near) + "\n", encoding="utf-8")
    assert main(["eval", recipe, "--text", str(planned / "near.jsonl")]) == 1
    assert "1 share half of their 13-word sequences" in capsys.readouterr().err
    assert main(["eval", recipe, "--text", str(planned / "other.jsonl"), "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)["settings"]["planned_on"]
    assert (said["file"], said["documents"]) == ("calibration.ekc", 24)
    assert main(command(planned, "--scored", str(planned / "mine.jsonl"))) == 1


def test_a_search_that_was_cut_goes_on_from_its_diary(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diary, report = planned / "out" / "search.jsonl", planned / "out" / "plan.json"
    whole, said = diary.read_bytes(), json.loads(report.read_text(encoding="utf-8"))
    assert main(command(planned)) == 0
    assert diary.read_bytes() == whole
    again = json.loads(report.read_text(encoding="utf-8"))
    assert {**again, "environment": 0} == {**said, "environment": 0}
    lines = whole.splitlines(keepends=True)
    diary.write_bytes(b"".join(lines[:4]) + lines[4][:-9])
    assert main(command(planned)) == 0
    assert diary.read_bytes().startswith(b"".join(lines[:4]))
    capsys.readouterr()
    assert main(command(planned, "--seed", "7")) == 2
    assert "another search was kept here" in capsys.readouterr().err


def test_a_plan_for_other_hardware_says_where(planned: Path, tmp_path: Path) -> None:
    flags = [*command(planned, "--target", "8xH100", "--search-seconds", "1", "--json", str(tmp_path / "plan.json"))]
    flags[flags.index("--out") + 1] = str(tmp_path / "there")
    assert main(flags) == 0
    report = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert report["ask"]["where"] == "8xH100"
    assert report["chosen"]["forecast"]["ranks"] == 8
    assert report["run"]["nproc"] == 8
    assert "segment=1024" in report["plain"]["plan"]


def test_a_plan_of_a_few_documents_or_without_a_budget_is_refused(
    planned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = text_file(tmp_path / "few.jsonl", "one two three", 3, documents=5)
    given = [
        "--checkpoint",
        str(planned / "model.pt"),
        "--tokenizer",
        "byte",
        "--text",
        str(few),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["plan", *given, "--budget", "9"]) == 2
    assert "has 5 documents" in capsys.readouterr().err
    assert main(["plan", *given]) == 2
    assert "--budget" in capsys.readouterr().err
