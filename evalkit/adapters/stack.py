"""How do several experts become one scorer?  Left to right; each stage maps a normalised row to a normalised row."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from evalkit.adapters.base import Expert, Float64, Int32, Needs, Receipt, Side, StreamInfo, TokenChunk
from evalkit.errors import EvalkitError


class Stack:
    """S experts in order.  Shapes: n targets, H hints of all experts together, K = 1 + H columns (or V), V vocabulary."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        self.experts = tuple(experts)
        self.needs = merge_needs([e.needs for e in self.experts])
        hints = [e.needs.hints for e in self.experts]
        self._own = [1 + sum(hints[:i]) for i in range(len(hints))]

    def begin(self, info: StreamInfo) -> None:
        """Fresh state in every expert."""
        for expert in self.experts:
            expert.begin(info)

    def propose(self, tokens: Int32) -> Int32:
        """int32 [n] -> int32 [n, H]: every expert's hints side by side, -1 where there is none."""
        wanted = [e for e in self.experts if e.needs.hints > 0]
        parts = [_checked_hints(e, e.propose(tokens), len(tokens)) for e in wanted]
        return np.concatenate(parts, axis=1) if parts else np.empty((len(tokens), 0), np.int32)

    def score(self, tokens: Int32, cands: Int32 | None, p: Float64, side: Side) -> Float64:
        """Probability of each target after each stage, float64 [S+1, n]; row 0 is the model's.

        tokens int32 [n]; cands int32 [n, 1+H], column 0 the target; p float64 [n, 1+H], or [n, V] when ``needs.rows``
        (cands are not used then).  Every expert has observed the targets when this returns.
        """
        ids = None if self.needs.rows else cands
        column = tokens if ids is None else np.zeros(len(tokens), np.int32)
        at = np.arange(len(tokens))
        out = np.empty((len(self.experts) + 1, len(tokens)))
        out[0] = p[at, column]
        history: tuple[Float64, ...] = ()
        for i, (expert, own) in enumerate(zip(self.experts, self._own, strict=True)):
            q = expert.score(TokenChunk(tokens, ids, side, own, history), p)
            history, p = (*history, p), q
            out[i + 1] = q[at, column]
        return out

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


def _checked_hints(expert: Expert, hints: Int32, n: int) -> Int32:
    want = (n, expert.needs.hints)
    if hints.shape != want or hints.dtype != np.int32:
        raise EvalkitError(f"{expert.name} proposed {hints.dtype} {hints.shape}, promised int32 {want}")
    return hints
