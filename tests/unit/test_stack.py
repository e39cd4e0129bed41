"""Does a stack hand every stage what it asked for, and adapters come from names?"""

from __future__ import annotations

import functools
import math
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit import _native
from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Rows, Side, StreamInfo, TokenChunk
from evalkit.adapters.pipeline import in_line
from evalkit.adapters.registry import BUILT_IN, adapter_class, describe, make_adapter, parse_adapter
from evalkit.adapters.stack import Stack, merge_needs
from evalkit.adapters.strict import StrictExpert
from evalkit.errors import EvalkitError, InputError
from evalkit.models import forward
from evalkit.settings import limits
from tests.kit import adapters_of, examples, fused, golf, tiny_stream

INFO = StreamInfo(vocab_size=5, bos_id=1, first_token=1)


class Halves(StrictExpert):
    """Mix half of a unigram count into the row."""

    name: ClassVar[str] = "halves"

    def begin(self, info: StreamInfo) -> None:
        super().begin(info)
        self.count = np.ones(info.vocab_size)

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        self.saw = (side, history)
        return 0.5 * p + 0.5 * self.count / self.count.sum()

    def observe(self, receipt: Receipt) -> None:
        self.count[receipt.tokens[0]] += 1
        self.context = receipt.context


class Hinter:
    """Doubles nothing: records what it is given."""

    name: ClassVar[str] = "hinter"
    settings = None

    def __init__(self, hints: int) -> None:
        self.needs = Needs(hints=hints, entropy=True, masses=("word_start",))

    def begin(self, info: StreamInfo) -> None:
        self.chunks: list[TokenChunk] = []

    def propose(self, tokens: Int32) -> Int32:
        return np.full((len(tokens), self.needs.hints), self.needs.hints, np.int32)

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        self.chunks.append(chunk)
        return p

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return p

    def observe(self, receipt: Receipt) -> None: ...

    def snapshot(self) -> bytes:
        return b"h"

    def restore(self, state: bytes, tokens: Int32) -> None:
        self.restored = (state, tokens)

    def state_bytes(self) -> int:
        return 7


def test_hints_and_own_columns() -> None:
    one, two = Hinter(1), Hinter(2)
    stack = Stack([one, two])
    stack.begin(INFO)
    tokens = np.array([3, 4], np.int32)
    hints = stack.propose(tokens)
    assert hints.tolist() == [[1, 2, 2], [1, 2, 2]]
    cands = np.concatenate((tokens[:, None], hints), axis=1)
    p = np.arange(8, dtype=np.float64).reshape(2, 4)
    out = stack.score(tokens, cands, p, Side())
    assert out.shape == (3, 2)
    assert out.tolist() == [[0.0, 4.0]] * 3
    assert (one.chunks[0].own, two.chunks[0].own) == (1, 2)
    assert len(one.chunks[0].history) == 0
    assert two.chunks[0].history[0] is p
    assert stack.needs == Needs(hints=3, entropy=True, masses=("word_start",))
    assert stack.state_bytes() == 14


def test_rows_go_up_to_the_last_stage_that_needs_them() -> None:
    before, behind = Hinter(1), Hinter(1)
    stack = Stack([before, Halves(), behind])
    assert stack.needs.rows
    stack.begin(INFO)
    p = np.full((3, 5), 0.2)
    tokens = np.array([2, 2, 0], np.int32)
    cands = np.array([[2, 1, -1], [2, 1, 0], [0, -1, 4]], np.int32)
    out = stack.score(tokens, cands, p, Side(entropy=np.zeros(3)))
    assert before.chunks[0].cands is None
    want = [0.5 * 0.2 + 0.5 / 5, 0.5 * 0.2 + 0.5 * 2 / 6, 0.5 * 0.2 + 0.5 / 7]
    np.testing.assert_allclose(out[2:], [want, want])
    (chunk,) = behind.chunks
    assert chunk.cands is cands
    assert chunk.own == 2
    assert [h.shape for h in chunk.history] == [(3, 3)] * 2
    stack = Stack([Hinter(1), last := Hinter(0)])
    stack.begin(INFO)
    stack.score(tokens, np.ascontiguousarray(cands[:, :2]), np.ones((3, 2)), Side(entropy=np.zeros(3)))
    assert last.chunks[0].cands.tolist() == [[2], [2], [0]]
    assert [h.shape for h in last.chunks[0].history] == [(3, 1)]
    stack = Stack([before, Halves(), behind])
    weights = p.astype(np.float32)
    rows = Rows(weights, 1.0 / weights.astype(np.float64).sum(axis=1))
    stack.begin(INFO)
    np.testing.assert_allclose(stack.score(tokens, cands, rows, Side(entropy=np.zeros(3))), out, rtol=1e-15)


@pytest.mark.parametrize("spec", ["log_bias", "log_bias:previous_prior=2", "log_bias:stride=5,precondition=adagrad"])
@pytest.mark.parametrize("behind", ["", "|ppm|match|hedge", "|temperature"])
def test_float32_rows_and_columns_have_the_bits_of_whole_rows(spec: str, behind: str) -> None:
    rng = np.random.default_rng(3)
    vocab, n = 40, 300
    info = StreamInfo(vocab_size=vocab, bos_id=1, first_token=0)
    tokens = np.tile(rng.integers(0, vocab, n // 3), 3).astype(np.int32)
    logits = rng.standard_normal((n, vocab)).astype(np.float32) * 3
    _, entropy, top, _, _, weights, factors = _native.row_sums(logits, weights=True)
    assert weights is not None
    assert factors is not None
    rows, side = Rows(weights, factors), Side(entropy=entropy, top_id=top)
    np.testing.assert_allclose(rows.p().sum(axis=1), 1.0, rtol=0, atol=1e-14)

    def scored(p: Float64 | Rows, cut: int, whole: bool = False) -> Float64:
        stack = Stack([parse_adapter(s) for s in (spec + behind).split("|")])
        stack.begin(info)
        out = []
        for lo, hi in ((0, cut), (cut, n)):
            cands = np.concatenate((tokens[lo:hi, None], stack.propose(tokens[lo:hi])), axis=1)
            part = p.cut(lo, hi) if isinstance(p, Rows) else p[lo:hi]
            out.append(stack.score(tokens[lo:hi], None if whole else cands, part, side.cut(lo, hi)))
        return np.concatenate(out, axis=1)

    want = scored(rows.p(), 100, whole=True).tolist()
    for p in (rows, rows.p()):
        for cut in (1, 17, 160):
            assert scored(p, cut).tolist() == want


@pytest.mark.parametrize("spec", ["halves + ppm + match + hedge", "ppm + halves + match + tilt", "match + halves"])
def test_behind_the_last_stage_on_whole_rows_columns_go_on_with_the_same_bits(spec: str) -> None:
    rng = np.random.default_rng(0)
    info = StreamInfo(vocab_size=9, bos_id=1, first_token=1)
    tokens = rng.integers(2, 5, 300).astype(np.int32)
    p = rng.dirichlet(np.ones(9), 300)

    def scored(columns: bool) -> tuple[Stack, Float64]:
        stack = Stack([Halves() if name == "halves" else parse_adapter(name) for name in spec.split(" + ")])
        stack.begin(info)
        cands = np.concatenate((tokens[:, None], stack.propose(tokens)), axis=1)
        return stack, stack.score(tokens, cands if columns else None, p, side)

    side = Side(entropy=-(p * np.log(p)).sum(1), top_id=p.argmax(1).astype(np.int32), top_p=p.max(1))
    stack, columns = scored(True)
    np.testing.assert_array_equal(columns, scored(False)[1])
    before = spec.split(" + ")[: stack.whole - 1]
    assert stack.experts[stack.whole - 1].name == "halves"
    assert (
        stack.late() == ""
        if not before
        else stack.late().startswith(f"halves reads whole rows behind {before[0]}, which")
    )


def test_a_strict_expert_cannot_reach_the_next_row_or_target() -> None:
    expert = Halves()
    expert.begin(INFO)
    p = np.full((4, 5), 0.2)
    seen: list[Float64] = []
    expert.row = lambda q, side, history=(): (seen.append(q), q)[1]  # type: ignore[method-assign]
    expert.score(TokenChunk(np.array([1, 2, 3, 4], np.int32), None, Side()), p)
    assert [q.base for q in seen] == [None] * 4
    assert expert.context.tolist() == [1, 1, 2, 3]


def test_a_strict_expert_needs_rows() -> None:
    expert = Halves()
    expert.begin(INFO)
    with pytest.raises(EvalkitError, match="whole rows"):
        expert.score(TokenChunk(np.zeros(1, np.int32), np.zeros((1, 1), np.int32), Side()), np.ones((1, 1)))


def test_snapshots_of_another_stack_are_refused() -> None:
    stack = Stack([Hinter(1)])
    stack.begin(INFO)
    tokens = np.array([1, 2], np.int32)
    stack.restore(stack.snapshot(), tokens)
    assert stack.experts[0].restored == (b"h", tokens)  # type: ignore[attr-defined]
    other = Stack([Halves()])
    other.begin(INFO)
    with pytest.raises(EvalkitError, match="'hinter'"):
        other.restore(stack.snapshot(), tokens)
    for garbage in (b"", b"\x00", stack.snapshot()[:-1], b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(EvalkitError, match="snapshot"):
            stack.restore(garbage, tokens)


def test_a_wrong_number_of_hints_is_our_fault_not_silent() -> None:
    expert = Hinter(2)
    expert.propose = lambda tokens: np.zeros((len(tokens), 1), np.int32)  # type: ignore[method-assign]
    stack = Stack([expert])
    with pytest.raises(EvalkitError, match="promised"):
        stack.propose(np.zeros(3, np.int32))


def test_hints_that_nobody_can_bring_are_refused_before_work_begins() -> None:
    class Promises(Halves):
        needs = Needs(hints=2)

    with pytest.raises(InputError, match=r"needs.hints is 2, but it has no propose\(tokens\)"):
        Stack([Promises()])


def test_an_empty_stack_is_the_model() -> None:
    stack = Stack([])
    stack.begin(INFO)
    tokens = np.array([2], np.int32)
    assert stack.propose(tokens).shape == (1, 0)
    assert stack.score(tokens, tokens[:, None], np.array([[0.3]]), Side()).tolist() == [[0.3]]
    assert merge_needs([]) == Needs()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pmp", "did you mean 'ppm'"),
        ("ppm:ordres=2..7", "did you mean 'orders'"),
        ("ppm:min_count=2,min_count=3", "given twice"),
        ("no_such_module:Class", "cannot import no_such_module"),
        ("evalkit.adapters.experts.ppm:Pmp", "did you mean 'Ppm'"),
        ("evalkit.adapters.experts.ppm:PpmSettings", "neither an expert"),
        ("nowhere.py:Mine", "no such file"),
    ],
)
def test_wrong_names_get_a_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_adapter(text)


def test_a_class_in_a_file_is_an_adapter(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from evalkit.adapters.strict import StrictExpert\n"
        "class Mine(StrictExpert):\n"
        "    'Leave the row alone.'\n"
        "    name = 'mine'\n"
        "    def row(self, p, side, history=()): return p\n"
        "    def observe(self, receipt): pass\n"
    )
    expert = make_adapter(f"{file}:Mine")
    assert expert.name == "mine"
    row = describe(f"{file}:Mine")[0]
    assert (row["clock"], row["summary"], row["settings"]) == ("token", "Leave the row alone.", [])
    with pytest.raises(InputError, match="takes no settings"):
        make_adapter(f"{file}:Mine", {"x": "1"})
    file.write_text("class Mine(:\n")
    with pytest.raises(InputError, match="cannot import"):
        make_adapter(f"{file}:Mine")


def test_the_table_of_adapters_has_docs_for_every_setting() -> None:
    for row in describe():
        assert row["summary"]
        for setting in row["settings"]:
            assert setting["doc"], (row["name"], setting["name"])


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_range_is_told_once_printed_and_kept(name: str) -> None:
    """Whatever a setting's metadata forbid is refused in one sentence, from the command line and from Python."""
    kind = adapter_class(name)
    printed = {row["name"]: row["range"] for row in describe(name)[0]["settings"]}
    for field, limit in limits(kind.Settings).items():  # type: ignore[attr-defined]
        assert printed[field] == f"must {limit}"
        outside: Any = [() if limit.items else limit.gt if limit.ge is None else limit.ge - 1]
        outside += [math.nan] if isinstance(limit.default, float) else []
        outside += [limit.le + 1] if limit.le is not None else []
        for value in outside:
            said = f"adapter {name}: setting {field}.* must {re.escape(str(limit))}, got "
            with pytest.raises(InputError, match=said):
                make_adapter(name, {field: value})
            with pytest.raises(InputError, match=said):
                kind.Settings(**{field: value})  # type: ignore[attr-defined]


@pytest.mark.parametrize("plan", ["disjoint:seq_len=32", "sliding:seq_len=48,stride=16"])
@pytest.mark.parametrize("apart", [True, False], ids=["head apart", "logits alone"])
def test_logits_come_in_slabs_where_the_vocabulary_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, apart: bool
) -> None:
    """A batch of 8,192 rows of 152 thousand ids would be 5 GB."""
    model, stream = golf(), tiny_stream(tmp_path)
    monkeypatch.setattr(model, "can", model.can if apart else model.can - {"split"})
    whole = fused(model, stream, adapters_of("log_bias + ppm"), plan, tmp_path / "whole")
    rows = list[int]()
    finish = forward.LocalForward.finish

    def count(self: Any, logits: torch.Tensor, question: Any) -> Any:
        rows.append(logits.size(0))
        return finish(self, logits, question)

    monkeypatch.setattr(forward.LocalForward, "finish", count)
    monkeypatch.setattr(forward, "LOGIT_CELLS", 33 * model.vocab_size)
    slabs = fused(model, stream, adapters_of("log_bias + ppm"), plan, tmp_path / "slabs")
    assert sum(rows) == stream.n_targets
    assert max(rows) <= (33 if apart else 48)  # one window at least
    np.testing.assert_allclose(slabs, whole, rtol=0, atol=2e-5)  # a product of other shape may round otherwise


@settings(max_examples=examples(20), deadline=None, derandomize=True)
@given(
    stages=st.integers(1, 6),
    parts=st.integers(1, 9),
    threads=st.integers(1, 4),
    pauses=st.randoms(use_true_random=False),
)
def test_a_stage_works_in_order_behind_the_one_in_front(
    stages: int, parts: int, threads: int, pauses: random.Random
) -> None:
    began, ended = [list[int]() for _ in range(stages)], [list[int]() for _ in range(stages)]

    def stage(s: int, i: int) -> None:
        assert s == 0 or i in ended[s - 1]
        assert len(began[s]) == len(ended[s]) == i
        began[s].append(i)
        time.sleep(pauses.choice([0.0, 0.0, 0.0005]))
        ended[s].append(i)

    with ThreadPoolExecutor(3) as pool:
        in_line([functools.partial(stage, s) for s in range(stages)], parts, threads, pool)
    assert ended == [list(range(parts))] * stages


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_fault_in_one_stage_ends_all_and_is_told(threads: int) -> None:
    seen = []

    def broken(i: int) -> None:
        if i == 2:
            raise EvalkitError("part 2")

    with ThreadPoolExecutor(3) as pool, pytest.raises(EvalkitError, match="part 2"):
        in_line([lambda i: None, broken, seen.append], 5, threads, pool)
    assert seen in ([], [0], [0, 1])


def test_only_experts_made_for_it_run_in_threads() -> None:
    native = [parse_adapter(s) for s in ("ppm", "match")]
    assert Stack(native, 8).threads == 4
    assert Stack([*native, Halves()], 8).threads == 1


def test_counting_ahead_is_checked() -> None:
    ppm = parse_adapter("ppm:side=false")
    ppm.begin(INFO)
    tokens = np.array([2, 3, 2], np.int32)
    ppm.count(tokens, tokens[:, None])
    with pytest.raises(ValueError, match="counted ahead that are not scored"):
        ppm.row(np.full(5, 0.2), Side())
    with pytest.raises(ValueError, match="not the targets that were counted"):
        ppm.score(TokenChunk(tokens[:2], tokens[:2, None], Side()), np.full((2, 1), 0.2))
    ppm.score(TokenChunk(tokens, tokens[:, None], Side()), np.full((3, 1), 0.2))
    ppm.row(np.full(5, 0.2), Side())
