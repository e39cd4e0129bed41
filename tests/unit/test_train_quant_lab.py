"""Do the experiments of quantisation do what their papers say, and does k meet a byte target?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benches.quant import lab, refine
from benches.quant.generate import generated
from evalkit.errors import BudgetError, InputError
from evalkit.models.ek import coder, lqer
from evalkit.models.ek.config import GPTConfig, parameter_shapes
from evalkit.models.ek.grid import Grid, largest, round_to_grid
from evalkit.models.ek.model import GPT
from evalkit.stream.tokenizer import ByteTokenizer
from evalkit.train.quant import target
from evalkit.train.quant.calibrate import text_batches
from evalkit.train.quant.gptq import gptq, solve
from evalkit.train.quant.names import bits_and_k, is_grid
from evalkit.train.recipe import Export
from tests.kit import examples
from tests.twins.gptq import solve_naive

SMALL = GPTConfig(vocab_size=260, layers=1, width=32, head_dim=16, rope_dims=8, gate_dims=6, max_seq_len=32)


def problem(rows: int, cols: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * cols, cols)) @ (np.eye(cols) + 0.5 * rng.normal(size=(cols, cols)))
    return rng.normal(size=(rows, cols)).astype(np.float32), x.T @ x


@given(seed=st.integers(0, 50), bits=st.integers(3, 8), groups=st.sampled_from([1, 2, 4]), rows=st.integers(1, 4))
@settings(max_examples=examples(40), deadline=None)
def test_gptq_on_groups_is_its_brute_force_twin(seed: int, bits: int, groups: int, rows: int) -> None:
    weight, h = problem(rows, 16, seed)
    step = np.repeat(np.random.default_rng(seed).uniform(0.05, 0.4, (rows, groups)), 16 // groups, axis=1)
    assert np.array_equal(solve(weight, h, step, largest(bits)), solve_naive(weight, h, step, largest(bits)))


def test_one_group_per_row_is_the_artifacts_grid() -> None:
    weight, h = problem(5, 24, 3)
    for with_gptq in (False, True):
        found = lab.quantise(weight, lab.Rule(6, 9.0, 0, with_gptq), h)
        grid = gptq(weight, h, 6, 9.0) if with_gptq else round_to_grid(weight, 6, 9.0)
        assert np.array_equal(found.symbols, grid.symbols)
        assert np.array_equal(found.step[:, 0], grid.scale)
        assert np.array_equal(found.dequantise(), grid.dequantise())


@given(bits=st.integers(3, 8), group=st.sampled_from([0, 4, 8, 7]), seed=st.integers(0, 20))
@settings(max_examples=examples(40), deadline=None)
def test_the_largest_weight_is_not_clipped(bits: int, group: int, seed: int) -> None:
    weight, _ = problem(3, 16, seed)
    found = lab.quantise(weight, lab.Rule(bits, 0.0, group), None)
    assert found.step.shape == (3, 16 // group if group and 16 % group == 0 else 1)
    assert np.abs(found.symbols).max() <= largest(bits)
    assert (np.abs(found.dequantise() - weight) <= 0.51 * found.steps * (1 + 2**-9)).all() or bits == 3
    lo, counts = coder.frequencies(found.symbols)
    words = coder.encode(found.symbols, lo, counts)
    assert found.coded_bytes == len(words) + 2 * len(counts) + 2 * found.step.size


def test_lqer_takes_the_best_low_rank_part() -> None:
    rng = np.random.default_rng(0)
    error = rng.normal(size=(30, 5)) @ rng.normal(size=(5, 40)) + 0.01 * rng.normal(size=(30, 40))
    singular = np.linalg.svd(error, compute_uv=False)
    for rank in (1, 3, 5):
        found = lqer.correction(error, rank)
        left = np.linalg.norm(error - found.dense())
        best = float(np.sqrt((singular[rank:] ** 2).sum()))
        assert best <= left <= best + 0.02 * float(singular[0])
        assert found.bytes == rank * 70 + 4 * rank
        back, size = lqer.unpack(memoryview(found.pack() + b"rest"), 30, 40)
        assert size == len(found.pack()) == found.bytes + 2
        assert np.array_equal(back.dense(), found.dense())
    assert lqer.largest_errors({"a": error, "b": 2 * error, "c": 0 * error}, 2) == ["b", "a"]


def test_pruning_zeroes_the_cheapest_ones() -> None:
    symbols = np.array([[1, -1, 5, 0], [1, 2, -1, -1]], np.int32)
    grids = {"w": Grid(symbols, np.array([0.5, 2.0], np.float16), 6)}
    assert refine.prune(grids, 0.4)["w"].symbols.tolist() == [[0, 0, 5, 0], [1, 2, -1, -1]]
    assert refine.prune(grids, 0.0)["w"].symbols.tolist() == symbols.tolist()
    power = {"w": np.array([100.0, 1.0, 1.0, 1e-3])}
    assert refine.prune(grids, 0.2, power)["w"].symbols.tolist() == [[1, -1, 5, 0], [1, 2, -1, 0]]
    everything = refine.prune(grids, 1.0)["w"].symbols
    assert everything.tolist() == [[0, 0, 5, 0], [0, 2, 0, 0]]


def test_random_steps_are_kept_only_when_the_loss_falls() -> None:
    rng = np.random.default_rng(1)
    goal = rng.integers(-3, 4, (6, 6)).astype(np.float32)
    grids = {"w": Grid(np.zeros((6, 6), np.int32), np.ones(6, np.float16), 3)}

    def loss(tried: dict[str, Grid]) -> float:
        return float(np.square(tried["w"].dequantise() - goal).sum())

    moved, kept = refine.step_bins(grids, loss, trials=400, bins=1, seed=0)
    assert kept == sorted(kept, reverse=True)
    assert loss(moved) == kept[-1] < 0.3 * loss(grids)
    assert np.abs(moved["w"].symbols).max() <= 3
    again = refine.step_bins(grids, loss, trials=400, bins=1, seed=0)
    assert np.array_equal(again[0]["w"].symbols, moved["w"].symbols)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {n: rng.normal(size=s).astype(np.float32) for n, s in parameter_shapes(SMALL).items()}
    return found | {"embed.weight": rng.standard_t(4, size=(260, 32)).astype(np.float32)}


@pytest.mark.parametrize("wanted", [9_000, 12_000])
def test_k_is_bisected_to_a_byte_target(wanted: int) -> None:
    tensors, calls = weights(), list[Export]()

    def write(export: Export) -> int:
        """A writer with a constant part and a payload one percent above the nearest rounding's."""
        calls.append(export)
        return 700 + round(1.01 * target.nearest_bytes(tensors, export))

    fitted, size = target.fit(tensors, Export(matrix_k=10.0, embed_k=20.0), wanted, write)
    assert 0.995 * wanted <= size <= wanted
    assert calls[-1] == fitted
    assert len(calls) <= target.ROUNDS + 1
    assert fitted.embed_k == pytest.approx(2 * fitted.matrix_k)


def test_a_target_that_cannot_be_met_is_refused_and_a_loose_one_stays_fine() -> None:
    tensors = weights()

    def write(export: Export) -> int:
        return 5000 + round(target.nearest_bytes(tensors, export))

    with pytest.raises(BudgetError, match="too few at any k"):
        target.fit(tensors, Export(), 5010, write)
    fitted, size = target.fit(tensors, Export(matrix_k=10.0, embed_k=20.0), 1_000_000, write)
    assert fitted.matrix_k == pytest.approx(target.LEAST_K)
    assert size < 1_000_000


def test_bytes_are_those_of_all_rows_when_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"blocks.0.mlp.up.weight": np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)}
    whole = target.nearest_bytes(tensors, Export())
    monkeypatch.setattr(target, "SAMPLE", 1 << 14)
    assert target.nearest_bytes(tensors, Export()) == pytest.approx(whole, rel=0.01)


def test_every_parameter_is_a_grid_or_small() -> None:
    config = GPTConfig(bigram_buckets=64, value_embeds=2, unet=True, tied=False, engram_buckets=32)
    grids = {n: s for n, s in parameter_shapes(config).items() if is_grid(n, s)}
    assert all(np.prod(s) < 4096 for n, s in parameter_shapes(config).items() if n not in grids)
    export = Export(matrix_bits=5, embed_bits=8)
    eight = {n for n in grids if bits_and_k(n, export)[0] == 8}
    assert eight == {
        "embed.weight",
        "lm_head.weight",
        "bigram.table.weight",
        "values.table.weight",
        "engram.table.weight",
    }


def test_the_model_writes_its_own_calibration_text() -> None:
    torch.manual_seed(0)
    model = GPT(SMALL)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    rows = generated(model, 3, 40, seed=5)
    assert rows.shape == (3, 40)
    assert (rows[:, 0] == 1).all()
    assert not (rows[:, 1:] == 1).any(), "one document a row"
    assert torch.equal(rows, generated(model, 3, 40, seed=5))
    assert not torch.equal(rows, generated(model, 3, 40, seed=6))


def test_gptq_on_validation_text_is_refused(tmp_path: Path) -> None:
    texts = [" ".join(f"word{(i * 37 + j * j) % 211}" for j in range(80)) for i in range(4)]
    for name, rows in (("train", texts[:3]), ("val", texts[3:]), ("leak", [texts[0], texts[3] + " more"])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in rows))
    tokenizer = ByteTokenizer()
    train, val, leak = (tmp_path / f"{n}.jsonl" for n in ("train", "val", "leak"))
    batches = text_batches([train], [val], tokenizer, 300, 64, rows=3)
    assert [tuple(b.shape) for b in batches] == [(3, 64), (1, 64)]
    assert tokenizer.decode_bytes(batches[0][0].numpy()[1:]).decode() == texts[0][:63]
    for files in ([val], [train, leak]):
        with pytest.raises(InputError, match="GPTQ would be calibrated on validation text"):
            text_batches(files, [val], tokenizer, 300, 64)
    with pytest.raises(InputError, match="one row needs 100000"):
        text_batches([train], [val], tokenizer, 300, 100_000)


def test_a_recipe_can_name_the_bytes_of_its_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evalkit.train.__main__ import main

    text = tmp_path / "t.jsonl"
    text.write_text(
        "\n".join(json.dumps({"text": f"line {i} of a text about {i * 7 % 11} things. " * 8}) for i in range(150))
    )
    command = ["--recipe", "smoke", "--data", str(text), "--set", "run.steps=6", "--set", "run.tokens_per_step=128"]
    command += ["--set", "model.vocab_size=320", "--out", str(tmp_path / "a")]
    assert main([*command, "--set", "export.target_bytes=60000"]) == 0
    size = (tmp_path / "a" / "model.ek").stat().st_size
    assert 59_700 <= size <= 60_000
    assert "of 60000 bytes" in (tmp_path / "a" / "train.log").read_text()
    assert main([*command, "--set", "export.target_bytes=5000"]) == 1
    assert "too few at any k" in capsys.readouterr().err
