"""Does the count table say what a dict says, travel through bytes unharmed, and join texts?"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit import _native

ORDERS = 5
law = settings(max_examples=30, deadline=None, derandomize=True)
texts = st.lists(st.integers(0, 11), min_size=2, max_size=120).map(lambda x: np.array(x, np.int32))


def table_of(x: np.ndarray, size: int = 1 << 22, vocab: int = 12) -> _native.GramTable:
    table = _native.GramTable(vocab=vocab, max_order=ORDERS, bytes=size)
    table.start(int(x[0]))
    table.count(x[1:])
    return table


def naive_counts(x: np.ndarray) -> np.ndarray:
    """uint32 [n, ORDERS, 2]: count of each target after its context, and total of the context, before it."""
    tokens, seen, out = x.tolist(), Counter[tuple[int, ...]](), np.zeros((len(x) - 1, ORDERS, 2), np.uint32)
    for t in range(1, len(tokens)):
        for k in range(1, min(ORDERS, t + 1) + 1):
            context = (k, *tokens[t - k + 1 : t])
            out[t - 1, k - 1] = seen[(*context, tokens[t], -1)], seen[context]
        for k in range(1, min(ORDERS, t + 1) + 1):
            context = (k, *tokens[t - k + 1 : t])
            seen[(*context, tokens[t], -1)] += 1
            seen[context] += 1
    return out


@law
@given(x=texts, cut=st.integers(0, 120))
def test_counts_are_a_dicts_counts(x: np.ndarray, cut: int) -> None:
    table = _native.GramTable(vocab=12, max_order=ORDERS, bytes=1 << 22)
    table.start(int(x[0]))
    rest = x[1:]
    got = np.concatenate((table.count(rest[:cut].copy()), table.count(rest[cut:].copy())))
    np.testing.assert_array_equal(got, naive_counts(x))


@law
@given(x=texts)
def test_followers_sum_to_the_total(x: np.ndarray) -> None:
    table = table_of(x)
    for order in range(1, ORDERS + 1):
        tokens, counts = table.followers(order)
        assert tokens.tolist() == sorted(set(tokens.tolist()))
        again = table_of(x)
        total = int(again.count(np.array([0], np.int32))[0, order - 1, 1])
        assert int(counts.sum()) == total


@law
@given(x=texts, y=texts)
def test_append_is_the_joined_text(x: np.ndarray, y: np.ndarray) -> None:
    joined = table_of(np.concatenate((x, y)))
    first = table_of(x)
    assert first.append(table_of(y))
    probe = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32)
    np.testing.assert_array_equal(first.count(probe), joined.count(probe))


@law
@given(x=texts)
def test_bytes_give_the_table_back(x: np.ndarray) -> None:
    table = table_of(x)
    again = _native.GramTable.read(table.write())
    assert (again.grams, again.length, again.write()) == (table.grams, table.length, table.write())
    probe = np.array([3, 1, 4, 1, 5], np.int32)
    np.testing.assert_array_equal(again.count(probe), table.count(probe))


def test_a_frozen_table_travels_too() -> None:
    x = np.random.default_rng(0).integers(0, 200, 4000, dtype=np.int32)
    table = table_of(x, _native.smallest_table(200, ORDERS), 200)
    assert 0 < table.frozen_at < 3999
    again = _native.GramTable.read(table.write())
    assert (again.frozen_at, again.grams) == (table.frozen_at, table.grams)
    probe = x[100:400].copy()
    np.testing.assert_array_equal(again.count(probe), table.count(probe))
    assert not again.append(table_of(x[:50], 1 << 22, 200))


def test_damaged_bytes_are_refused() -> None:
    good = table_of(np.arange(12, dtype=np.int32)).write()
    for bad in (b"", good[:20], good[:-1], good[:-4], good + b"\0" * 4, b"X" + good[1:]):
        with pytest.raises(ValueError):
            _native.GramTable.read(bad)
    for place in range(len(good)):
        with pytest.raises(ValueError):
            _native.GramTable.read(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])


def test_a_header_cannot_ask_for_memory() -> None:
    """A hostile size is refused before anything is allocated for it."""
    good = bytearray(table_of(np.arange(12, dtype=np.int32)).write())
    good[32:40] = (1 << 62).to_bytes(8, "little")  # tokens that are said to follow
    with pytest.raises(ValueError, match="does not match the size"):
        _native.GramTable.read(bytes(good))


def test_a_table_has_to_be_started_and_ids_fit() -> None:
    table = _native.GramTable(vocab=12, max_order=ORDERS, bytes=1 << 20)
    with pytest.raises(ValueError, match=r"start\(\) comes first"):
        table.count(np.zeros(1, np.int32))
    table.start(0)
    with pytest.raises(ValueError, match="outside the vocabulary of 12"):
        table.count(np.array([12], np.int32))
    with pytest.raises(ValueError, match="order"):
        table.followers(6)
    with pytest.raises(ValueError):
        table.append(table)


@pytest.mark.parametrize("arguments", [(1, 3, 1 << 20), (12, 0, 1 << 20), (12, 25, 1 << 20), (12, 3, 10)])
def test_wrong_shapes_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        _native.GramTable(**dict(zip(("vocab", "max_order", "bytes", "expected_tokens"), arguments, strict=False)))


def test_memory_stays_below_the_bound_while_it_grows() -> None:
    bound = 8 << 20
    table = _native.GramTable(vocab=1000, max_order=6, bytes=bound)
    table.start(0)
    rng = np.random.default_rng(1)
    for _ in range(40):
        table.count(rng.integers(0, 1000, 5000, dtype=np.int32))
        assert table.bytes <= bound
    assert table.rebuilds > 0
    assert table.frozen_at > 10_000
