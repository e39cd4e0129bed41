"""Do all experts keep the contract?  One law a test, every expert of the list, random streams with repeats."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.adapters import stack as stack_module
from evalkit.adapters.base import Side, StreamInfo, TokenChunk, TokenLedger, named
from evalkit.adapters.experts.ppm import Ppm, PpmSettings
from evalkit.adapters.registry import parse_adapter
from evalkit.adapters.stack import Stack
from evalkit.stream.corpus import write_corpus, write_with_trusts
from tests.kit import examples, random_rows

EXPERTS = [
    "ppm",
    "ppm:side=false,orders=[2,4],document=[1,3]",
    "ppm:document=[],orders=1..9",
    "ppm:counts=continuations,fast=0.5",
    "ppm:counts=continuations,discount=0.3,side=false,orders=[2,4],document=[1,3]",
    "ppm:corpus={corpus}",
    "ppm:corpus={corpus},corpus_orders=[2,5],counts=continuations,side=false,document=[]",
    "ppm:corpus={trusted},fast=0.5",
    "ppm:decide=0.05",
    "ppm:corpus={trusted},counts=continuations,fast=0.5,decide=2",
    "ppm:document=[],decide=0.3|ppm:decide=0.05,orders=[2,4]|hedge",
    "ppm|ppm:escape=dirichlet",
    "ppm:escape=dirichlet",
    "ppm:escape=dirichlet,c=4,min_count=2",
    "ppm:escape=dirichlet,orders=1..9,c=0.5",
    "backoff",
    "backoff:smoothing=witten_bell,order=4,by=[order,count,entropy,agreement]",
    "hedge",
    "ppm|backoff:order=3|hedge:update=hedge,by=[top,agreement],orders=[2,4]",
    "log_bias",
    "log_bias:precondition=adagrad,stride=7,previous_prior=2,keep=0.5",
    "temperature:learn=false,temperature=1.4",
    "ppm|log_bias|temperature|hedge:by=[]",
]

each_expert = pytest.mark.parametrize("spec", EXPERTS)
law = settings(max_examples=examples(15), deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
vocabs = st.sampled_from([2, 5, 16, 33, 300])


def make_stream(rng: np.random.Generator, vocab: int, n: int) -> np.ndarray:
    """int32 [n] with copies of earlier passages; id 1 now and then (BOS)."""
    out = [int(rng.integers(vocab))]
    source = 0
    while len(out) < n:
        if rng.random() < 0.08:
            source = int(rng.integers(len(out)))
        copy = rng.random() < 0.7
        out.append(out[source] if copy else 1 if rng.random() < 0.05 else int(rng.integers(vocab) * rng.random()))
        source += 1
    return np.array(out, np.int32)


def make_side(rng: np.random.Generator, p: np.ndarray, groups: dict[str, np.ndarray]) -> Side:
    top = p.argmax(axis=1).astype(np.int32)
    return Side(
        entropy=-(p * np.log(p)).sum(axis=1),
        top_id=top,
        top_p=p[np.arange(len(p)), top],
        masses={name: p[:, mask].sum(axis=1) for name, mask in groups.items()},
    )


@functools.cache
def corpus_of(vocab: int) -> Path:
    """A corpus file of 400 tokens."""
    path = Path(mkdtemp()) / "laws.ekc"
    text = make_stream(np.random.default_rng(vocab), vocab, 400)
    write_corpus(path, np.append(np.int32(1), text), vocab_size=vocab, bos_id=1, tokenizer="0" * 64)
    return path


@functools.cache
def trusted_corpus(vocab: int) -> Path:
    """The same file with trusts: those learned from 200 random targets, and a random push on each weight."""
    rng, info = np.random.default_rng(vocab), StreamInfo(vocab, 1, 1, piece_bytes=(b"x",) * vocab, groups={})
    ppm = Ppm(PpmSettings(corpus=str(corpus_of(vocab)), trusts="fresh"))
    ppm.begin(info)
    text, p = make_stream(rng, vocab, 200), random_rows(rng, 200, vocab)
    side = make_side(rng, p, {})
    ppm.score(TokenChunk(text, text[:, None], side), np.take_along_axis(p, text[:, None], axis=1))
    learned = ppm.learned_trusts(info, 200)
    weights = learned.codes != 0
    pushed = learned.codes.view(np.int8) + np.where(weights, rng.integers(0, 4, len(weights)), 0).astype(np.int8)
    path = corpus_of(vocab).with_name("trusted.ekc")
    write_with_trusts(path, corpus_of(vocab), replace(learned, codes=pushed.clip(-127, 15).view(np.uint8)))
    return path


class Case:
    """One random stream, with model rows, for one stack."""

    def __init__(self, spec: str, seed: int, vocab: int, n: int = 160) -> None:
        rng = np.random.default_rng(seed)
        self.spec, self.vocab = spec, vocab
        stream = make_stream(rng, vocab, n + 1)
        groups = {"word_start": rng.random(vocab) < 0.5, "control": np.arange(vocab) < 2}
        self.info = StreamInfo(vocab, 1, int(stream[0]), piece_bytes=(b"x",) * vocab, groups=groups)
        self.tokens, self.p = stream[1:].copy(), random_rows(rng, n, vocab)
        self.side = make_side(rng, self.p, groups)
        self.n = n

    def fresh(self, threads: int = 1) -> Stack:
        files = {"corpus": corpus_of(self.vocab), "trusted": trusted_corpus(self.vocab)}
        stack = Stack([parse_adapter(s) for s in self.spec.format(**files).split("|")], threads)
        stack.begin(self.info)
        return stack

    def fused(self, stack: Stack, lo: int, hi: int, tokens: np.ndarray | None = None) -> np.ndarray:
        """Probability of the targets lo..hi-1 after the last stage, by the fused spelling on gathered columns."""
        tokens = self.tokens[lo:hi] if tokens is None else tokens[lo:hi]
        side = cut(self.side, lo, hi)
        cands = named(np.concatenate((tokens[:, None], stack.propose(tokens)), axis=1), side)
        picked = np.take_along_axis(self.p[lo:hi], np.maximum(cands, 0), axis=1)
        return stack.score(tokens, cands, self.p[lo:hi] if stack.needs.rows else picked, side)[-1]

    def strict(self, stack: Stack, lo: int, hi: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The same by the strict spelling: the row first, then the receipt."""
        booked, rows = [], []
        for t in range(lo, hi):
            row = stack.row(self.p[t], self.side.at(t))[-1]
            p = float(row[self.tokens[t]])
            before = self.tokens[max(0, t - 8) : t]
            stack.observe(TokenLedger(before, t + 1).book(t + 1, self.tokens[t : t + 1], np.array([-math.log(p)])))
            booked.append(p)
            rows.append(row)
        return np.array(booked), rows


def cut(side: Side, lo: int, hi: int) -> Side:
    s = slice(lo, hi)
    pick = lambda x: None if x is None else x[s]  # noqa: E731
    return Side(pick(side.entropy), pick(side.top_id), pick(side.top_p), {k: v[s] for k, v in side.masses.items()})


@functools.lru_cache(maxsize=1)
def case_of(spec: str, seed: int, vocab: int) -> Case:
    return Case(spec, seed, vocab)


@each_expert
@law
@given(seed=seeds, vocab=vocabs)
def test_strict_is_fused_bit_for_bit(spec: str, seed: int, vocab: int) -> None:
    case = case_of(spec, seed, vocab)
    strict, _ = case.strict(case.fresh(), 0, case.n)
    np.testing.assert_array_equal(case.fused(case.fresh(), 0, case.n), strict)


@each_expert
@law
@given(seed=seeds, vocab=vocabs)
def test_rows_are_distributions(spec: str, seed: int, vocab: int) -> None:
    case = case_of(spec, seed, vocab)
    _, rows = case.strict(case.fresh(), 0, case.n)
    assert max(abs(1.0 - math.fsum(row)) for row in rows) <= 1e-12
    assert min(float(row.min()) for row in rows) >= 0.0


@each_expert
@law
@given(seed=seeds, vocab=vocabs, cuts=st.lists(st.integers(0, 160), max_size=6))
def test_chunk_size_changes_nothing(spec: str, seed: int, vocab: int, cuts: list[int]) -> None:
    case = case_of(spec, seed, vocab)
    edges = sorted({0, case.n, *cuts})
    stack = case.fresh()
    parts = [case.fused(stack, lo, hi) for lo, hi in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), case.fused(case.fresh(), 0, case.n))


@pytest.mark.parametrize("spec", [*EXPERTS, "log_bias|ppm:counts=continuations,fast=0.5|match|tilt|hedge"])
@settings(law, max_examples=examples(5))
@given(seed=seeds, vocab=vocabs, threads=st.integers(2, 5), cuts=st.lists(st.integers(0, 160), max_size=2))
def test_threads_change_nothing(spec: str, seed: int, vocab: int, threads: int, cuts: list[int]) -> None:
    case = case_of(spec, seed, vocab)
    edges = sorted({0, case.n, *cuts})
    stack = case.fresh(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack_module, "LEAST_PART", 7)
        parts = [case.fused(stack, lo, hi) for lo, hi in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), case.fused(case.fresh(), 0, case.n))


@each_expert
@law
@given(seed=seeds, vocab=vocabs, at=st.integers(0, 159))
def test_the_future_changes_no_score(spec: str, seed: int, vocab: int, at: int) -> None:
    case = case_of(spec, seed, vocab)
    other = case.tokens.copy()
    other[at + 1 :] = np.random.default_rng(seed + 1).integers(0, vocab, case.n - at - 1)
    mine = case.fused(case.fresh(), 0, case.n)[: at + 1]
    np.testing.assert_array_equal(mine, case.fused(case.fresh(), 0, case.n, other)[: at + 1])


@each_expert
@law
@given(seed=seeds, vocab=vocabs, at=st.integers(0, 160))
def test_restore_goes_on_with_the_same_bits(spec: str, seed: int, vocab: int, at: int) -> None:
    case = case_of(spec, seed, vocab)
    stack = case.fresh()
    case.fused(stack, 0, at)
    state = stack.snapshot()
    again = case.fresh()
    again.restore(state, case.tokens[:at])
    np.testing.assert_array_equal(case.fused(again, at, case.n), case.fused(stack, at, case.n))
    assert again.snapshot() == stack.snapshot()


@each_expert
@law
@given(seed=seeds, vocab=vocabs)
def test_whole_rows_give_the_target_the_same_bits(spec: str, seed: int, vocab: int) -> None:
    """K == V (a later stage asks for rows) scores the target as the gathered columns do."""
    case = case_of(spec, seed, vocab)
    stack = case.fresh()
    stack.propose(case.tokens)
    stack.needs = type(stack.needs)(hints=stack.needs.hints, rows=True)
    got = stack.score(case.tokens, None, case.p, case.side)[-1]
    np.testing.assert_array_equal(got, case.fused(case.fresh(), 0, case.n))


@each_expert
def test_row_changes_no_state(spec: str) -> None:
    case = case_of(spec, 7, 33)
    stack = case.fresh()
    case.fused(stack, 0, 80)
    before = stack.snapshot()
    first = stack.row(case.p[80], case.side.at(80))[-1]
    stack.row(case.p[3], case.side.at(3))
    np.testing.assert_array_equal(first, stack.row(case.p[80], case.side.at(80))[-1])
    assert stack.snapshot() == before
