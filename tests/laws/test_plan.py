"""Every target is booked exactly once, in order, with a causal window, for any length, stride and chunk size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.plan import Banded, Disjoint, Document, Plan, Sliding, parse_plan

lengths = st.integers(2, 400)
plans = st.one_of(
    st.builds(Disjoint, seq_len=st.integers(1, 70)),
    st.builds(Banded, window=st.integers(1, 40), block=st.integers(1, 90), segment=st.integers(0, 90)),
    st.integers(1, 70).flatmap(lambda L: st.builds(Sliding, seq_len=st.just(L), stride=st.integers(1, L))),
    st.integers(1, 70).flatmap(lambda L: st.builds(Document, seq_len=st.just(L), stride=st.integers(1, L))),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    n = draw(lengths)
    starts = draw(st.sets(st.integers(1, max(1, n - 1)), max_size=6))
    return n, np.array(sorted({0, *(s for s in starts if s < n)}), dtype=np.int64)


@given(plans, streams(), st.integers(1, 200))
def test_chunks_partition_the_targets(plan: Plan, stream: tuple[int, np.ndarray], chunk_tokens: int) -> None:
    n, docs = stream
    chunks = list(plan.chunks(n, docs, chunk_tokens))
    booked = [t for chunk in chunks for window in chunk.windows for t in range(window.lo, window.hi)]
    assert booked == list(range(1, n))
    assert [c.index for c in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert (chunk.lo, chunk.hi) == (chunk.windows[0].lo, chunk.windows[-1].hi)
        assert chunk.hi - chunk.lo <= chunk_tokens or len(list(plan.together(chunk.windows))) == 1


@given(plans, streams(), st.integers(1, 200), st.integers(1, 300))
def test_units_partition_each_chunk_and_start_afresh(
    plan: Plan, stream: tuple[int, np.ndarray], chunk_tokens: int, batch_tokens: int
) -> None:
    n, docs = stream
    for chunk in plan.chunks(n, docs, chunk_tokens):
        units = list(plan.units(chunk, batch_tokens))
        assert tuple(window for unit in units for window in unit) == chunk.windows
        for unit in units:
            if plan.carries and not plan.carries_on:
                assert unit[0].start == max(0, unit[0].lo - 1 - plan.context)
                assert all(b.start == a.hi - 1 for a, b in itertools.pairwise(unit))


@given(plans, streams())
def test_windows_are_causal_and_no_longer_than_the_context(plan: Plan, stream: tuple[int, np.ndarray]) -> None:
    n, docs = stream
    for window in plan.windows(n, docs):
        assert 0 <= window.start < window.lo < window.hi <= n
        assert plan.carries or window.length <= plan.context
        assert window.skip >= 0


@given(plans, streams(), st.integers(1, 200))
def test_edges_do_not_know_where_the_stream_ends(plan: Plan, stream: tuple[int, np.ndarray], cut: int) -> None:
    n, docs = stream
    shorter = max(2, n - cut)
    whole = list(plan.windows(n, docs))
    part = list(plan.windows(shorter, docs[docs < shorter]))
    for a, b in zip(part[:-1], whole, strict=False):
        assert a == b
    last, same = part[-1], whole[len(part) - 1]
    assert last.lo == same.lo
    assert last.hi <= same.hi


@given(plans, streams(), st.integers(1, 200), st.integers(1, 500))
def test_batches_keep_order_and_one_length(plan: Plan, stream: tuple[int, np.ndarray], chunk: int, batch: int) -> None:
    n, docs = stream
    for piece in plan.chunks(n, docs, chunk):
        batches = list(piece.batches(batch))
        assert [w for b in batches for w in b] == list(piece.windows)
        for windows in batches:
            assert len({w.length for w in windows}) == 1
            assert len(windows) == 1 or len(windows) * windows[0].length <= batch


@given(streams(), st.integers(1, 50))
def test_document_plan_has_no_context_across_documents(stream: tuple[int, np.ndarray], seq_len: int) -> None:
    n, docs = stream
    for window in Document(seq_len=seq_len, stride=1 + seq_len // 2).windows(n, docs):
        inside = docs[(docs > window.start) & (docs < window.hi - 1)]
        assert len(inside) == 0


def test_sliding_gives_full_context_after_the_first_window() -> None:
    windows = list(Sliding(seq_len=512, stride=64).windows(2000, np.array([0])))
    assert (windows[0].lo, windows[0].hi) == (1, 513)
    assert all(w.lo - 1 - w.start == 448 for w in windows[1:-1])
    assert windows[-1].hi == 2000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sliding:stride=-3", ("stride", "-3")),
        ("sliding:seq_len=512,stride=600", ("600", "512")),
        ("slidng", ("sliding",)),
        ("sliding:strid=3", ("stride",)),
        ("disjoint:seq_len=0", ("seq_len", "0")),
        ("disjoint:seq_len=many", ("seq_len", "many")),
        ("banded:window=5,window=6", ("twice",)),
    ],
)
def test_a_wrong_plan_is_one_sentence(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        parse_plan(text)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_parse_reads_every_plan() -> None:
    assert parse_plan("banded:window=128") == Banded(window=128)
    assert parse_plan("document:seq_len=32,stride=8") == Document(seq_len=32, stride=8)
    assert parse_plan("disjoint") == Disjoint()
