"""Is GPTQ its brute-force twin and better than rounding, and does the coder reach the entropy?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import DivergenceError
from evalkit.models.ek import coder
from evalkit.models.ek.config import GPTConfig, parameter_shapes
from evalkit.models.ek.grid import largest, round_to_grid, sdclip
from evalkit.models.ek.model import GPT
from evalkit.train.quant.calibrate import hessians
from evalkit.train.quant.gptq import gptq
from evalkit.train.quant.plan import quantise
from evalkit.train.recipe import Export
from tests.kit import examples
from tests.twins.gptq import gptq_naive


def problem(rows: int, cols: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weight, inputs, Hessian) with correlated inputs, as hidden states are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * cols, cols)) @ (np.eye(cols) + 0.5 * rng.normal(size=(cols, cols)))
    return rng.normal(size=(rows, cols)).astype(np.float32), x, x.T @ x


@given(rows=st.integers(1, 5), cols=st.integers(2, 20), seed=st.integers(0, 99), bits=st.integers(3, 8))
@settings(max_examples=examples(50), deadline=None)
def test_gptq_is_its_brute_force_twin(rows: int, cols: int, seed: int, bits: int) -> None:
    weight, _, h = problem(rows, cols, seed)
    fast, slow = gptq(weight, h, bits, 8.0), gptq_naive(weight, h, bits, 8.0)
    assert np.array_equal(fast.symbols, slow.symbols)
    assert np.array_equal(fast.scale, slow.scale)


def test_gptq_across_blocks_is_its_twin_and_beats_rounding() -> None:
    weight, x, h = problem(6, 150, 1)
    fast = gptq(weight, h, 4, 6.0)
    assert np.array_equal(fast.symbols, gptq_naive(weight, h, 4, 6.0).symbols)
    rounded = round_to_grid(weight, 4, 6.0)
    lost = [np.linalg.norm(x @ (weight - g.dequantise()).T) for g in (fast, rounded)]
    assert lost[0] < 0.8 * lost[1]


def test_two_columns_by_hand() -> None:
    """Column 1 is rounded first (larger diagonal); column 0 then takes the least-squares share of its error."""
    weight = np.array([[0.7, 1.3], [-0.2, 0.9]], dtype=np.float32)
    h = np.array([[2.0, 1.0], [1.0, 3.0]])
    step = sdclip(weight, 6, 9.0).astype(np.float64)
    damped = h + 0.01 * 2.5 * np.eye(2)
    q1 = np.rint(weight[:, 1].astype(np.float64) / step)
    moved = weight[:, 0] + (weight[:, 1] - q1 * step) * damped[0, 1] / damped[0, 0]
    got = gptq(weight, h, 6, 9.0)
    assert got.symbols[:, 1].tolist() == q1.tolist()
    assert got.symbols[:, 0].tolist() == np.rint(moved / step).tolist()


def test_inputs_that_never_fire_get_zero_weights() -> None:
    weight, _, h = problem(3, 6, 0)
    h[2] = h[:, 2] = 0
    assert not gptq(weight, h, 6, 8.0).symbols[:, 2].any()


@given(bits=st.integers(2, 8), k=st.floats(1, 40), seed=st.integers(0, 9))
@settings(max_examples=examples(40), deadline=None)
def test_rounding_stays_on_the_grid_and_within_half_a_step(bits: int, k: float, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(4, 50)).astype(np.float32)
    grid = round_to_grid(weight, bits, k)
    r = largest(bits)
    assert np.abs(grid.symbols).max() <= r
    inside = np.abs(weight) <= r * grid.scale.astype(np.float32)[:, None]
    error = np.abs(grid.dequantise() - weight) / grid.scale.astype(np.float32)[:, None]
    assert (error[inside] <= 0.5001).all()


@given(
    symbols=st.lists(st.integers(-127, 127), min_size=1, max_size=300),
    copies=st.sampled_from([1, 1000]),
)
@settings(max_examples=examples(60), deadline=None)
def test_symbols_come_back(symbols: list[int], copies: int) -> None:
    array = np.repeat(np.array(symbols, dtype=np.int32), copies)
    lo, table = coder.frequencies(array)
    words = coder.encode(array, lo, table)
    assert np.array_equal(coder.decode(words, len(array), lo, table), array)


def test_the_coder_reaches_the_entropy_and_the_formula() -> None:
    weight = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
    for bits, k, published in ((6, 10.0, 3.686), (6, 12.85, 3.328), (7, 14.0, 4.220), (8, 20.0, 4.715)):
        assert coder.gaussian_bits(bits, k) == pytest.approx(published, abs=6e-4)
        symbols = round_to_grid(weight, bits, k).symbols
        lo, table = coder.frequencies(symbols)
        size = len(coder.encode(symbols, lo, table))
        assert size <= 1.002 * coder.entropy_bytes(symbols)
        assert 8 * size / weight.size == pytest.approx(published, rel=0.005)


def test_calibration_sees_every_matrix_and_leaves_no_hooks() -> None:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=50, layers=2, width=32, head_dim=16, rope_dims=8, gate_dims=6)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    batches = [torch.randint(4, 50, (4, 16)) for _ in range(3)]
    inputs = hessians(model, batches)
    assert set(inputs) == {n for n, s in parameter_shapes(config).items() if n.endswith("weight") and len(s) == 2}
    with torch.no_grad():
        x = torch.cat([model.hidden(b).flatten(0, 1) for b in batches]).double().numpy()
    np.testing.assert_allclose(inputs["embed.weight"], x.T @ x / 3, rtol=1e-4, atol=1e-3)
    assert not any(m._forward_pre_hooks for m in model.modules())
    better = quantise(model, Export(), inputs)
    assert set(better) == set(parameter_shapes(config))


def test_weights_that_are_not_finite_are_not_quantised() -> None:
    model = GPT(GPTConfig(vocab_size=50, layers=1, width=32, head_dim=16, rope_dims=8, gate_dims=6))
    with torch.no_grad():
        model.embed.weight[0, 0] = float("inf")
    with pytest.raises(DivergenceError, match=r"embed.weight holds 1 "):
        quantise(model, Export(), None)
