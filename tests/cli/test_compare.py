"""Two runs, paired by document: who is better, or nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def runs(evalkit, checkpoint: Path, tmp_path: Path):
    texts = []
    for i in range(8):
        path = tmp_path / f"{i}.txt"
        path.write_text(f"Document {i}. " + "the cat sat on the mat. " * (10 + i))
        texts.append(path)

    def make(name: str, *flags: object) -> Path:
        common = ("--checkpoint", checkpoint, "--tokenizer", "byte", "--text", *texts)
        out = tmp_path / name
        assert evalkit("eval", *common, *flags, "--out", out).code == 0
        return out

    return make


def test_a_better_run_is_called_better(evalkit, runs) -> None:
    plan = ("--plan", "disjoint:seq_len=64")
    base, adapted = runs("a", *plan, "--adapter", "none"), runs("b", *plan, "--adapter", "ppm")
    found = json.loads(evalkit("compare", base, adapted, "--json", "-").out)
    assert found["delta_bpb"] == pytest.approx(found["b"]["bpb"] - found["a"]["bpb"], abs=1e-12)
    assert found["distinguishable"]
    assert found["ci95"][0] <= found["delta_bpb"] <= found["ci95"][1] < 0
    assert "B is better" in evalkit("compare", base, adapted).out
    said = evalkit("compare", adapted, adapted)
    assert "cannot be told apart" in said.out


def test_runs_with_other_plans_need_force(evalkit, runs) -> None:
    one = runs("a", "--plan", "disjoint:seq_len=64", "--adapter", "none")
    two = runs("b", "--plan", "sliding:seq_len=64,stride=16", "--adapter", "none")
    refused = evalkit("compare", one, two)
    assert refused.code == 2
    assert "plan" in refused.err
    forced = evalkit("compare", one, two, "--force")
    assert forced.code == 0
    assert "note: the runs differ in plan" in forced.out


def test_a_folder_without_a_run_is_refused(evalkit, tmp_path: Path) -> None:
    said = evalkit("compare", tmp_path, tmp_path)
    assert said.code == 2
    assert "no run.json" in said.err


@pytest.mark.parametrize(
    ("t", "freedom", "cdf"), [(0.0, 3, 0.5), (6.314, 1, 0.95), (2.920, 2, 0.95), (-2.262, 9, 0.025)]
)
def test_student_quantiles(t: float, freedom: int, cdf: float) -> None:
    from evalkit.report.compare import _student_cdf

    assert _student_cdf(t, freedom) == pytest.approx(cdf, abs=1e-4)
