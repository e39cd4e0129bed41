"""Do the mixing and row kernels refuse every array that is not exactly what they were promised?"""

from __future__ import annotations

import numpy as np
import pytest

from evalkit import _native

ONE = np.zeros(2, np.int32)
P = np.full((2, 10), 0.1)
SIZE = 1 << 22


MIXER = ("vocab", "orders", "smoothing", "discount", "by", "update", "rate", "share", "prior", "bytes")
LOG_BIAS = (
    "vocab", "bos", "stride", "fisher", "rate", "global_prior", "document_prior", "previous_prior", "keep", "bytes"
)  # fmt: skip


def mixer(by: list[str] | None = None) -> _native.Mixer:
    core = _native.Mixer(
        vocab=10,
        orders=[1, 3],
        smoothing="kneser_ney",
        discount=0.75,
        by=by or [],
        update="soft_bayes",
        rate=0.02,
        share=0.0,
        prior=0.1,
        bytes=SIZE,
    )
    core.begin(0)
    return core


def log_bias() -> _native.LogBias:
    return _native.LogBias(
        vocab=10,
        bos=1,
        stride=16,
        fisher=True,
        rate=0.03,
        global_prior=8.0,
        document_prior=4.0,
        previous_prior=0.0,
        keep=0.0,
        bytes=0,
    )


@pytest.mark.parametrize(
    ("tokens", "cands", "p", "history", "error"),
    [
        (ONE.astype(np.int64), None, P, [], TypeError),
        (ONE, None, P.astype(np.float32), [], TypeError),
        (ONE, None, np.asfortranarray(P), [], TypeError),
        (ONE, None, P, [P.astype(np.float32)], TypeError),
        (ONE, None, P, [np.asfortranarray(P)], TypeError),
        (ONE, None, P, [P[:1]], ValueError),
        (ONE, None, P[:, :9].copy(), [], ValueError),
        (ONE, np.zeros((2, 3), np.int32), P[:, :2].copy(), [], ValueError),
        (np.array([0, 10], np.int32), None, P, [], ValueError),
        (ONE, np.array([[0, 10], [0, 0]], np.int32), P[:, :2].copy(), [], ValueError),
    ],
)
def test_wrong_columns_are_refused(tokens: np.ndarray, cands: object, p: object, history: list, error: type) -> None:
    core = mixer()
    with pytest.raises(error):
        core.score(tokens, cands, p, history, None, None)  # type: ignore[arg-type]
    assert core.pairs == 0


@pytest.mark.parametrize(
    ("entropy", "top", "error"),
    [
        (None, ONE, TypeError),
        (np.zeros(2, np.float32), ONE, TypeError),
        (np.zeros(3), ONE, ValueError),
        (np.zeros(2), None, TypeError),
        (np.zeros(2), np.zeros(2, np.int64), TypeError),
        (np.zeros(2), np.zeros(1, np.int32), ValueError),
        (np.zeros(2), np.array([0, 10], np.int32), ValueError),
        (np.zeros(2), np.array([-1, 0], np.int32), ValueError),
    ],
)
def test_buckets_need_their_scalars(entropy: object, top: object, error: type) -> None:
    with pytest.raises(error):
        mixer(["entropy", "agreement"]).score(ONE, None, P, [], entropy, top)  # type: ignore[arg-type]


def test_strange_entropies_find_a_bucket() -> None:
    core = mixer(["entropy"])
    for nats in (np.nan, -1.0, np.inf, 1e300):
        assert np.isfinite(core.score(ONE, None, P, [], np.full(2, nats), None)).all()


def test_the_number_of_stages_may_not_change() -> None:
    core = mixer()
    core.score(ONE, None, P, [P], None, None)
    with pytest.raises(ValueError, match="earlier stages"):
        core.score(ONE, None, P, [], None, None)
    with pytest.raises(ValueError, match="earlier stages"):
        core.row(P[0].copy(), [P[0].copy()] * 2, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        (1, [1], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (1 << 19, [1], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [2, 2], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [25], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [-1], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [1], "good_turing", 0.75, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [1], "kneser_ney", 0.0, [], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [1], "kneser_ney", 0.75, ["mood"], "hedge", 1.0, 0.0, 0.1, SIZE),
        (10, [1], "kneser_ney", 0.75, [], "guess", 1.0, 0.0, 0.1, SIZE),
        (10, [1], "kneser_ney", 0.75, [], "hedge", float("nan"), 0.0, 0.1, SIZE),
        (10, [1], "kneser_ney", 0.75, [], "hedge", 1.0, 1.0, 0.1, SIZE),
        (10, [1], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.0, SIZE),
        (10, [1], "kneser_ney", 0.75, [], "hedge", 1.0, 0.0, 0.1, 100),
    ],
)
def test_wrong_mixers_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError):
        _native.Mixer(**dict(zip(MIXER, arguments, strict=True)))


@pytest.mark.parametrize(
    "arguments",
    [
        (1, 1, 16, True, 0.03, 8.0, 4.0, 0.0, 0.0, 0),
        (10, 1, 0, True, 0.03, 8.0, 4.0, 0.0, 0.0, 0),
        (10, 1, 16, True, 0.0, 8.0, 4.0, 0.0, 0.0, 0),
        (10, 1, 16, True, 0.03, -1.0, 4.0, 0.0, 0.0, 0),
        (10, 1, 16, True, 0.03, 8.0, float("nan"), 0.0, 0.0, 0),
        (10, 1, 16, True, 0.03, 8.0, 4.0, 0.0, 2.0, 0),
    ],
)
def test_wrong_biases_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError):
        _native.LogBias(**dict(zip(LOG_BIAS, arguments, strict=True)))


@pytest.mark.parametrize(
    "core", [log_bias(), _native.Temperature(vocab=10, exponent=1.0, learn=False, anchor=False, prior=100.0)]
)
def test_row_kernels_refuse_wrong_rows(core: _native.LogBias | _native.Temperature) -> None:
    extra = () if isinstance(core, _native.LogBias) else (None, None)
    for tokens, p, error in (
        (ONE, P.astype(np.float32), TypeError),
        (ONE.astype(np.int64), P, TypeError),
        (ONE, P[:, :9].copy(), ValueError),
        (ONE[:1], P, ValueError),
        (np.array([0, 10], np.int32), P, ValueError),
        (np.array([0, -1], np.int32), P, ValueError),
    ):
        with pytest.raises(error):
            core.score(tokens, p, *extra)  # type: ignore[call-arg]
    with pytest.raises(ValueError):
        core.row(P[0, :9].copy(), *extra)  # type: ignore[call-arg]
    with pytest.raises(ValueError):
        core.observe(3)
    with pytest.raises(ValueError):
        core.set_state(np.zeros(5))


def test_learned_exponents_need_the_entropy() -> None:
    core = _native.Temperature(vocab=10, exponent=1.0, learn=True, anchor=True, prior=100.0)
    with pytest.raises(ValueError, match="entropy"):
        core.score(ONE, P, None, None)
    with pytest.raises(ValueError, match="model"):
        core.score(ONE, P, P[:1].copy(), np.zeros(2))
    assert core.score(ONE, P, P, np.zeros(2)).shape == (2, 10)


def test_a_state_that_names_a_token_twice_is_refused() -> None:
    core = _native.LogBias(
        vocab=4,
        bos=-1,
        stride=16,
        fisher=True,
        rate=0.03,
        global_prior=8.0,
        document_prior=4.0,
        previous_prior=1.0,
        keep=0.0,
        bytes=SIZE,
    )
    core.score(np.array([2, 3, 2], np.int32), np.full((3, 4), 0.25))
    state = core.state()
    row = 3 + 9 * 4
    assert (state[2], state[row], state[row + 9]) == (3, 0, 2)
    state[row + 9] = 0
    with pytest.raises(ValueError, match="fit"):
        core.set_state(state)
    state[row + 9] = np.nan
    with pytest.raises(ValueError, match="fit"):
        core.set_state(state)
