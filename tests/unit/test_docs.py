"""The example in docs/adapter.md is a working adapter, and the tables of the pages are those of the result files."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import evalkit
from docs.hooks import on_page_markdown
from evalkit.adapters.registry import parse_adapter
from evalkit.cli.main import VERBS, build_parser, main
from tests.kit import golf_file

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = DOCS.parent / "benches" / "results"


def test_the_example_adapter_runs(tmp_path: Path, capsys) -> None:

    page = (DOCS / "adapter.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (tmp_path / "mine.py").write_text(code.group(1), encoding="utf-8")
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 40, encoding="utf-8")
    golf_file(tmp_path / "m.pt", layers=1, hidden=16, std=None)
    common = [
        "eval",
        "--checkpoint",
        str(tmp_path / "m.pt"),
        "--text",
        str(tmp_path / "text.txt"),
        "--tokenizer",
        "byte",
    ]
    adapters = ["--adapter", "ppm", "--adapter", f"{tmp_path / 'mine.py'}:Mine:rate=0.05"]
    assert main([*common, *adapters, "--plan", "disjoint:seq_len=32", "--json", "-"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert [s["adapter"] for s in run["stages"]] == ["ppm", "mine"]
    assert run["stages"][1]["settings"] == {"rate": 0.05}
    assert run["verdicts"]["sentinel"]["worst"] < 1e-12


def cells(page: Path, name: str, around: str = " `") -> list[list[str]]:
    """Rows of the table between ``<!-- name -->`` and ``<!-- end -->`` in a page, without what stands ``around`` a cell."""
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None, name
    return [[c.strip(around) for c in line.split("|")[1:-1]] for line in shown.group(1).splitlines()[2:]]


def table(name: str, file: str = "recipes.md") -> dict[str, list[str]]:
    """The same of a page of docs, by their first cell."""
    return {first: rest for first, *rest in cells(DOCS / file, name, " ")}


def numbers(row: dict[str, Any]) -> list[str]:
    """BPB, difference and interval as the page writes them."""
    if not row["adapters"]:
        return [f"{row['bpb']:.4f}", "", ""]
    low, high = row["ci95"]
    return [f"{row['bpb']:.4f}", f"{row['delta_bpb']:+.4f}", f"{low:+.4f} .. {high:+.4f}"]


@pytest.mark.parametrize(("name", "file"), [("learners", "learners.json"), ("lanes", "learners_lanes.json")])
def test_the_tables_of_learners_are_the_result_file(name: str, file: str) -> None:
    rows = json.loads((RESULTS / file).read_text(encoding="utf-8"))["rows"]
    shown = table(name)
    assert list(shown) == [row["name"] for row in rows]
    for row in rows:
        seconds = f"{row['cpu_seconds']:.0f}"
        memory = f"{sum(row['state_bytes'].values()) / 2**20:.2f}" if row["adapters"] else ""
        assert shown[row["name"]] == [*numbers(row), seconds, memory], row["name"]


@pytest.mark.parametrize("name", ["experts", "best without"])
def test_the_tables_of_experts_are_the_result_file(name: str) -> None:
    rows = json.loads((RESULTS / "experts.json").read_text(encoding="utf-8"))["rows"]
    named = {row["name"]: row for row in rows if row["name"].startswith("best ") == (name == "best without")}
    shown = table(name)
    assert shown.keys() == named.keys()
    for key, cells in shown.items():
        assert [*cells, "", ""][:3] == numbers(named[key]), key


@pytest.mark.parametrize("name", ["curve", "texts", "stacks", "others"])
def test_the_tables_of_corpora_are_the_result_file(name: str) -> None:
    from benches import corpus

    found = json.loads((RESULTS / "corpus.json").read_text(encoding="utf-8"))
    page = (DOCS / "corpus.md").read_text(encoding="utf-8")
    assert f"<!-- {name} -->\n{corpus.tables(found)[name]}\n<!-- end -->" in page


@pytest.mark.parametrize("name", ["plan", "bases"])
def test_the_tables_of_plans_and_of_bases_are_the_result_files(name: str) -> None:
    from benches import bases, plan

    rows = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    shown = {"plan": plan.table, "bases": bases.table}[name](rows)
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert f"<!-- {name} -->\n{shown}\n<!-- end -->" in page
    if name == "bases":
        assert (RESULTS / "bases.svg").read_text(encoding="utf-8") == bases.draw(rows)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"lm-eval"}))  # that one hands its flags on
def test_the_examples_of_the_help_are_accepted(verb: str, capsys) -> None:
    """Every line of ``--help`` that begins with ``evalkit`` parses, and the adapters in it exist with these settings."""
    with pytest.raises(SystemExit) as left:
        build_parser(verb).parse_args([verb, "--help"])
    assert left.value.code == 0
    lines = [line.strip().split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    for line in lines:
        if line.startswith(f"evalkit {verb} "):
            parsed = build_parser(verb).parse_args(shlex.split(line.split(" > ")[0], comments=True)[1:])
            for spec in vars(parsed).get("adapter") or []:
                if spec != "none":
                    assert parse_adapter(spec).name


def test_without_arguments_it_greets_with_commands_that_exist(capsys) -> None:
    assert main([]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  evalkit ")]
    assert len(lines) == 3
    assert {words[1] for words in lines} <= set(VERBS)


def test_the_tables_of_strangers_and_of_the_harness_are_the_result_files() -> None:
    found = json.loads((RESULTS / "strangers.json").read_text(encoding="utf-8"))
    harness = json.loads((RESULTS / "lm_eval.json").read_text(encoding="utf-8"))["rows"]
    assert cells(DOCS / "lm-eval.md", "rolling") == [
        [row["name"], f"{row['nats']:.3f}", f"{row['seconds']:.1f}", f"{row['ratio']:.2f}"] for row in harness
    ]
    pairs = {"throughput": ""} | {
        name: f"{pair['delta_bpb']:+.4f} ({pair['ci95'][0]:+.4f} .. {pair['ci95'][1]:+.4f})"
        for name, pair in found["throughput against"].items()
    }
    for row, (name, *rest) in zip(found["siblings"], cells(DOCS / "scoring.md", "siblings"), strict=True):
        assert name.removeprefix("base7x384_").split(":")[0] == row["name"]
        assert rest == [f"{row['base_bpb']:.4f}", f"{row['bpb']:.4f}", pairs[row["name"]]]
    rwkv = cells(DOCS.parent / "examples" / "rwkv_door" / "README.md", "rwkv")
    assert rwkv == [
        [row["name"], f"{row['targets']:,}", f"{row['base_bpb']:.4f}", f"{row['bpb']:.4f}"] for row in found["rwkv"]
    ]


def test_the_table_of_models_asked_at_opening_is_the_result_file() -> None:
    rows = json.loads((RESULTS / "causality.json").read_text(encoding="utf-8"))["rows"]
    judged = [[r["model"], "accepted" if r["accepted"] else "refused", f"{r['seconds']:.1f}"] for r in rows]
    assert cells(DOCS / "models.md", "causality") == judged
    assert all(row["right"] for row in rows)


def test_the_tables_of_the_engine_are_the_result_file() -> None:
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    found = json.loads((RESULTS / "engine.json").read_text(encoding="utf-8"))
    for name in (n for n in found if n.startswith("kernels")):
        cells_of = [found[name][f"row_sums {isa}"] for isa in ("avx512", "avx2", "base")]
        cells_of += [found[name]["row_sums with weights"], found[name]["log_bias avx512"]]
        for cell in cells_of:
            assert f"{cell['us']:.1f} ({cell['ratio']:.2f})" in page
    verbs = ("propose", "gather", "experts", "sentinel", "book")
    assert cells(DOCS / "scaling.md", "engine") == [
        [p["stack"], f"{p['vocab']:,}", f"{p['targets']:,}"]
        + [f"{p['us'][v]:.2f}" for v in verbs]
        + [f"{p['beyond_forward']:.1f} ({p['ratio']:.1f})"]
        for p in found["curve"]["points"]
    ]
    bundled = [run for name, run in found.items() if name.startswith("bundled")]
    assert cells(DOCS / "scaling.md", "bundled", " ") == [
        [", ".join(f"`{spec}`" for spec in run["stack"])]
        + [f"{run['us'][v]:.0f}" if v in run["us"] else "" for v in ("forward", "base")]
        + ["".join(f"{us:.0f}" for v, us in run["us"].items() if v.startswith("observe/"))]
        + [f"{run['us']['experts']:.1f}" if "experts" in run["us"] else ""]
        for run in bundled
    ]
    assert cells(DOCS / "scaling.md", "rehearsal") == [
        [f"{run['targets']:,}", f"{run['booked_when_killed']:,}"]
        + [f"{run[life]:.0f}" for life in ("first_life_seconds", "second_life_seconds")]
        + [f"{run['peak_memory_bytes'] / 2**20:,.0f}", f"{run['report_bytes'] / 1024:.0f}"]
        for name, run in found.items()
        if name.startswith("rehearsal")
    ]


def test_the_table_of_hugging_face_plans_is_the_result_file() -> None:
    rows = json.loads((RESULTS / "hf.json").read_text(encoding="utf-8"))["rows"]
    want = {
        r["way"]: [
            f"{r['bpb']:.4f}",
            f"{r['cpu_seconds']:.1f}",
            f"{r['to_disjoint_loop']:.2f}",
            f"{r['to_strided_loop']:.2f}",
        ]
        for r in rows
    }
    assert table("hf", "models.md") == want


def test_every_public_name_and_every_verb_is_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    named = {
        line.rpartition(".")[2]: line.removeprefix("::: ") for line in page.splitlines() if line.startswith("::: ")
    }
    assert set(evalkit.__all__) - {"__version__"} <= set(named)
    for name, where in named.items():
        found = getattr(importlib.import_module(where.rpartition(".")[0]), name)
        assert found.__doc__, where
        assert name not in evalkit.__all__ or found is getattr(evalkit, name), where
    reference = on_page_markdown((DOCS / "cli.md").read_text(encoding="utf-8"))
    assert [line.removeprefix("## evalkit ") for line in reference.splitlines() if line.startswith("## ")] == list(
        VERBS
    )
    assert on_page_markdown((DOCS / "changelog.md").read_text(encoding="utf-8")).startswith("# Changelog")
