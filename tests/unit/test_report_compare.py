"""Is the bootstrap what its plain twin says, does it cover, and are the t tests those of the tables?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.report.seeds import paired_t, student_tail, welch_t
from evalkit.scoring import statistics
from evalkit.units import LN2
from tests.kit import examples
from tests.twins.statistics import paired_interval_naive

DOCUMENT = st.tuples(st.floats(-1e4, 1e4, allow_nan=False), st.integers(0, 10_000))


@settings(max_examples=examples(40))
@given(documents=st.lists(DOCUMENT, max_size=12), seed=st.integers(0, 2**32))
def test_the_interval_equals_the_plain_twin(monkeypatch: pytest.MonkeyPatch, documents: list, seed: int) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 101)
    delta, size = np.array([d for d, _ in documents]), np.array([float(s) for _, s in documents])
    fast = statistics.paired_interval(delta, size, seed)
    plain = paired_interval_naive(delta.tolist(), size.tolist(), seed, 101)
    if plain is None:
        assert fast is None
    else:
        assert fast == pytest.approx(plain, rel=1e-9, abs=1e-9 * max(1.0, float(np.abs(delta).max())))


@given(rate=st.floats(-2, 2), sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=10))
def test_equal_rates_leave_no_doubt(rate: float, sizes: list[int]) -> None:
    size = np.array(sizes, np.float64)
    found = statistics.paired_interval(rate * LN2 * size, size)
    assert found == pytest.approx((rate, rate), rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 1000), shift=st.floats(-1, 1))
@settings(max_examples=examples(10))
def test_a_shift_moves_the_interval(monkeypatch: pytest.MonkeyPatch, seed: int, shift: float) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    draw = np.random.default_rng(seed)
    delta, size = draw.normal(size=20) * 100, draw.integers(50, 5000, 20).astype(float)
    one = statistics.paired_interval(delta, size)
    two = statistics.paired_interval(delta + shift * LN2 * size, size)
    back = statistics.paired_interval(-delta, size)
    assert one is not None
    assert two == pytest.approx((one[0] + shift, one[1] + shift), abs=1e-9)
    assert back == pytest.approx((-one[1], -one[0]), abs=1e-9)


def test_about_95_of_100_intervals_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    draw, held, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        size = draw.lognormal(7, 0.7, 60)
        delta = LN2 * size * draw.normal(-0.01, 0.05, 60)
        interval = statistics.paired_interval(delta, size, trial)
        assert interval is not None
        held += interval[0] <= -0.01 <= interval[1]
    assert 0.90 <= held / trials <= 0.98


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(0.0, 3, 0.5), (6.3138, 1, 0.05), (2.9200, 2, 0.05), (6.9646, 2, 0.01), (-2.2622, 9, 0.975), (2.5835, 16, 0.01)],
)
def test_tails_are_those_of_the_tables(t: float, freedom: int, p: float) -> None:
    assert student_tail(t, freedom) == pytest.approx(p, abs=2e-6)


@given(t=st.floats(-500, 500))
def test_tails_equal_the_closed_forms(t: float) -> None:
    assert student_tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=1e-12)
    assert student_tail(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


@given(t=st.floats(0, 50), freedom=st.floats(1, 200))
def test_tails_fall_and_are_symmetric(t: float, freedom: float) -> None:
    assert student_tail(t, freedom) + student_tail(-t, freedom) == pytest.approx(1.0, abs=1e-12)
    assert student_tail(t + 0.1, freedom) < student_tail(t, freedom) + 1e-15


def test_tests_agree_with_worked_examples() -> None:
    t, p = paired_t(np.array([0.002, 0.001, 0.003]))
    assert t == pytest.approx(2 * math.sqrt(3))
    assert p == pytest.approx(0.0371, abs=1e-4)
    t, p = welch_t(np.array([27.5, 21.0, 19.0, 23.6]), np.array([27.1, 22.0, 20.8, 23.4]))
    assert t == pytest.approx(-0.55 / math.sqrt(13.46917 / 4 + 7.4625 / 4), abs=1e-6)
    assert 0.5 < p < 0.65


def test_no_spread_is_decided_by_the_mean() -> None:
    assert paired_t(np.array([0.1, 0.1])) == (math.inf, 0.0)
    assert paired_t(np.array([0.0, 0.0])) == (0.0, 0.5)
    assert welch_t(np.array([0.1, 0.1]), np.array([0.2, 0.2])) == (-math.inf, 1.0)
