"""``StrictExpert``: base class for experts in plain Python; the fused spelling is made from their own ``row`` and ``observe``.

Subclass StrictExpert and write ``row`` and ``observe`` (and ``begin``, calling super).  The target is no argument of
``row``; the rows of later targets are not reachable from the array that ``row`` gets.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from evalkit.adapters.base import (
    TOKEN_CONTEXT,
    Float64,
    Int32,
    Needs,
    Receipt,
    Settings,
    Side,
    StreamInfo,
    TokenChunk,
    TokenLedger,
)
from evalkit.errors import EvalkitError


class StrictExpert:
    """An expert whose ``score`` is the strict spelling, target by target.  It asks for whole rows.

    Its ledger books that a row was given for a target, with ``nats`` = NaN: what the run pays for the target is known
    after the last stage, and inside a chunk that is later.  Learn from your row and the token, not from ``receipt.nats``.
    """

    name: ClassVar[str] = "strict"
    settings: Any = Settings()

    def begin(self, info: StreamInfo) -> None:
        self.info = info
        self._ledger = TokenLedger(np.array([info.first_token]), keep=TOKEN_CONTEXT)

    @property
    def needs(self) -> Needs:
        return Needs(rows=True)

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        """float64 [V] -> float64 [V]: yours to write."""
        raise NotImplementedError(f"{type(self).__name__} must define row(p, side, history)")

    def observe(self, receipt: Receipt) -> None:
        """Learn one booked target: yours to write."""
        raise NotImplementedError(f"{type(self).__name__} must define observe(receipt)")

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        """[n, V] -> [n, V]: row, then receipt, then observe, for one target after the other."""
        if chunk.cands is not None:
            raise EvalkitError(f"{self.name} needs whole rows and was given {chunk.cands.shape[1]} columns")
        out = np.empty_like(p)
        for i in range(len(p)):
            history = tuple(h[i].copy() for h in chunk.history)
            out[i] = self.row(p[i].copy(), chunk.side.at(i), history)
            self.observe(self._book(chunk.tokens[i : i + 1]))
        return out

    def _book(self, token: Int32) -> Receipt:
        """token int32 [1]: the target whose row is fixed."""
        return self._ledger.book(self._ledger.next_target, token, np.array([np.nan]))

    def snapshot(self) -> bytes:
        """Override together with ``restore`` when something learned does not follow from the tokens."""
        return b""

    def restore(self, state: bytes, tokens: Int32) -> None:
        """Replay the tokens through ``observe``; right when observe reads nothing but the receipt's tokens."""
        if state:
            raise EvalkitError(f"{self.name} keeps no snapshot, but was given {len(state)} bytes")
        for i in range(len(tokens)):
            self.observe(self._book(tokens[i : i + 1]))

    def state_bytes(self) -> int:
        return 0
