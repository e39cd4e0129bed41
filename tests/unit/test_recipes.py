"""Every recipe in recipes/ reads, and its adapters and plan can be made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_whole(path: Path) -> None:
    from evalkit.adapters.registry import make_adapter
    from evalkit.cli.recipe import read_recipe
    from evalkit.plan import parse_plan

    recipe = read_recipe(path)
    names = [make_adapter(name, raw).name for name, raw in recipe.adapters]
    assert names == [name for name, _ in recipe.adapters]
    assert recipe.run.plan is None or parse_plan(recipe.run.plan).name == recipe.run.plan.split(":")[0]


HERE = {"fast", "best", "experts", "lanes"}
"""Recipes that were measured on a CPU; the others say that they were not run."""


@pytest.mark.parametrize("name", sorted(HERE))
def test_a_recipe_for_this_machine_runs_and_its_head_names_its_command(name: str, capsys) -> None:
    from evalkit.cli.main import main

    path = next(p for p in RECIPES if p.stem == name)
    assert main(["eval", str(path), "--limit-tokens", "700", "--threads", "1", "--json", "-"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["complete"]
    assert run["totals"]["targets"] == 700
    assert run["totals"]["bpb"] < run["totals"]["base_bpb"] + 0.02
    head = path.read_text(encoding="utf-8").split("[run]")[0]
    assert f"evalkit eval recipes/{name}.toml" in head
    assert re.search(r"\d\.\d{4} BPB", head)


def test_a_recipe_that_was_not_run_says_so() -> None:
    for path in RECIPES:
        assert (path.stem in HERE) == ("NOT RUN HERE" not in path.read_text(encoding="utf-8")), path.name
