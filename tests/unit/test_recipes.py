"""Every recipe in recipes/ reads, and its adapters and plan can be made."""

from __future__ import annotations

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


def test_there_is_a_recipe() -> None:
    assert RECIPES
