"""``evalkit ablate``: a table, a machine form and a plot that agree with the runs behind them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from evalkit.report.ablation import ablation_svg


@pytest.fixture
def recipe(checkpoint: Path, tmp_path: Path) -> Path:
    parts = ["Item one of two. " * 9, "So it is, so it was. " * 8, "Item two of two. " * 9, "It was not so. " * 10]
    for i, text in enumerate(parts):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    path = tmp_path / "stack.toml"
    path.write_text(
        f'[run]\ncheckpoint = "{checkpoint}"\ntokenizer = "byte"\ntext = ["0.txt", "1.txt", "2.txt", "3.txt"]\n'
        'plan = "disjoint:seq_len=32"\nthreads = 1\n'
        '[[adapter]]\nname = "slot"\nchunk = 64\n[[adapter]]\nname = "ppm"\norders = [2, 3]\n'
        '[[adapter]]\nname = "ppm"\norders = [5]\n',
        encoding="utf-8",
    )
    return path


def test_leave_one_out(evalkit, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = evalkit("ablate", recipe, "--out", out, "--json", tmp_path / "a.json")
    assert said.code == 0, said.err
    found = json.loads((out / "ablation.json").read_text())
    assert json.loads((tmp_path / "a.json").read_text()) == found
    assert [r["without"] for r in found["rows"]] == ["slot", "ppm 1", "ppm 2"]
    full = json.loads((out / "full-stack" / "run.json").read_text())
    assert found["full"]["bpb"] == full["totals"]["bpb"]
    for row in found["rows"]:
        run = json.loads((out / f"without-{row['without'].replace(' ', '-')}" / "run.json").read_text())
        assert run["totals"]["bpb"] == row["bpb"]
        assert row["lost_bpb"] == pytest.approx(row["bpb"] - full["totals"]["bpb"], abs=1e-12)
        assert row["ci95"][0] <= row["lost_bpb"] <= row["ci95"][1]
        assert run["settings"]["chunk_tokens"] == 64
        assert run["settings"]["plan"] == full["settings"]["plan"]
        assert f"without {row['without']}" in said.out
        low, high = row["ci95"]
        assert row["verdict"] == ("helps" if low > 0 else "hurts" if high < 0 else "cannot be told apart")
    assert all(abs(row["lost_bpb"]) > 1e-4 for row in found["rows"])
    plot = ET.fromstring((out / "ablation.svg").read_text())
    assert plot.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(plot.findall("{http://www.w3.org/2000/svg}rect")) == 3
    again = evalkit("ablate", recipe, "--out", out, "--json", "-")
    assert [r["bpb"] for r in json.loads(again.out)["rows"]] == [r["bpb"] for r in found["rows"]]


def test_nothing_to_leave_out(evalkit, recipe: Path, tmp_path: Path) -> None:
    said = evalkit("ablate", recipe, "--adapter", "none")
    assert said.code == 2
    assert "the stack is empty" in said.err
    said = evalkit("ablate", recipe, "--json", tmp_path / "no" / "a.json")
    assert (said.code, "its folder does not exist" in said.err) == (2, True)


def test_a_plot_of_nothing_is_still_a_plot() -> None:
    assert ET.fromstring(ablation_svg({"rows": []})).tag.endswith("svg")
