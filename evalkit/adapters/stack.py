"""The stack of experts, left to right: each stage maps a normalised row to a normalised row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec
import numpy as np

from evalkit.adapters.base import (
    CountsAhead,
    EndsRows,
    Expert,
    Float64,
    HintingExpert,
    Int32,
    Needs,
    Receipt,
    Rows,
    RunsBeside,
    Side,
    StreamInfo,
    TokenChunk,
)
from evalkit.adapters.pipeline import in_line
from evalkit.errors import EvalkitError, InputError

SLICE_CELLS = 1 << 18
"""Cells of a float64 row stage at a time, 2 MiB: whole rows of a chunk never stand in memory once per stage."""
LEAST_PART, MOST_PARTS = 512, 8
"""Targets of a part (or a multiple), and parts of a call, at most, where stages work at once: a part costs each stage 0.01 ms."""


@dataclass
class _Part:
    """Consecutive targets on their way through the stages."""

    tokens: Int32
    cands: Int32 | None
    p: Float64 | Rows
    side: Side
    past: list[Float64] = field(default_factory=list)
    """The model's p and those after the stages that are done, all in the columns of ``cands``."""


class Stack:
    """S experts in order.  Shapes: n targets, H hints of all experts together, K = 1 + H columns (or V), V vocabulary."""

    def __init__(self, experts: Sequence[Expert], threads: int = 1) -> None:
        """``threads``: how many stages may work at once, where all of them are made for it; the bits are the same."""
        self.experts = tuple(experts)
        beside = all(isinstance(e, RunsBeside) for e in self.experts)
        self.threads = max(1, min(threads, 2 * len(self.experts))) if beside else 1
        self.needs = merge_needs([e.needs for e in self.experts])
        hints = [e.needs.hints for e in self.experts]
        self._hinting = [_hinting(e) for e in self.experts if e.needs.hints]
        self._own = [1 + sum(hints[:i]) for i in range(len(hints))]
        self._hinted = max((i + 1 for i, h in enumerate(hints) if h), default=0)
        self.whole = max((i + 1 for i, e in enumerate(self.experts) if e.needs.rows), default=0)
        """Leading stages that are given whole rows: up to the last one that reads them; columns go on behind it."""

    def begin(self, info: StreamInfo) -> None:
        """Fresh state in every expert."""
        for expert in self.experts:
            expert.begin(info)

    def propose(self, tokens: Int32) -> Int32:
        """int32 [n] -> int32 [n, H]: every expert's hints side by side, -1 where there is none."""
        if self.threads > 1 and len(self._hinting) > 1:
            others = [self._pool.submit(e.propose, tokens) for e in self._hinting[:-1]]
            last = self._hinting[-1].propose(tokens)
            found = [*(other.result() for other in others), last]
        else:
            found = [e.propose(tokens) for e in self._hinting]
        parts = [_checked_hints(e, hints, len(tokens)) for e, hints in zip(self._hinting, found, strict=True)]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(tokens), 0), np.int32)

    def score(self, tokens: Int32, cands: Int32 | None, p: Float64 | Rows, side: Side) -> Float64:
        """Probability of each target after each stage, float64 [S+1, n]; row 0 is the model's.

        tokens int32 [n]; cands int32 [n, 1+H], column 0 the target; p float64 [n, 1+H], or whole rows when ``needs.rows``.
        Without cands every stage gets whole rows.  Every expert has observed the targets when this returns.
        """
        cuts = self._cuts(len(tokens))
        parts = (
            [_Part(tokens, cands, p, side)]
            if len(cuts) == 1
            else [
                _Part(
                    tokens[a:b],
                    None if cands is None else cands[a:b],
                    p.cut(a, b) if isinstance(p, Rows) else p[a:b],
                    side.cut(a, b),
                )
                for a, b in cuts
            ]
        )
        first = 0 if cands is None else self.whole
        behind = range(first, len(self.experts))
        stages = [self._enter, *(functools.partial(self._stage, i) for i in behind)]
        if len(parts) == 1:
            for stage in stages:
                stage(parts[0])
        else:
            counting = [i for i in behind if isinstance(self.experts[i], CountsAhead) and cands is not None]
            stages = [*(functools.partial(self._count, i) for i in counting), *stages]
            works = [lambda i, stage=stage: stage(parts[i]) for stage in stages]
            in_line(works, len(parts), self.threads, self._pool)
        return np.concatenate([_targets(part) for part in parts], axis=1)

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads - 1, "stage")

    def _cuts(self, n: int) -> list[tuple[int, int]]:
        size = n if self.threads == 1 else -(-n // (MOST_PARTS * LEAST_PART)) * LEAST_PART
        return [(begin, min(begin + size, n)) for begin in range(0, n, max(1, size))] or [(0, 0)]

    def _enter(self, part: _Part) -> None:
        """The model's own columns, and the stages up to the last one that reads whole rows."""
        if part.cands is None or self.whole == 0:
            assert not isinstance(part.p, Rows)
            part.past = [part.p]
        else:
            part.past = self._whole_rows(part.tokens, part.cands, part.p, part.side)

    def _count(self, i: int, part: _Part) -> None:
        expert = self.experts[i]
        assert isinstance(expert, CountsAhead)
        assert part.cands is not None
        expert.count(part.tokens, np.ascontiguousarray(part.cands[:, :1]) if i >= self._hinted else part.cands)

    def _stage(self, i: int, part: _Part) -> None:
        """Stage i.  Behind the last stage with hints the target's column goes on alone."""
        if part.cands is not None and part.cands.shape[1] > 1 and i >= self._hinted:
            part.cands = np.ascontiguousarray(part.cands[:, :1])
            part.past = [np.ascontiguousarray(p[:, :1]) for p in part.past]
        chunk = TokenChunk(part.tokens, part.cands, part.side, self._own[i], tuple(part.past[:-1]))
        part.past.append(self.experts[i].score(chunk, part.past[-1]))

    def _whole_rows(self, tokens: Int32, cands: Int32, p: Float64 | Rows, side: Side) -> list[Float64]:
        """The model's columns [n, 1+H], and those after each stage up to the last that reads whole rows."""
        width = p.weights.shape[1] if isinstance(p, Rows) else p.shape[1]
        ends = isinstance(self.experts[0], EndsRows) and self.whole == 1  # makes no float64 rows
        step = max(1, len(tokens) if ends else SLICE_CELLS // max(1, width))
        parts = []
        for begin in range(0, max(1, len(tokens)), step):
            end = min(begin + step, len(tokens))
            rows = p.cut(begin, end) if isinstance(p, Rows) else p[begin:end]
            parts.append(self._slice(tokens[begin:end], cands[begin:end], rows, side.cut(begin, end)))
        return [np.concatenate(stage) for stage in zip(*parts, strict=True)]

    def _slice(self, tokens: Int32, cands: Int32, p: Float64 | Rows, side: Side) -> list[Float64]:
        columns, past = [_columns(p, cands)], list[Float64]()
        for i, (expert, own) in enumerate(zip(self.experts[: self.whole], self._own, strict=False)):
            if i + 1 == self.whole and isinstance(expert, EndsRows):
                chunk = TokenChunk(tokens, cands, side, own, tuple(columns[:-1]))
                columns.append(expert.score_columns(chunk, p))
                break
            whole = p.p() if isinstance(p, Rows) else p
            p = expert.score(TokenChunk(tokens, None, side, own, tuple(past)), whole)
            past.append(whole)
            columns.append(_columns(p, cands))
        return columns

    def late(self) -> str:
        """One sentence about stages that make the ones before them work on whole rows; empty when none does."""
        before = [e.name for e in self.experts[: self.whole] if not e.needs.rows]
        if not before:
            return ""
        last = self.experts[self.whole - 1].name
        return (
            f"{last} reads whole rows behind {', '.join(before)}, which therefore work on every entry of a row where a "
            f"few would do; put it first if that is as good ('evalkit profile' shows the seconds)"
        )

    def row(self, p: Float64, side: Side) -> list[Float64]:
        """The next target's row after each stage, the model's first; S+1 arrays [V].  Changes no visible state."""
        rows = [p]
        for expert in self.experts:
            rows.append(expert.row(rows[-1], side, tuple(rows[:-1])))
        return rows

    def observe(self, receipt: Receipt) -> None:
        """Strict spelling: every expert learns the one booked target."""
        for expert in self.experts:
            expert.observe(receipt)

    def snapshot(self) -> bytes:
        """What was learned from scores, per expert; the rest follows from the tokens."""
        return msgspec.msgpack.encode([(e.name, e.snapshot()) for e in self.experts])

    def restore(self, state: bytes, tokens: Int32) -> None:
        """After begin(): be as if ``tokens`` had been scored.  EvalkitError when the snapshot is of another stack."""
        try:
            parts = msgspec.msgpack.decode(state, type=list[tuple[str, bytes]])
        except msgspec.DecodeError as fault:
            raise EvalkitError(f"the stack's snapshot cannot be read: {fault}") from None
        names = [name for name, _ in parts]
        if names != [e.name for e in self.experts]:
            raise EvalkitError(f"the snapshot is of the stack {names}, this is {[e.name for e in self.experts]}")
        for expert, (_, data) in zip(self.experts, parts, strict=True):
            expert.restore(data, tokens)

    def state_bytes(self) -> int:
        """Memory held by all experts, bytes."""
        return sum(e.state_bytes() for e in self.experts)


def merge_needs(needs: Sequence[Needs]) -> Needs:
    """What one gathering must bring so that every stage has what it reads."""
    return Needs(
        hints=sum(n.hints for n in needs),
        entropy=any(n.entropy for n in needs),
        top=any(n.top for n in needs),
        masses=tuple(dict.fromkeys(m for n in needs for m in n.masses)),
        rows=any(n.rows for n in needs),
    )


def _targets(part: _Part) -> Float64:
    """The targets' column after each stage, float64 [S+1, n]."""
    column = part.tokens if part.cands is None else np.zeros(len(part.tokens), np.int32)
    return np.array([p[np.arange(len(part.tokens)), column] for p in part.past])


def _columns(p: Float64 | Rows, cands: Int32) -> Float64:
    """Columns int32 [n, K] of whole rows (-1 reads token 0)."""
    return p.columns(cands) if isinstance(p, Rows) else np.take_along_axis(p, np.maximum(cands, 0), axis=1)


def _hinting(expert: Expert) -> HintingExpert:
    """InputError when it wants hints in its columns and has no way to bring them."""
    if not isinstance(expert, HintingExpert):
        raise InputError(
            f"adapter {expert.name}: needs.hints is {expert.needs.hints}, but it has no propose(tokens) to bring them "
            "(HintingExpert in evalkit/adapters/base.py)"
        )
    return expert


def _checked_hints(expert: Expert, hints: Int32, n: int) -> Int32:
    want = (n, expert.needs.hints)
    if hints.shape != want or hints.dtype != np.int32:
        raise EvalkitError(f"{expert.name} proposed {hints.dtype} {hints.shape}, promised int32 {want}")
    return hints
