"""Does a learned bias, exponent or weight do what its page says?  Cases small enough to see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evalkit.adapters.base import Side, StreamInfo, TokenChunk
from evalkit.adapters.registry import make_adapter, parse_adapter
from evalkit.errors import EvalkitError, InputError

INFO = StreamInfo(vocab_size=4, bos_id=1, first_token=1)
FLAT = np.full(4, 0.25)


def opened(spec: str, info: StreamInfo = INFO) -> Any:
    expert = parse_adapter(spec)
    expert.begin(info)
    return expert


def scored(expert: Any, tokens: list[int], p: np.ndarray = FLAT, side: Side | None = None) -> np.ndarray:
    x = np.array(tokens, np.int32)
    side = side or Side(entropy=np.full(len(x), 1.4), top_id=np.zeros(len(x), np.int32))
    return expert.score(TokenChunk(x, None, side), np.tile(p, (len(x), 1)))


def test_the_bias_moves_once_a_stride_by_gradient_over_curvature() -> None:
    out = scored(opened("log_bias:stride=2,global_prior=8,document_prior=0"), [2, 2, 3])
    np.testing.assert_array_equal(out[:2], [FLAT, FLAT])
    scale = 8 + 2 * 0.25 * 0.75
    want = np.exp([-0.5 / scale, -0.5 / scale, 1.5 / scale, -0.5 / scale])
    np.testing.assert_allclose(out[2], want / want.sum(), rtol=1e-14)


def test_the_stride_is_counted_along_the_stream_not_the_chunk() -> None:
    expert = opened("log_bias:stride=4")
    parts = [scored(expert, [2]), scored(expert, [2, 2]), scored(expert, [2, 3])]
    assert (np.concatenate(parts)[:4] == FLAT).all()
    assert parts[2][1][2] > 0.25


def test_the_documents_bias_starts_anew_after_bos() -> None:
    out = scored(opened("log_bias:stride=2,global_prior=0"), [2, 2, 1, 3])
    assert out[2][2] > 0.3
    np.testing.assert_allclose(out[3], FLAT, rtol=1e-15)
    kept = scored(opened("log_bias:stride=2,global_prior=0,keep=0.5"), [2, 2, 1, 3])
    odds = lambda row: math.log(row[2] / row[0])  # noqa: E731
    assert odds(kept[3]) == pytest.approx(0.5 * odds(kept[2]))


def test_without_a_bos_id_the_document_never_ends() -> None:
    out = scored(opened("log_bias:stride=1,global_prior=0", StreamInfo(4, -1, 0)), [2, 2, 1, 1, 3])
    assert out[4][1] > 0.25


def test_a_bias_that_is_right_on_average_stays_near_zero() -> None:
    """The gradient is a residual: a calibrated row learns nothing, however frequent a token is."""
    p = np.array([0.7, 0.1, 0.1, 0.1])
    tokens = np.random.default_rng(0).choice(4, 4000, p=p)
    out = scored(opened("log_bias:document_prior=0", StreamInfo(4, -1, 0)), tokens.tolist(), p)
    np.testing.assert_allclose(out[-1], p, atol=0.02)


def test_the_bias_after_each_token_learns_who_follows_whom() -> None:
    expert = opened("log_bias:global_prior=0,document_prior=0,previous_prior=1", StreamInfo(4, -1, 0))
    out = scored(expert, [2, 3] * 50)
    assert out[-1][3] > 0.9
    assert out[-2][2] > 0.9


def test_the_bias_after_each_token_is_bounded() -> None:
    expert = opened("log_bias:previous_prior=4,memory_mib=0")
    assert expert._core.previous_rows == 0
    np.testing.assert_array_equal(scored(expert, [2, 3] * 20), scored(opened("log_bias"), [2, 3] * 20))
    assert expert._core.previous_rows == 0
    small = opened("log_bias:previous_prior=4,memory_mib=1", StreamInfo(20_000, 1, 0))
    p = np.full((9, 20_000), 1 / 20_000)
    small.score(TokenChunk(np.arange(9, dtype=np.int32), None, Side()), p)
    assert small._core.previous_rows == 3  # 2 * 8 * 20,000 bytes each


def test_a_fixed_temperature_is_the_power_of_the_row() -> None:
    p = np.array([0.4, 0.3, 0.2, 0.1])
    out = scored(opened("temperature:learn=false,temperature=2"), [0, 1], p)
    want = np.sqrt(p) / np.sqrt(p).sum()
    np.testing.assert_allclose(out, [want, want], rtol=1e-14)


def test_a_row_that_is_too_sure_is_softened() -> None:
    p = np.array([0.97, 0.01, 0.01, 0.01])
    tokens = np.random.default_rng(0).choice(4, 2000, p=[0.7, 0.1, 0.1, 0.1])
    out = scored(opened("temperature"), tokens.tolist(), p)
    assert 0.6 < out[-1][0] < 0.8


def test_backoff_finds_the_source_that_is_right() -> None:
    out = scored(opened("backoff:order=3"), [2, 3, 0] * 60)
    assert out[-1][0] > 0.9


def test_hedge_gives_the_weight_to_the_stage_that_is_right() -> None:
    expert = opened("hedge:orders=[1],by=[]")
    tokens = np.random.default_rng(1).integers(0, 4, 300).astype(np.int32)
    sure = np.full((300, 4), 0.1)
    sure[np.arange(300), tokens] = 0.7
    flat = np.tile(FLAT, (300, 1))
    out = expert.score(TokenChunk(tokens, None, Side(), 1, (sure,)), flat)
    assert out[-1][tokens[-1]] > 0.65


@pytest.mark.parametrize("spec", ["hedge", "backoff", "log_bias", "temperature"])
def test_a_snapshot_of_another_size_is_refused(spec: str) -> None:
    expert = opened(spec)
    scored(expert, [2, 3])
    state = expert.snapshot()
    none = np.empty(0, np.int32)
    for wrong in (b"", state[:-8], state + bytes(8), b"\xff" * len(state)):
        other = opened(spec)
        with pytest.raises(EvalkitError, match="snapshot"):
            other.restore(wrong, none)


@pytest.mark.parametrize("spec", ["log_bias", "temperature"])
def test_single_columns_are_refused_where_rows_are_needed(spec: str) -> None:
    with pytest.raises(EvalkitError, match="whole rows"):
        opened(spec).score(TokenChunk(np.zeros(1, np.int32), np.zeros((1, 1), np.int32), Side()), np.ones((1, 1)))


@pytest.mark.parametrize("spec", ["hedge", "backoff", "log_bias", "temperature"])
def test_observe_needs_the_row_of_its_target(spec: str) -> None:
    expert = opened(spec)
    scored(expert, [2])
    with pytest.raises(ValueError, match="row"):
        expert._core.observe(2)


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("backoff", {"order": "0"}, "within 1..24, got 0"),
        ("backoff", {"smoothing": "good_turing"}, "smoothing"),
        ("backoff", {"discount": "1"}, "within 0.01..0.99, got 1"),
        ("backoff", {"prior": "nan"}, "prior"),
        ("backoff", {"by": ["entropi"]}, "by"),
        ("hedge", {"orders": [2, 1]}, "rising"),
        ("hedge", {"rate": "2"}, "within 0..1, got 2"),
        ("hedge", {"share": "-1"}, "share"),
        ("log_bias", {"stride": "0"}, "within 1..1e\\+06, got 0"),
        ("log_bias", {"global_prior": "-3"}, "global_prior"),
        ("log_bias", {"global_prior": "0", "document_prior": "0"}, "no bias to learn"),
        ("log_bias", {"presision": "1"}, "no setting 'presision'"),
        ("temperature", {"temperature": "0"}, "within 0.25..100, got 0"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(name: str, raw: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_adapter(name, raw)


@pytest.mark.parametrize("name", ["hedge", "backoff"])
def test_a_bound_that_does_not_hold_the_empty_counts_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="at least memory_mib=1"):
        make_adapter(name, {"memory_mib": "0"}).begin(INFO)


@pytest.mark.parametrize("name", ["hedge", "backoff", "log_bias", "temperature"])
def test_a_vocabulary_beyond_the_kernels_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="262145 ids"):
        make_adapter(name).begin(StreamInfo(262_145, 1, 0))
