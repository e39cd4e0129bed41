"""One pass over rows of logits: equal to its twin bit for bit, to mpmath within what it states, on every instruction set."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from evalkit import _native
from tests.twins.rows import NaiveRow, exp_values, probabilities

FLOOR = 1e-300
SHAPES = [(1, 1), (2, 3), (3, 15), (2, 16), (3, 17), (2, 31), (2, 33), (2, 64), (2, 127), (1, 1000), (2, 2048)]


def logits(n: int, vocab: int, seed: int = 0, width: float = 5.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, vocab)) * width).astype(np.float32)
    x[:, rng.integers(0, vocab, vocab // 4)] -= np.float32(200.0)  # below the deepest term
    return x


def bits(arrays: tuple) -> list[bytes]:
    return [b"" if a is None else a.tobytes() for a in arrays]


@pytest.mark.parametrize("isa", _native.row_isas())
@pytest.mark.parametrize(("n", "vocab"), SHAPES)
def test_a_row_has_the_bits_of_its_twin(isa: str, n: int, vocab: int) -> None:
    x = logits(n, vocab, seed=vocab)
    group = np.random.default_rng(1).random(vocab) < 0.3
    exponents = [0.5, 1.125]
    got = _native.row_sums(x, groups=[group, ~group], exponents=exponents, weights=True, isa=isa)
    lse, entropy, top, masses, powers, weights, factors = got
    for i in range(n):
        twin = NaiveRow(x[i])
        assert (lse[i], entropy[i], top[i], factors[i]) == (twin.lse, twin.entropy, twin.top, twin.factor)
        assert masses[:, i].tolist() == [twin.mass(group), twin.mass(~group)]
        assert powers[:, i].tolist() == twin.powers(exponents)
        assert weights[i].tobytes() == twin.weights.tobytes()
        want = probabilities(x[i], twin.lse, FLOOR)
        assert (
            _native.row_probabilities(x[i : i + 1], lse=lse[i : i + 1], floor=FLOOR, isa=isa)[0].tolist()
            == want.tolist()
        )


def test_rows_in_any_company_stride_or_number_of_threads_have_the_same_bits() -> None:
    wide = logits(37, 1031)
    x = wide[:, :1000]
    group = np.arange(1000) % 3 == 0
    keep = {"groups": [group], "exponents": [0.75], "weights": True}
    want = bits(_native.row_sums(np.ascontiguousarray(x), **keep))
    for threads in (1, 2, 3, 64):
        assert bits(_native.row_sums(x, **keep, threads=threads)) == want
    one = _native.row_sums(x[5:6], **keep)
    all_rows = _native.row_sums(x, **keep)
    assert one[0][0] == all_rows[0][5]
    assert one[5][0].tobytes() == all_rows[5][5].tobytes()
    lse = all_rows[0]
    p = _native.row_probabilities(x, lse=lse, floor=FLOOR)
    assert p.tobytes() == _native.row_probabilities(x, lse=lse, floor=FLOOR, threads=3).tobytes()


@pytest.mark.parametrize("isa", _native.row_isas())
def test_exp_is_within_one_ulp_and_has_the_bits_of_its_twin(isa: str) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([-rng.gamma(1.0, 20.0, 3000), rng.uniform(-708, 709, 3000), [0.0, -0.0, -708.0, 709.0]])
    got = _native.exp_values(x, isa=isa)
    assert got.tobytes() == exp_values(x).tobytes()
    with mpmath.workdps(40):
        worst = max(
            abs(mpmath.mpf(y) - mpmath.exp(mpmath.mpf(v))) / mpmath.mpf(math.ulp(y))
            for v, y in zip(x.tolist(), got.tolist(), strict=True)
        )
    assert worst < 1.0
    assert (
        _native.exp_values(np.array([-1e9, -math.inf]), isa=isa).tolist()
        == [_native.exp_values(np.array([-708.0]))[0]] * 2
    )
    assert math.isnan(_native.exp_values(np.array([math.nan]), isa=isa)[0])


def test_sums_are_as_exact_as_stated() -> None:
    """lse and entropy within 3e-14 (1 + |value|), of which the eight-term exp has 2.5e-14; p from lse sums to 1."""
    for seed, vocab, width in ((0, 50, 1.0), (1, 300, 4.0), (2, 700, 12.0)):
        x = logits(2, vocab, seed, width)
        lse, entropy, _, _, powers, *_ = _native.row_sums(x, exponents=[0.7])
        for i, row in enumerate(x.tolist()):
            with mpmath.workdps(40):
                terms = [mpmath.exp(mpmath.mpf(v)) for v in row]
                total = mpmath.fsum(terms)
                want = mpmath.log(total)
                spread = mpmath.fsum(-t / total * (mpmath.mpf(v) - want) for t, v in zip(terms, row, strict=True))
                power = mpmath.log(mpmath.fsum((t / total) ** mpmath.mpf(0.7) for t in terms))
                assert abs(lse[i] - want) < 3e-14 * (1 + abs(want))
                assert abs(entropy[i] - spread) < 3e-14 * (1 + abs(want))
                assert abs(powers[0, i] - power) < 1e-13 * (1 + abs(want))
        p = _native.row_probabilities(x, lse=lse, floor=FLOOR)
        np.testing.assert_allclose([math.fsum(row) for row in p], 1.0, rtol=0, atol=1e-13)


def test_chosen_columns_are_the_logit_minus_lse() -> None:
    x = logits(4, 100)
    lse = _native.row_sums(x)[0]
    ids = np.array([[3, -1, 99], [0, 0, 0], [50, 1, 2], [7, 8, 9]], np.int32)
    got = _native.row_pick(x, lse=lse, ids=ids)
    want = x.astype(np.float64)[np.arange(4)[:, None], np.maximum(ids, 0)] - lse[:, None]
    assert got.tolist() == want.tolist()
    p = _native.row_probabilities(x, lse=lse, floor=FLOOR)
    assert _native.exp_values(got).tolist() == p[np.arange(4)[:, None], np.maximum(ids, 0)].tolist()


def test_half_precision_is_read_as_the_float32_of_the_same_value() -> None:
    x = logits(3, 77)
    half = x.astype(np.float16)
    half[0, :4] = [6e-8, -6e-5, 65504.0 / 1000, 0.0]  # subnormals too
    brain = (x.view(np.uint32) >> 16).astype(np.uint16)
    for narrow, wide in (
        (half, half.astype(np.float32)),
        (brain, (brain.astype(np.uint32) << 16).view(np.float32)),
    ):
        want = _native.row_sums(wide, weights=True)
        assert bits(_native.row_sums(narrow, weights=True, threads=2)) == bits(want)
        ids = np.array([[0], [5], [76]], np.int32)
        assert (
            _native.row_pick(narrow, lse=want[0], ids=ids).tolist()
            == _native.row_pick(wide, lse=want[0], ids=ids).tolist()
        )


@pytest.mark.parametrize("isa", _native.row_isas())
@pytest.mark.parametrize("vocab", [5, 16, 40, 200])
def test_a_row_that_is_not_finite_shows_and_a_masked_id_does_not(isa: str, vocab: int) -> None:
    for at in range(0, vocab, 3):
        for bad in (math.nan, math.inf):
            x = logits(1, vocab)
            x[0, at] = bad
            assert not math.isfinite(_native.row_sums(x, isa=isa)[0][0])
        x = logits(1, vocab)
        x[0, at] = -math.inf
        lse, entropy, top, *_ = _native.row_sums(x, isa=isa)
        x[0, at] = -1e30
        assert (lse[0], entropy[0], top[0]) == tuple(a[0] for a in _native.row_sums(x, isa=isa)[:3])
    assert not math.isfinite(_native.row_sums(np.full((1, vocab), -math.inf, np.float32), isa=isa)[0][0])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: _native.row_sums(np.zeros((2, 3))), TypeError, "float32"),
        (lambda: _native.row_sums(np.zeros(3, np.float32)), ValueError, "2 dimensions"),
        (lambda: _native.row_sums(np.zeros((2, 0), np.float32)), ValueError, "columns"),
        (lambda: _native.row_sums(np.zeros((4, 6), np.float32)[:, ::2]), ValueError, "side by side"),
        (lambda: _native.row_sums(np.zeros((4, 6), np.float32)[::-1]), ValueError, "in order"),
        (lambda: _native.row_sums(np.zeros((2, 3), np.float32), groups=[np.ones(4, bool)]), ValueError, "group"),
        (lambda: _native.row_sums(np.zeros((2, 3), np.float32), exponents=[0.0]), ValueError, "exponents"),
        (lambda: _native.row_sums(np.zeros((2, 3), np.float32), isa="mmx"), ValueError, "row_isas"),
        (
            lambda: _native.row_pick(np.zeros((2, 3), np.float32), lse=np.zeros(2), ids=np.full((2, 1), 3, np.int32)),
            ValueError,
            "outside",
        ),
        (
            lambda: _native.row_pick(np.zeros((2, 3), np.float32), lse=np.zeros(1), ids=np.zeros((2, 1), np.int32)),
            ValueError,
            "lse",
        ),
        (
            lambda: _native.row_probabilities(np.zeros((2, 3), np.float32), lse=np.zeros(3), floor=0.0),
            ValueError,
            "lse",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def bias_of(vocab: int, stride: int, previous: float) -> _native.LogBias:
    core = _native.LogBias(
        vocab=vocab,
        bos=1,
        stride=stride,
        fisher=True,
        rate=0.03,
        global_prior=16.0,
        document_prior=5.0,
        previous_prior=previous,
        keep=0.5,
        bytes=1 << 24,
    )
    core.begin(0)
    return core


@pytest.mark.parametrize("isa", _native.row_isas())
@pytest.mark.parametrize(("vocab", "stride", "previous"), [(5, 1, 0.0), (37, 16, 0.0), (257, 100, 0.0), (64, 7, 2.0)])
def test_log_bias_by_strides_has_the_bits_of_row_by_row(isa: str, vocab: int, stride: int, previous: float) -> None:
    rng = np.random.default_rng(vocab)
    n = 230
    *_, weights, factors = _native.row_sums(logits(n, vocab), weights=True)
    assert weights is not None
    assert factors is not None
    p = weights.astype(np.float64) * factors[:, None]
    tokens = rng.integers(0, vocab, n).astype(np.int32)
    cands = np.concatenate((tokens[:, None], rng.integers(-1, vocab, (n, 2)).astype(np.int32)), axis=1)
    slow = bias_of(vocab, stride, previous)
    rows = slow.score(tokens, p)
    want = np.where(cands < 0, 0.0, np.take_along_axis(rows, np.maximum(cands, 0), axis=1))
    for cells, scale in ((weights, factors), (p, None)):
        fast = bias_of(vocab, stride, previous)
        got = [
            fast.score_columns(
                tokens=tokens[a:b],
                cands=cands[a:b],
                rows=cells[a:b],
                factors=None if scale is None else scale[a:b],
                isa=isa,
            )
            for a, b in ((0, 1), (1, 100), (100, n))
        ]
        assert np.concatenate(got).tolist() == want.tolist()
        assert fast.state().tobytes() == slow.state().tobytes()
