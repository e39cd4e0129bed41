"""Does the sentinel count its rows rightly, and does looking at more of them change no score?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapters.base import Side
from evalkit.models.rows import Answer
from evalkit.scoring.calibration import EDGES, Calibration
from evalkit.scoring.loop import _pieces
from evalkit.scoring.sentinel import ENTRIES, ROW_EVERY, Sentinel, rows_a_chunk
from tests.kit import golf
from tests.twins.calibration import calibration_naive


@given(seed=st.integers(0, 2**32), n=st.integers(1, 6), vocab=st.integers(2, 40), sharp=st.floats(0.1, 12))
def test_counts_equal_the_plain_twin(seed: int, n: int, vocab: int, sharp: float) -> None:
    draw = np.random.default_rng(seed)
    rows = np.exp(draw.normal(size=(n, vocab)) * sharp)
    rows /= rows.sum(-1, keepdims=True)
    tokens = draw.integers(0, vocab, n)
    fast = Calibration(("model",))
    for row, token in zip(rows, tokens, strict=True):
        fast.add(0, row, int(token))
    found = fast.as_dict()["stages"][0]
    for i, (entries, expected, variance, hits) in enumerate(calibration_naive(rows.tolist(), tokens.tolist())):
        assert (found["entries"][i], found["hits"][i]) == (entries, hits)
        assert found["expected"][i] == pytest.approx(expected, rel=1e-12, abs=1e-300)
        assert found["variance"][i] == pytest.approx(variance, rel=1e-9, abs=1e-15)
    assert sum(found["hits"]) == n
    assert sum(found["expected"]) == pytest.approx(n)


def test_a_probability_on_an_edge_belongs_above_it() -> None:
    fast = Calibration(("model",))
    row = np.array([EDGES[6], EDGES[12], 0.0])
    fast.add(0, row, 2)
    assert fast.entries[0].nonzero()[0].tolist() == [0, 7, 13]


def test_drawing_from_the_rows_is_called_calibrated() -> None:
    draw, fast = np.random.default_rng(1), Calibration(("true", "sharpened"))
    for _ in range(2000):
        row = draw.dirichlet(np.full(50, 0.1))
        token = int(draw.choice(50, p=row))
        fast.add(0, row, token)
        fast.add(1, row**2 / (row**2).sum(), token)
    z = (fast.hits - fast.expected) / np.sqrt(np.maximum(fast.variance, 1e-9))
    seen = fast.expected > 1
    assert np.abs(z[0][seen[0]]).max() < 4
    assert np.abs(z[1][seen[1]]).max() > 10


@given(lo=st.integers(0, 50), n=st.integers(1, 60), probes=st.lists(st.integers(0, 120), max_size=12))
def test_pieces_cover_a_batch_and_begin_at_every_probe(lo: int, n: int, probes: list[int]) -> None:
    inside = {p for p in probes if lo <= p < lo + n}
    rows = Answer(lo, np.zeros((n, 1), np.int32), np.zeros((n, 1)), Side(), probed={p: np.ones(1) for p in inside})
    pieces = list(_pieces(rows))
    assert [a for a, _ in pieces] + [n] == [0] + [b for _, b in pieces]
    assert all(a < b for a, b in pieces)
    assert {lo + a for a, _ in pieces} == {lo} | inside


@pytest.mark.parametrize(
    ("targets", "chunk", "vocab", "rows"),
    [(65_536, 8192, 1024, 128), (1_000_000, 8192, 1024, 34), (62_000_000, 8192, 1024, 1), (1000, 64, 260, 1)],
)
def test_rows_a_chunk_are_bounded_in_number_and_in_work(targets: int, chunk: int, vocab: int, rows: int) -> None:
    assert rows_a_chunk(targets, chunk, vocab) == rows
    assert rows <= max(1, chunk // ROW_EVERY)
    assert rows_a_chunk(targets, chunk, ENTRIES) == 1


@given(chunk=st.integers(0, 1000), lo=st.integers(1, 5000), n=st.integers(1, 300), rows=st.integers(1, 40))
def test_positions_are_drawn_from_seed_and_chunk_alone(chunk: int, lo: int, n: int, rows: int) -> None:
    found = Sentinel(3, ("model",), rows=rows).positions(chunk, lo, lo + n)
    assert found == sorted(set(found))
    assert len(found) == min(rows, n)
    assert all(lo <= p < lo + n for p in found)
    assert found == Sentinel(3, ("model",), rows=rows).positions(chunk, lo, lo + n)
    assert Sentinel(3, ("model",), enabled=False, rows=rows).positions(chunk, lo, lo + n) == []


def test_more_rows_change_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    import evalkit
    from evalkit.models.golf import build
    from evalkit.scoring import run as module
    from evalkit.stream import Stream, open_tokenizer

    model = build(golf(width=32, layers=1, hidden=48).state_dict(), {}, "test").to("cpu")
    tokens = np.concatenate(([1], np.random.default_rng(0).integers(4, 40, 700))).astype(np.uint16)
    starts, sizes = np.array([0]), np.array([700])
    stream = Stream(tokens, open_tokenizer("byte"), starts, sizes, ("one",), "tokenizer", ("memory",))
    plan = evalkit.parse_plan("disjoint:seq_len=64")
    options = evalkit.ScoreOptions(chunk_tokens=256)

    def run(rows: int) -> dict:
        monkeypatch.setattr(module, "rows_a_chunk", lambda *_: rows)
        return evalkit.score(model, stream, [evalkit.make_adapter("ppm")], plan, options=options).run

    one, many = run(1), run(100)
    assert one["totals"] == many["totals"]
    assert many["verdicts"]["sentinel"]["rows"] == 300
    stages = many["verdicts"]["sentinel"]["calibration"]["stages"]
    assert [s["stage"] for s in stages] == ["model", "ppm"]
    assert all(sum(s["hits"]) == 300 for s in stages)
