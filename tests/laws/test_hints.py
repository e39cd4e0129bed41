"""Are tilt, match and best_agree their naive twins bit for bit, and do their hints come from the prefix alone?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.adapters.base import Side, StreamInfo, TokenChunk, TokenLedger
from evalkit.adapters.experts.hints import BestAgreeSettings, MatchSettings, TiltSettings, word_roles
from evalkit.adapters.registry import make_adapter, parse_adapter
from evalkit.errors import EvalkitError, InputError
from tests.kit import examples, random_rows
from tests.twins.best_agree import NaiveBestAgree
from tests.twins.match import NaiveMatchExpert
from tests.twins.tilt import NaiveTiltExpert

law = settings(max_examples=examples(20), deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
vocabs = st.sampled_from([4, 11, 60, 300])

PUBLISHED = "tilt:beta=1.0,min_share=[0.7,0.7,0.7,0.6,0.6,0.6,0.5,0.5,0.5],min_count=[3,3,3,2,2,2,2,2,2]"
SPECS = [
    "tilt",
    "tilt:orders=2..5",
    "tilt:orders=[2,3,7],min_share=0.5,min_count=2",
    "tilt:orders=2..10,beta=1.5,min_share=0.6,min_count=2",
    PUBLISHED,
    "match:min_length=2,max_length=9",
    "match:min_length=3,misses=0",
    "best_agree:orders=[2,4]",
    "best_agree:words=[1,3],document_words=[1,2],orders=[]",
    "best_agree:words=[],document_words=[],orders=3..5",
]
each_spec = pytest.mark.parametrize("spec", SPECS)


def make_text(seed: int, vocab: int, n: int) -> np.ndarray:
    """int32 [n] of few phrases, now and then altered; id 1 (BOS) between some."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(0, vocab, rng.integers(2, 14)) for _ in range(7)]
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < n:
        phrase = phrases[rng.integers(len(phrases))].copy()
        if rng.random() < 0.3:
            phrase[rng.integers(len(phrase))] = rng.integers(vocab)
        parts += [phrase, np.array([1] if rng.random() < 0.15 else [], np.int64)]
    return np.concatenate(parts)[:n].astype(np.int32)


class Case:
    def __init__(self, seed: int, vocab: int, n: int = 220) -> None:
        rng = np.random.default_rng(seed + 1)
        text = make_text(seed, vocab, n + 1)
        groups = {"word_start": (rng.random(vocab) < 0.5), "control": np.arange(vocab) == 1}
        groups["word_start"] &= ~groups["control"]
        self.info = StreamInfo(vocab, 1, int(text[0]), piece_bytes=(b"x",) * vocab, groups=groups)
        self.tokens, self.n = text[1:].copy(), n
        self.p = random_rows(rng, n, vocab)
        self.side = Side(masses={"word_start": self.p[:, groups["word_start"]].sum(axis=1)})

    def expert(self, spec: str) -> Any:
        expert = parse_adapter(spec)
        expert.begin(self.info)
        return expert

    def rows(self, expert: Any, lo: int = 0, hi: int | None = None) -> np.ndarray:
        """Fused, K == V."""
        hi = self.n if hi is None else hi
        expert.propose(self.tokens[lo:hi])
        side = Side(masses={k: v[lo:hi] for k, v in self.side.masses.items()})
        return expert.score(TokenChunk(self.tokens[lo:hi], None, side), self.p[lo:hi])

    def twin(self, spec: str) -> Any:
        s = parse_adapter(spec).settings
        first = self.info.first_token
        makers: dict[type, Callable[[], Any]] = {
            TiltSettings: lambda: NaiveTiltExpert(s, first),
            MatchSettings: lambda: NaiveMatchExpert(s, first),
            BestAgreeSettings: lambda: NaiveBestAgree(s, word_roles(self.info, False), 1, first),
        }
        return makers[type(s)]()


@each_spec
@law
@given(seed=seeds, vocab=vocabs)
def test_fused_rows_and_hints_are_the_twins(spec: str, seed: int, vocab: int) -> None:
    case = Case(seed, vocab)
    twin, hints, rows = case.twin(spec), [], []
    mass = case.side.masses["word_start"]
    for t in range(case.n):
        hints.append([-1 if h is None else h.token for h in twin.hints()])
        rows.append(twin.row(case.p[t], float(mass[t])))
        twin.observe(int(case.tokens[t]))
    np.testing.assert_array_equal(case.expert(spec).propose(case.tokens), np.array(hints))
    np.testing.assert_array_equal(case.rows(case.expert(spec)), np.array(rows))


@each_spec
@law
@given(seed=seeds, vocab=vocabs)
def test_strict_rows_are_the_fused_rows_and_sum_to_1(spec: str, seed: int, vocab: int) -> None:
    case = Case(seed, vocab)
    expert, rows = case.expert(spec), []
    for t in range(case.n):
        rows.append(expert.row(case.p[t], case.side.at(t)))
        expert.observe(TokenLedger(case.tokens[:0], t + 1).book(t + 1, case.tokens[t : t + 1], np.array([1.0])))
    np.testing.assert_array_equal(case.rows(case.expert(spec)), np.array(rows))
    assert max(abs(1.0 - math.fsum(row)) for row in rows) <= 1e-12


@each_spec
@law
@given(seed=seeds, vocab=vocabs, at=st.integers(0, 219))
def test_hints_and_rows_do_not_know_what_comes(spec: str, seed: int, vocab: int, at: int) -> None:
    """Every token from ``at`` on is exchanged: hints and whole rows up to and with position ``at`` stay as they are."""
    case, other = Case(seed, vocab), Case(seed, vocab)
    other.tokens[at:] = np.random.default_rng(seed).integers(0, vocab, case.n - at)
    mine, theirs = case.expert(spec).propose(case.tokens), case.expert(spec).propose(other.tokens)
    np.testing.assert_array_equal(mine[: at + 1], theirs[: at + 1])
    np.testing.assert_array_equal(case.rows(case.expert(spec))[: at + 1], other.rows(case.expert(spec))[: at + 1])


@each_spec
@law
@given(seed=seeds, vocab=vocabs, ahead=st.integers(0, 50))
def test_hints_may_be_made_long_before_their_scores(spec: str, seed: int, vocab: int, ahead: int) -> None:
    """A sequencer may propose piece after piece before the first is scored; in between, rows are those of the scores."""
    case = Case(seed, vocab)
    want, expert = case.rows(case.expert(spec)), case.expert(spec)
    cut = case.n - 60
    expert.propose(case.tokens[:cut])
    expert.propose(case.tokens[cut : cut + ahead])
    chunk = TokenChunk(case.tokens[:cut], None, Side(masses={"word_start": case.side.masses["word_start"][:cut]}))
    np.testing.assert_array_equal(expert.score(chunk, case.p[:cut]), want[:cut])
    for t in range(cut, case.n):
        np.testing.assert_array_equal(expert.row(case.p[t], case.side.at(t)), want[t])
        expert.observe(TokenLedger(case.tokens[:0], t + 1).book(t + 1, case.tokens[t : t + 1], np.array([1.0])))


@each_spec
@law
@given(seed=seeds, at=st.integers(0, 220))
def test_restore_at_any_position(spec: str, seed: int, at: int) -> None:
    case = Case(seed, 60)
    expert, again = case.expert(spec), case.expert(spec)
    case.rows(expert, 0, at)
    again.restore(expert.snapshot(), case.tokens[:at])
    np.testing.assert_array_equal(case.rows(again, at), case.rows(expert, at))
    assert again.snapshot() == expert.snapshot()


@pytest.mark.parametrize("name", ["tilt", "match", "best_agree"])
def test_a_full_memory_refuses_new_contexts_and_stays_bounded(name: str) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 500, 600_000).astype(np.int32)
    tokens[500_000:] = tokens[:100_000]
    raw: dict[str, Any] = {"memory_mib": 4}
    expert = make_adapter(name, raw)
    groups = {"word_start": np.arange(500) % 3 == 0, "control": np.arange(500) == 1}
    expert.begin(StreamInfo(500, 1, 0, groups=groups))
    hints = expert.propose(tokens)
    assert 0 < expert.full_at < 500_000
    assert expert.state_bytes() <= (4 << 20) + len(expert.snapshot())
    known = hints[500_100 : 500_000 + expert.full_at // 2]
    assert np.mean((known >= 0).any(axis=1)) > 0.9  # what it knew when it was full it still knows
    assert expert.propose(tokens[:1000]).shape == (1000, expert.needs.hints)


@pytest.mark.parametrize("name", ["tilt", "match", "best_agree"])
def test_a_table_that_grows_hints_as_one_that_had_the_room(name: str) -> None:
    case, hints = Case(7, 300, 20_000), []
    for expected in (0, 20_000):
        expert = make_adapter(name, {"expected_tokens": expected})
        expert.begin(case.info)
        hints.append(expert.propose(case.tokens))
    np.testing.assert_array_equal(*hints)
    assert (hints[0] >= 0).any()


def test_a_published_tilt_is_the_published_formula() -> None:
    """beta = base * top/total on the highest order whose share and count suffice, Z = 1 + p(h)(e^beta - 1)."""
    expert = parse_adapter("tilt:orders=2..3,beta=2.0,min_share=0.6,min_count=2")
    expert.begin(StreamInfo(5, 1, 0))
    tokens = np.array([2, 3, 0, 2, 3, 0, 2, 4, 0, 2], np.int32)  # after (0, 2): 3, 3, 4
    expert.propose(tokens)
    p = np.full((10, 5), 0.2)
    expert.score(TokenChunk(tokens, None, Side()), p)
    beta = 2.0 * (2 / 3)
    z = 1 + 0.2 * (math.exp(beta) - 1)
    want = np.full(5, 0.2) / z
    want[3] *= math.exp(beta)
    np.testing.assert_allclose(expert.row(p[0], Side()), want, rtol=1e-14)


def test_word_hints_wait_for_a_word_and_know_documents() -> None:
    """After "2 3" (a word of ids 2 and 3) came a start 4 and an inside 5; the document source forgets at BOS."""
    groups = {"word_start": np.isin(np.arange(8), [2, 4]), "control": np.arange(8) == 1}
    expert = parse_adapter("best_agree:orders=[],words=[1],document_words=[1]")
    expert.begin(StreamInfo(8, 1, 1, groups=groups))
    hints = expert.propose(np.array([2, 3, 4, 2, 3, 5, 2, 3, 1, 2, 3, 7], np.int32))
    np.testing.assert_array_equal(hints[8], [5, 4, 5, 4])  # after "2 3": inside 5, start 4, in both
    np.testing.assert_array_equal(hints[11], [5, 4, -1, -1])  # the document is new


def test_columns_that_are_not_the_proposed_hints_are_refused() -> None:
    expert = parse_adapter("tilt:orders=[2]")
    expert.begin(StreamInfo(5, 1, 0))
    tokens = np.array([2, 0, 2], np.int32)
    hints = expert.propose(tokens)
    assert hints.ravel().tolist() == [-1, -1, 2]
    cands = np.stack([tokens, np.array([-1, -1, 3], np.int32)], axis=1)
    with pytest.raises(ValueError, match="not the hints that were proposed"):
        expert.score(TokenChunk(tokens, cands, Side()), np.full((3, 2), 0.2))


def test_scores_without_hints_and_observing_without_a_row_are_refused() -> None:
    expert = parse_adapter("match")
    expert.begin(StreamInfo(5, 1, 0))
    with pytest.raises(ValueError, match="propose was called for 0"):
        expert.score(TokenChunk(np.array([2], np.int32), None, Side()), np.full((1, 5), 0.2))
    with pytest.raises(RuntimeError, match="without a row"):
        expert.observe(TokenLedger(np.array([], np.int32), 1).book(1, np.array([2], np.int32), np.array([1.0])))


@pytest.mark.parametrize("name", ["tilt", "match", "best_agree"])
def test_a_damaged_snapshot_is_refused(name: str) -> None:
    expert = make_adapter(name, {})
    expert.begin(Case(0, 60).info)
    state = expert.snapshot()
    with pytest.raises(EvalkitError, match="bytes"):
        expert.restore(state[:-8], np.array([], np.int32))
    with pytest.raises(EvalkitError, match="damaged"):
        expert.restore(b"\xff" * len(state), np.array([], np.int32))


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("tilt", {"orders": [1, 2]}, "at least 2"),
        ("tilt", {"orders": "2..20"}, "at most 16"),
        ("tilt", {"beta": "-1"}, "within 0..20"),
        ("tilt", {"min_share": [0.5]}, "1 numbers for 9 orders"),
        ("tilt", {"min_share": "1.5"}, "within 0..1"),
        ("tilt", {"min_count": "0"}, "within 1..189"),
        ("tilt", {"memory_mib": "1"}, "memory_mib must be at least 4, got 1"),
        ("match", {"min_length": "9", "max_length": "8"}, "must rise"),
        ("match", {"misses": "9"}, "within 0..8"),
        ("match", {"expected_tokens": "-1"}, "at least 0"),
        ("best_agree", {"words": [2, 1]}, "rising"),
        ("best_agree", {"words": [5]}, "within 1..4"),
        ("best_agree", {"words": [1, 2, 3], "document_words": [1]}, "9 hints"),
        ("best_agree", {"orders": [], "words": [], "document_words": []}, "0 hints"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(name: str, raw: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_adapter(name, raw)


def test_best_agree_needs_to_know_where_words_start() -> None:
    with pytest.raises(InputError, match="--tokenizer"):
        make_adapter("best_agree", {}).begin(StreamInfo(8, 1, 0))
    make_adapter("best_agree", {"words": [], "document_words": []}).begin(StreamInfo(8, 1, 0))
