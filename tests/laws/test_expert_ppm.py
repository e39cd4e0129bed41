"""Is ``ppm`` its naive twin, bit for bit, when the table is roomy and when it is full?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit import _native
from evalkit.adapters.experts.ppm import PpmSettings
from evalkit.adapters.registry import make_adapter
from evalkit.errors import InputError
from tests.kit import examples, phrases, random_rows
from tests.twins.ppm import NaiveDirichlet, NaiveLearned

law = settings(max_examples=examples(25), deadline=None, derandomize=True)
FIRST_CHUNK = 4096 * 44 + 8 * (1 << 13)
"""The smallest table of continuations: nodes and slots, bytes."""


def stream(seed: int, vocab: int, n: int) -> np.ndarray:
    return phrases(np.random.default_rng(seed), vocab, n)


def rows(seed: int, vocab: int, n: int) -> np.ndarray:
    return random_rows(np.random.default_rng(seed + 1), n, vocab)


def twin_scores(config: PpmSettings, x: np.ndarray, p: np.ndarray, frozen_at: int = -1) -> np.ndarray:
    """float64 [n, V]: the naive rows of every target."""
    twin = NaiveDirichlet(config, int(x[0]), frozen_at)
    out = []
    for t in range(1, len(x)):
        out.append(twin.row(p[t - 1]))
        twin.observe(int(x[t]))
    return np.array(out)


def core(config: PpmSettings, vocab: int, size: int) -> _native.DirichletPpm:
    return _native.DirichletPpm(
        vocab=vocab,
        orders=list(config.stream_orders),
        strength=config.strength,
        min_count=config.min_count,
        bytes=size,
        expected_tokens=0,
    )


@law
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.sampled_from([2, 7, 60, 1000]),
    orders=st.lists(st.integers(1, 10), min_size=1, max_size=6, unique=True),
    min_count=st.integers(1, 3),
    c=st.sampled_from([None, 4.0, 0.01]),
)
def test_rows_are_the_twins(seed: int, vocab: int, orders: list[int], min_count: int, c: float | None) -> None:
    config = PpmSettings(escape="dirichlet", orders=tuple(sorted(orders)), min_count=min_count, c=c)
    x, p = stream(seed, vocab, 90), rows(seed, vocab, 89)
    fast = core(config, vocab, 1 << 26)
    fast.begin(int(x[0]))
    np.testing.assert_array_equal(fast.score(x[1:], None, p), twin_scores(config, x, p))


@law
@given(seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from([3, 40, 200]), spare=st.integers(0, 20_000))
def test_a_full_table_keeps_what_it_has(seed: int, vocab: int, spare: int) -> None:
    """Nothing is counted after the bound is met, rows still sum to 1, memory stays below."""
    config = PpmSettings(escape="dirichlet", orders=(1, 2, 3, 4, 5))
    x, p = stream(seed, vocab, 400), rows(seed, vocab, 399)
    size = _native.smallest_table(vocab, 5) + spare
    fast = core(config, vocab, size)
    fast.begin(int(x[0]))
    got = fast.score(x[1:], None, p)
    assert fast.bytes <= size
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(got, twin_scores(config, x, p, fast.frozen_at))


@law
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.sampled_from([2, 7, 60, 300]),
    orders=st.lists(st.integers(1, 8), max_size=6, unique=True),
    document=st.lists(st.integers(1, 7), max_size=5, unique=True),
    side=st.booleans(),
    rate=st.sampled_from([0.0, 0.3, 5.0]),
    fast=st.sampled_from([0.0, 0.5]),
    discount=st.sampled_from([None, 0.0, 0.7]),
    corpus_orders=st.lists(st.integers(1, 8), max_size=5, unique=True),
    corpus_tokens=st.integers(1, 200),
    decide=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_learned_rows_are_the_twins(
    seed: int,
    vocab: int,
    orders: list[int],
    document: list[int],
    side: bool,
    rate: float,
    fast: float,
    discount: float | None,
    corpus_orders: list[int],
    corpus_tokens: int,
    decide: float,
) -> None:
    """discount None: occurrences; else continuations.  The corpus: text of the same words, cut anywhere."""
    stream_orders = tuple(sorted(orders)) if orders or document else (1,)
    config = PpmSettings(
        orders=stream_orders,
        document=tuple(sorted(document)),
        side=side,
        rate=rate,
        fast=fast,
        counts="occurrences" if discount is None else "continuations",
        discount=discount or 0.0,
        corpus_orders=tuple(sorted(corpus_orders)) or (1,),
        decide=decide if side else 0.0,
    )
    both = stream(seed, vocab, 120 + corpus_tokens)
    x, text, p = both[:120], both[120:] if corpus_orders else both[:0], rows(seed, vocab, 119)
    entropy, top = -(p * np.log(p)).sum(axis=1), p.argmax(axis=1).astype(np.int32)
    core = _native.LearnedPpm if discount is None else _native.ContinuationPpm
    corpus = _native.CountedCorpus(tokens=text, vocab=vocab, max_order=8, bytes=1 << 24) if corpus_orders else None
    kernel = core(
        vocab=vocab,
        bos=1,
        orders=list(stream_orders),
        document_orders=sorted(document),
        rate=rate,
        side=side,
        bytes=1 << 24,
        document_bytes=1 << 22,
        expected_tokens=0,
        fast=fast,
        discount=discount or 0.0,
        corpus=corpus,
        corpus_orders=sorted(corpus_orders),
        decide=config.decide,
    )
    kernel.begin(int(x[0]))
    twin = NaiveLearned(config, int(x[0]), bos=1, corpus=text.tolist())
    got = kernel.score(x[1:], None, p, entropy, top)
    for t in range(1, len(x)):
        np.testing.assert_array_equal(got[t - 1], twin.row(p[t - 1], float(entropy[t - 1]), int(top[t - 1])))
        twin.observe(int(x[t]))


@settings(law, max_examples=examples(8))
@given(seed=st.integers(0, 2**32 - 1), spare=st.sampled_from([0, 4096 * 44, 1 << 20]))
def test_full_continuations_are_the_twins(seed: int, spare: int) -> None:
    """No new n-gram after the bound is met, known ones go on counting; rows sum to 1, memory stays below."""
    config = PpmSettings(counts="continuations", fast=0.5, side=False, document=(1, 2), orders=(1, 2, 3, 12))
    x, p = np.random.default_rng(seed).integers(0, 30, 500).astype(np.int32), np.full((499, 30), 1 / 30)
    x[400:] = x[:100]
    kernel = _native.ContinuationPpm(
        vocab=30,
        bos=1,
        orders=[1, 2, 3, 12],
        document_orders=[1, 2],
        rate=0.3,
        side=False,
        bytes=FIRST_CHUNK + spare,
        document_bytes=1 << 22,
        expected_tokens=0,
        fast=config.fast,
        discount=config.discount,
    )
    kernel.begin(int(x[0]))
    got = kernel.score(x[1:], None, p, None, None)
    assert (0 < kernel.frozen_at < 400) == (spare == 0)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    twin = NaiveLearned(config, int(x[0]), 1, kernel.frozen_at)
    for t in range(1, len(x)):
        np.testing.assert_array_equal(got[t - 1], twin.row(p[t - 1]))
        twin.observe(int(x[t]))


def test_learning_helps_on_repeats() -> None:
    """Trust starts low and rises where the counts are right: the second half of a repetitive text costs less."""
    x, p = stream(3, 60, 3001), np.full((3000, 60), 1 / 60)
    scores = {}
    for rate in (0.0, 0.3):
        fast = _native.LearnedPpm(
            vocab=60,
            bos=1,
            orders=[1, 2, 3],
            document_orders=[1, 2, 3],
            rate=rate,
            side=False,
            bytes=1 << 24,
            document_bytes=1 << 22,
            expected_tokens=0,
        )
        fast.begin(int(x[0]))
        scores[rate] = -np.log(fast.score(x[1:], x[1:, None].copy(), p[:, :1].copy(), None, None))
    assert scores[0.3][1500:].mean() < 0.8 * scores[0.0][1500:].mean()


def test_the_small_table_of_the_last_test_does_fill() -> None:
    config = PpmSettings(escape="dirichlet", orders=(1, 2, 3, 4, 5))
    fast = core(config, 200, _native.smallest_table(200, 5))
    fast.begin(0)
    fast.observe(np.random.default_rng(0).integers(0, 200, 3000, dtype=np.int32))
    assert 0 < fast.frozen_at < 3000
    assert fast.bytes <= _native.smallest_table(200, 5)


def test_the_published_setting_is_the_published_recursion() -> None:
    """#1159: orders 2..7, c = 4, min_count 2; third occurrence of "a b" after one "a c"."""
    expert = make_adapter("ppm", {"escape": "dirichlet", "orders": "2..7", "c": "4", "min_count": "2"})
    assert expert.settings.strength == [4.0] * 6
    fast = core(expert.settings, 4, 1 << 20)
    fast.begin(0)
    fast.observe(np.array([1, 0, 1, 0, 2, 0], np.int32))
    p = np.full(4, 0.25)
    q2 = (np.array([0, 2, 1, 0]) + 4 * p) / (3 + 4)
    np.testing.assert_allclose(fast.row(p), q2, rtol=1e-15)  # longer contexts were seen once: below min_count


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"orders": [3, 2]}, "rising"),
        ({"orders": [0, 2]}, "within 1..24"),
        ({"orders": [2, 25]}, "within 1..24"),
        ({"escape": "dirichlet", "c": "-1"}, "positive"),
        ({"escape": "dirichlet", "c": "nan"}, "positive"),
        ({"escape": "dirichlet", "c": [1.0, 2.0]}, "2 numbers for 6 orders"),
        ({"c": "4"}, "belongs to escape=dirichlet"),
        ({"min_count": "2"}, "belongs to escape=dirichlet"),
        ({"document": [3, 3]}, "setting document"),
        ({"orders": [], "document": []}, "rising"),
        ({"rate": "nan"}, "rate"),
        ({"min_count": "0"}, "at least 1"),
        ({"min_count": "two"}, "min_count"),
        ({"ordres": [2]}, "did you mean 'orders'"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(raw: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_adapter("ppm", raw)
