"""Does the planner foretell the bundled artifact, and does the model that it calls largest fit?"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from evalkit.errors import InputError
from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.container import read_artifact
from evalkit.train import size
from evalkit.train.recipe import Export, load_recipe

TINY = Path(__file__).parents[2] / "evalkit" / "assets" / "tiny.ek"


def test_the_bundled_artifact_is_foretold_within_half_a_percent() -> None:
    recipe = load_recipe("tiny-cpu")
    real = read_artifact(TINY)
    found = size.estimate(recipe.model, recipe.export)
    assert found.total == pytest.approx(real.size - len(real.corpus or b""), rel=0.005)
    assert found.parameters == sum(a.size for a in real.tensors.values())
    (row,) = size.answers(size.parser().parse_args(["--artifact", str(TINY)]))
    assert abs(float(str(row["error_percent"]))) < 0.5


def test_parts_by_hand() -> None:
    config = GPTConfig(vocab_size=100, layers=1, width=64, head_dim=64, kv_heads=1)
    found = size.estimate(config, Export(matrix_bits=6, matrix_k=12.85, embed_bits=8, embed_k=20.0), 500)
    blocks = 4 * 64 * 64 + 8 * 64 * 64
    assert found.payload == pytest.approx((blocks * 3.328 + 6400 * 4.715) / 8, rel=1e-3)
    assert found.scales == 2 * (4 * 64 + 256 + 64 + 100)
    grids = blocks + 6400
    assert found.half == 2 * (found.parameters - grids)
    assert found.total == round(found.payload) + found.scales + found.tables + found.half + found.header + 500 + 52


@pytest.mark.parametrize("target", [700_000, 1_000_000, 16_000_000])
@pytest.mark.parametrize("field", ["layers", "width"])
def test_the_largest_model_fits_and_the_next_does_not(target: int, field: str) -> None:
    recipe = load_recipe("tiny-cpu")
    config, found = size.largest_model(recipe.model, recipe.export, target, field)
    assert found.total <= target
    more = getattr(config, field) + (1 if field == "layers" else 64)
    above = msgspec.structs.replace(config, **{field: more}).check()
    assert size.estimate(above, recipe.export).total > target


def test_k_is_rate_control() -> None:
    recipe = load_recipe("tiny-cpu")
    factor, found = size.fitting_k(recipe.model, recipe.export, 900_000)
    assert 890_000 < found.total <= 900_000
    assert factor > 1
    loose = size.fitting_k(recipe.model, recipe.export, 16_000_000)
    assert loose[0] * recipe.export.matrix_k == pytest.approx(size.LEAST_K)
    with pytest.raises(InputError, match="however large k"):
        size.fitting_k(recipe.model, recipe.export, 10_000)
    with pytest.raises(InputError, match="no layers of this model fits"):
        size.largest_model(recipe.model, recipe.export, 10_000, "layers")


def test_the_command_answers_in_lines_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert size.main(["--params", "30e6", "--bits", "6"]) == 0
    said = capsys.readouterr().out
    assert "12,479,4" in said
    assert "largest 38,46" in said
    assert size.main(["--recipe", "tiny-cpu", "--json", "--budget", "2e6"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["bytes"] <= 2e6 for r in rows] == [True] * 4
    for wrong in (
        [],
        ["--params", "0"],
        ["--params", "1e6", "--bits", "40"],
        ["--recipe", "tiny"],
        ["--artifact", "x"],
    ):
        assert size.main(wrong) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
