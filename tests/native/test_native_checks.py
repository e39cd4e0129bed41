"""Do the kernels refuse every array that is not exactly what they were promised?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit import _native


def ppm() -> _native.DirichletPpm:
    core = _native.DirichletPpm(
        vocab=10, orders=[2, 3], strength=[4.0, 4.0], min_count=1, bytes=1 << 22, expected_tokens=0
    )
    core.begin(0)
    return core


def test_log_is_the_c_librarys_whatever_the_shape() -> None:
    p = np.random.default_rng(0).random((37, 11))
    got = _native.neg_log(p)
    assert got.shape == p.shape
    assert got.ravel().tolist() == [-math.log(v) for v in p.ravel()]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e305, max_value=1e305), max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_sums_are_those_of_fsum(values: list[float], cuts: list[int]) -> None:
    edges = np.array(sorted({0, *(min(c, len(values)) for c in cuts), len(values)}))
    want = [math.fsum(values[a:b]) for a, b in itertools.pairwise(edges.tolist())]
    assert _native.exact_sums(np.array(values, np.float64), edges).tolist() == want


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_those_of_fsum_where_they_are_hard(seed: int) -> None:
    """Ties, cancellation, subnormal numbers, carries through many words."""
    draw = np.random.default_rng(seed)
    x = np.ldexp(draw.integers(-(1 << 53), 1 << 53, (3, 400)).astype(np.float64), draw.integers(-1100, 900, (3, 400)))
    x[1] = np.where(draw.random(400) < 0.5, 1.0, 2.0**-53) * draw.choice([-1.0, 1.0], 400)
    x[2, 200:] = -x[2, :200][::-1]
    x[2, 0] += draw.choice([0.0, 5e-324, 2.0**-1074])
    assert _native.exact_sums(x, np.array([0, 400])).tolist() == [[math.fsum(row)] for row in x]
    row = draw.dirichlet(np.full(4096, 0.1))
    assert _native.exact_sums(row, np.array([0, 4096]))[0] == math.fsum(row)


def test_sums_refuse_edges_outside_and_pass_on_what_is_not_finite() -> None:
    for edges in ([0, 5], [2, 1], [-1, 2]):
        with pytest.raises(ValueError, match=r"edges must rise within 0..4"):
            _native.exact_sums(np.ones(4), np.array(edges))
    found = _native.exact_sums(np.array([1.0, np.inf, np.nan, 2.0]), np.array([0, 2, 4, 4]))
    assert found[0] == np.inf
    assert np.isnan(found[1])
    assert found[2] == 0.0


@pytest.mark.parametrize(
    ("tokens", "cands", "p", "error"),
    [
        (np.zeros(2, np.int64), None, np.zeros((2, 10)), TypeError),
        (np.zeros(2, np.int32), None, np.zeros((2, 10), np.float32), TypeError),
        (np.zeros(4, np.int32)[::2], None, np.zeros((2, 10)), TypeError),
        (np.zeros(2, np.int32), None, np.asfortranarray(np.zeros((2, 10))), TypeError),
        (np.zeros((2, 1), np.int32), None, np.zeros((2, 10)), ValueError),
        (np.zeros(2, np.int32), None, np.zeros((2, 9)), ValueError),
        (np.zeros(2, np.int32), None, np.zeros((3, 10)), ValueError),
        (np.zeros(2, np.int32), None, np.zeros(10), ValueError),
        (np.zeros(2, np.int32), np.zeros((2, 2), np.int64), np.zeros((2, 2)), TypeError),
        (np.zeros(2, np.int32), np.zeros((2, 3), np.int32), np.zeros((2, 2)), ValueError),
        (np.array([0, 10], np.int32), None, np.zeros((2, 10)), ValueError),
        (np.array([0, -1], np.int32), None, np.zeros((2, 10)), ValueError),
        (np.zeros(2, np.int32), np.array([[0, -2], [0, 0]], np.int32), np.zeros((2, 2)), ValueError),
        (np.zeros(2, np.int32), np.array([[0, 10], [0, 0]], np.int32), np.zeros((2, 2)), ValueError),
    ],
)
def test_wrong_arrays_are_refused(tokens: np.ndarray, cands: object, p: np.ndarray, error: type) -> None:
    with pytest.raises(error):
        ppm().score(tokens, cands, p)  # type: ignore[arg-type]


def test_a_refused_call_counts_nothing() -> None:
    core = ppm()
    with pytest.raises(ValueError, match=r"tokens\[1\] is 10, outside the vocabulary of 10"):
        core.observe(np.array([1, 10], np.int32))
    assert core.grams == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (1, [2], [4.0], 1, 1 << 22, 0),
        (1 << 19, [2], [4.0], 1, 1 << 30, 0),
        (10, [], [], 1, 1 << 22, 0),
        (10, [2], [4.0, 4.0], 1, 1 << 22, 0),
        (10, [3, 2], [4.0, 4.0], 1, 1 << 22, 0),
        (10, [25], [4.0], 1, 1 << 22, 0),
        (10, [2], [0.0], 1, 1 << 22, 0),
        (10, [2], [math.nan], 1, 1 << 22, 0),
        (10, [2], [4.0], 1, 100, 0),
    ],
)
def test_wrong_construction_is_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError):
        _native.DirichletPpm(
            **dict(
                zip(("vocab", "orders", "strength", "min_count", "bytes", "expected_tokens"), arguments, strict=False)
            )
        )


def test_a_row_needs_a_row() -> None:
    with pytest.raises(ValueError):
        ppm().row(np.zeros(9))
    with pytest.raises(ValueError):
        ppm().begin(10)
