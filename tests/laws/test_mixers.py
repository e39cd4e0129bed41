"""Are ``hedge``, ``backoff``, ``log_bias`` and ``temperature`` their naive twins, bit for bit?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit import _native
from evalkit.adapters.base import Side, StreamInfo, TokenChunk
from evalkit.adapters.experts.mixing import Backoff, BackoffSettings, Hedge, HedgeSettings
from evalkit.adapters.experts.rows import LogBias, LogBiasSettings, Temperature, TemperatureSettings
from tests.kit import examples, phrases, random_rows
from tests.twins.backoff import NaiveBackoff
from tests.twins.hedge import NaiveHedge
from tests.twins.log_bias import NaiveLogBias
from tests.twins.temperature import NaiveTemperature

law = settings(max_examples=examples(20), deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
vocabs = st.sampled_from([2, 7, 33, 130])
smoothings = st.sampled_from(["witten_bell", "absolute", "kneser_ney"])
buckets = st.lists(st.sampled_from(["order", "count", "top", "entropy", "agreement"]), unique=True).map(tuple)
BOS = 1


class Text:
    """A random stream of repeated words with BOS in between, model rows, and the rows of one stage after the model."""

    def __init__(self, seed: int, vocab: int, n: int = 70) -> None:
        rng = np.random.default_rng(seed)
        stream = phrases(rng, vocab, n + 1, count=6, bos=True)
        self.vocab, self.first, self.tokens = vocab, int(stream[0]), stream[1:].copy()
        self.model, self.p = random_rows(rng, n, vocab), random_rows(rng, n, vocab)
        entropy = -(self.model * np.log(self.model)).sum(axis=1)
        self.side = Side(entropy=entropy, top_id=self.model.argmax(axis=1).astype(np.int32))
        self.info = StreamInfo(vocab, BOS, self.first)

    def fused(self, expert: Any, history: bool = True) -> np.ndarray:
        expert.begin(self.info)
        past = (self.model,) if history else ()
        return expert.score(TokenChunk(self.tokens, None, self.side, 1, past), self.p)

    def naive(self, row: Any, observe: Any) -> np.ndarray:
        out = []
        for i, token in enumerate(self.tokens):
            out.append(row(i))
            observe(int(token))
        return np.array(out)


@law
@given(
    seed=seeds,
    vocab=vocabs,
    smoothing=smoothings,
    by=buckets,
    order=st.integers(1, 7),
    rate=st.sampled_from([0.0, 0.02, 0.5]),
    share=st.sampled_from([0.0, 0.01]),
)
def test_backoff_is_its_twin(
    seed: int, vocab: int, smoothing: Any, by: Any, order: int, rate: float, share: float
) -> None:
    text = Text(seed, vocab)
    config = BackoffSettings(smoothing=smoothing, by=by, order=order, rate=rate, share=share)
    twin = NaiveBackoff(config, text.first)
    want = text.naive(lambda i: twin.row(text.p[i], text.side.at(i)), twin.observe)
    np.testing.assert_array_equal(text.fused(Backoff(config)), want)


@law
@given(
    seed=seeds,
    vocab=vocabs,
    smoothing=smoothings,
    by=buckets,
    orders=st.lists(st.integers(1, 6), min_size=1, unique=True),
    update=st.sampled_from(["hedge", "soft_bayes"]),
    share=st.sampled_from([None, 0.0, 0.02]),
    history=st.booleans(),
)
def test_hedge_is_its_twin(
    seed: int, vocab: int, smoothing: Any, by: Any, orders: list[int], update: Any, share: float, history: bool
) -> None:
    text = Text(seed, vocab)
    config = HedgeSettings(smoothing=smoothing, by=by, orders=tuple(sorted(orders)), update=update, share=share)
    twin = NaiveHedge(config, text.first)
    past = lambda i: (text.model[i],) if history else ()  # noqa: E731
    want = text.naive(lambda i: twin.row(text.p[i], text.side.at(i), past(i)), twin.observe)
    np.testing.assert_array_equal(text.fused(Hedge(config), history), want)


@law
@given(
    seed=seeds,
    vocab=vocabs,
    stride=st.integers(1, 40),
    precondition=st.sampled_from(["fisher", "adagrad"]),
    priors=st.tuples(*[st.sampled_from([0.0, 0.5, 8.0])] * 3).filter(any),
    keep=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_log_bias_is_its_twin(
    seed: int, vocab: int, stride: int, precondition: Any, priors: tuple[float, float, float], keep: float
) -> None:
    text = Text(seed, vocab)
    config = LogBiasSettings(
        stride=stride,
        precondition=precondition,
        global_prior=priors[0],
        document_prior=priors[1],
        previous_prior=priors[2],
        keep=keep,
    )
    twin = NaiveLogBias(config, vocab, BOS, text.first)
    want = text.naive(lambda i: twin.row(text.p[i]), twin.observe)
    np.testing.assert_array_equal(text.fused(LogBias(config)), want)


@law
@given(
    seed=seeds,
    vocab=vocabs,
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    learn=st.booleans(),
    anchor=st.booleans(),
    history=st.booleans(),
    prior=st.sampled_from([1.0, 100.0]),
)
def test_temperature_is_its_twin(
    seed: int, vocab: int, temperature: float, learn: bool, anchor: bool, history: bool, prior: float
) -> None:
    text = Text(seed, vocab)
    config = TemperatureSettings(temperature=temperature, learn=learn, anchor=anchor, prior=prior)
    twin = NaiveTemperature(config)
    past = lambda i: (text.model[i],) if history else ()  # noqa: E731
    want = text.naive(lambda i: twin.row(text.p[i], text.side.at(i), past(i)), twin.observe)
    np.testing.assert_array_equal(text.fused(Temperature(config), history), want)


@pytest.mark.parametrize("smoothing", ["witten_bell", "kneser_ney"])
@pytest.mark.parametrize("seed", [0, 1])
def test_full_counts_keep_what_they_have(smoothing: Any, seed: int) -> None:
    """At the bound nothing new is counted, old pairs go on, rows still sum to 1, memory stays below."""
    vocab, n, size = 25, 1100, _native.smallest_mixer()
    text = Text(seed, vocab, n)
    config = BackoffSettings(smoothing=smoothing, order=6)
    fast = _native.Mixer(
        vocab=vocab,
        orders=[6],
        smoothing=smoothing,
        discount=0.75,
        by=list(config.by),
        update="soft_bayes",
        rate=config.rate,
        share=0.0,
        prior=0.1,
        bytes=size,
    )
    fast.begin(text.first)
    order = np.random.default_rng(seed + 5).permutation(n)
    tokens = np.where(np.arange(n) < 900, text.tokens[order], text.tokens).astype(np.int32)
    got = fast.score(tokens, None, text.p, [], None, None)
    assert fast.count_bytes <= size
    assert 0 < fast.frozen_at < n
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    twin = NaiveBackoff(config, text.first, fast.frozen_at)
    text.tokens = tokens
    want = text.naive(lambda i: twin.row(text.p[i], text.side.at(i)), twin.observe)
    np.testing.assert_array_equal(got, want)
