"""Two runs, paired by document: who is better, or nobody; and what is refused."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def runs(evalkit, checkpoint: Path, tmp_path: Path):
    texts = []
    for i in range(8):
        path = tmp_path / f"{i}.txt"
        path.write_text(f"Document {i}. " + "the cat sat on the mat. " * (10 + i))
        texts.append(path)

    def make(name: str, *flags: object, text: list[Path] | None = None) -> Path:
        common = ("--checkpoint", checkpoint, "--tokenizer", "byte", "--text", *(text or texts))
        out = tmp_path / name
        assert evalkit("eval", *common, *flags, "--out", out).code == 0
        return out

    make.texts = texts  # type: ignore[attr-defined]
    return make


PLAN = ("--plan", "disjoint:seq_len=64")


def test_a_better_run_is_called_better(evalkit, runs) -> None:
    base, adapted = runs("a", *PLAN, "--adapter", "none"), runs("b", *PLAN, "--adapter", "ppm")
    found = json.loads(evalkit("compare", base, adapted, "--json", "-").out)
    assert found["delta_bpb"] == pytest.approx(found["b"]["bpb"] - found["a"]["bpb"], abs=1e-12)
    assert found["distinguishable"]
    assert found["ci95"][0] <= found["delta_bpb"] <= found["ci95"][1] < 0
    said = evalkit("compare", base, adapted)
    assert "B is better" in said.out
    assert "A is better" in evalkit("compare", adapted, base).out
    assert "settings that differ, A -> B:\n  stack: base -> base + ppm\n" in said.out
    assert "8 documents are few" in said.out
    assert "paired on one checkpoint: over seeds such a gain varies by 0.000086 BPB" in said.out
    assert said.out.isascii()
    same = evalkit("compare", adapted, adapted)
    assert "cannot be told apart" in same.out
    assert "no document differs" in same.out
    assert "over seeds" not in same.out, "nothing was changed, so there is no gain"
    base_only = evalkit("compare", base, adapted, "--base")
    assert "BPB (base)" in base_only.out
    assert "cannot be told apart" in base_only.out


def test_a_page_shows_the_words_of_both_runs(evalkit, runs, tmp_path: Path) -> None:
    base, adapted = runs("a", *PLAN, "--adapter", "none"), runs("b", *PLAN, "--adapter", "ppm")
    path = tmp_path / "words.html"
    assert "B is better" in evalkit("compare", base, adapted, "--html", path).out
    page = path.read_text(encoding="utf-8")
    assert len(page) < 500_000
    assert "<script" not in page
    assert "Content-Security-Policy" in page
    assert page.count("<details") == 3, "every document gains, the three that gain most are shown"
    spans = re.findall(
        r'<span(?: class="[wl]\d")? title="([-+.\d]+) bits; p: A base (\S+), B base (\S+), B ppm (\S+)">', page
    )
    assert spans
    for bits, a, _, b in spans:
        assert float(bits) == pytest.approx(math.log2(float(a) / float(b)), abs=0.03)
    other = runs("c", *PLAN, "--adapter", "none", text=runs.texts[:4])
    refused = evalkit("compare", base, other, "--force", "--html", path)
    assert refused.code == 2
    assert "scored other targets" in refused.err


def test_settings_of_the_same_stack_are_compared_one_by_one(evalkit, runs) -> None:
    one = runs("a", *PLAN, "--adapter", "ppm")
    two = runs("b", *PLAN, "--adapter", "ppm:rate=0.2", "--seed", "3")
    said = evalkit("compare", one, two)
    assert "  adapters[1].rate: 0.3 -> 0.2\n  seed: 0 -> 3\n" in said.out


def test_runs_with_other_plans_need_force(evalkit, runs) -> None:
    one = runs("a", *PLAN, "--adapter", "none")
    two = runs("b", "--plan", "sliding:seq_len=64,stride=16", "--adapter", "none")
    refused = evalkit("compare", one, two)
    assert refused.code == 2
    assert "plan (disjoint:seq_len=64 against sliding:seq_len=64,stride=16)" in refused.err
    forced = evalkit("compare", one, two, "--force")
    assert forced.code == 0
    assert "note: forced, although the runs differ in plan" in forced.out
    assert json.loads(evalkit("compare", one, two, "--force", "--json", "-").out)["forced"]


def test_runs_on_other_texts_need_force_and_common_documents(evalkit, runs) -> None:
    texts = runs.texts
    one = runs("a", *PLAN, "--adapter", "none", text=texts[:5])
    two = runs("b", *PLAN, "--adapter", "ppm", text=texts[2:])
    refused = evalkit("compare", one, two)
    assert refused.code == 2
    assert "differ in text; targets" in refused.err
    forced = evalkit("compare", one, two, "--force", "--json", "-")
    found = json.loads(forced.out)
    assert found["documents"] == 3
    assert found["left_out"] == [2, 3]
    assert "left out: 2 of A, 3 of B" in evalkit("compare", one, two, "--force").out
    three = runs("c", *PLAN, "--adapter", "none", text=texts[5:])
    nothing = evalkit("compare", one, three, "--force")
    assert nothing.code == 2
    assert "no document in common" in nothing.err


def test_a_shorter_run_is_refused_and_forced_without_the_cut_document(evalkit, runs) -> None:
    whole = runs("a", *PLAN, "--adapter", "none")
    part = runs("b", *PLAN, "--adapter", "none", "--limit-tokens", "900")
    refused = evalkit("compare", whole, part)
    assert refused.code == 2
    assert "targets (2," in refused.err
    found = json.loads(evalkit("compare", whole, part, "--force", "--json", "-").out)
    assert found["documents"] == 3
    assert found["left_out"] == [5, 1]
    assert found["delta_bpb"] == pytest.approx(0.0, abs=1e-9)


def test_one_document_has_no_interval(evalkit, runs) -> None:
    one = runs("a", *PLAN, "--adapter", "none", text=runs.texts[:1])
    two = runs("b", *PLAN, "--adapter", "ppm", text=runs.texts[:1])
    said = evalkit("compare", one, two)
    assert "1 document: no interval" in said.out
    assert "one document cannot say which is better" in said.out


def edit(folder: Path, name: str, change: Any) -> Path:
    """A copy of a run with another run.json."""
    run = json.loads((folder / "run.json").read_text())
    change(run)
    copy = folder.parent / name
    copy.mkdir()
    (copy / "run.json").write_text(json.dumps(run))
    for file in folder.glob("documents.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_the_rule_over_seeds_wants_other_models_and_says_what_it_found(evalkit, runs) -> None:
    base, adapted = runs("a", *PLAN, "--adapter", "none"), runs("b", *PLAN, "--adapter", "ppm")

    def other_model(run: dict[str, Any]) -> None:
        run["fingerprint"]["model"] = "0" * 64

    base2, adapted2 = edit(base, "a2", other_model), edit(adapted, "b2", other_model)
    said = evalkit("compare", base, adapted, "--more", base2, adapted2)
    assert said.code == 0
    assert "a record by the field's rule: B gains" in said.out
    rule = json.loads(evalkit("compare", base, adapted, "--more", base2, adapted2, "--json", "-").out)["field_rule"]
    assert rule["seeds"] == 2
    assert rule["gain_nats_per_token"] > 0.005
    back = evalkit("compare", adapted, base, "--more", adapted2, base2)
    assert "not a record" in back.out
    twice = evalkit("compare", base, adapted, "--more", base, adapted)
    assert twice.code == 2
    assert "one run, not two seeds" in twice.err
    odd = evalkit("compare", base, adapted, "--more", base)
    assert odd.code == 2
    assert "pairs" in odd.err


def test_every_pair_over_seeds_must_be_comparable(evalkit, runs) -> None:
    base, adapted = runs("a", *PLAN, "--adapter", "none"), runs("b", *PLAN, "--adapter", "ppm")
    other = runs("c", "--plan", "disjoint:seq_len=32", "--adapter", "ppm", "--seed", "5")
    seed = runs("d", *PLAN, "--adapter", "none", "--seed", "5")
    refused = evalkit("compare", base, adapted, "--more", seed, other)
    assert refused.code == 2
    assert "differ in plan" in refused.err
    assert evalkit("compare", base, adapted, "--more", seed, other, "--force").code == 0


def test_a_folder_without_a_run_is_refused(evalkit, tmp_path: Path) -> None:
    said = evalkit("compare", tmp_path, tmp_path)
    assert said.code == 2
    assert "no run.json" in said.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.update(schema=2), "schema 2, this evalkit reads up to 1"),
        (lambda run: run.pop("totals"), "cannot be read (Object missing required field `totals`)"),
        (lambda run: run["totals"].update(bytes=0), "booked no byte"),
        (lambda run: run["fingerprint"].update(tokenizer="x"), "differ in tokenizer"),
        (lambda run: run.update(bytes_from="tokenizer"), "where bytes come from (text against tokenizer)"),
    ],
)
def test_other_run_files_are_one_sentence(evalkit, runs, change, message: str) -> None:
    good = runs("a", *PLAN, "--adapter", "none")
    said = evalkit("compare", good, edit(good, "x", change))
    assert said.code == 2
    assert message in said.err
    assert said.err.count("\n") == 1


def test_damaged_files_are_one_sentence(evalkit, runs) -> None:
    good = runs("a", *PLAN, "--adapter", "none")
    bad = edit(good, "x", lambda run: None)
    (bad / "run.json").write_text("[1]")
    assert evalkit("compare", good, bad).code == 2
    bad = edit(good, "y", lambda run: None)
    for file in bad.glob("documents.*"):
        file.unlink()
    with gzip.open(bad / "documents.jsonl.gz", "wt") as file:
        file.write('{"document": 0}\n')
    said = evalkit("compare", good, bad)
    assert said.code == 2
    assert "no column name" in said.err
    (bad / "documents.jsonl.gz").unlink()
    assert evalkit("compare", good, bad).code == 2


def test_an_incomplete_run_is_named(evalkit, runs) -> None:
    good = runs("a", *PLAN, "--adapter", "none")
    cut = edit(good, "x", lambda run: run.update(complete=False))
    assert "x is incomplete" in evalkit("compare", good, cut).out
