"""When does a learner learn?  When the booked position crosses a multiple of its chunk; until then it collects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalkit.adapters.base import KEEP_CONTEXT, Float64, Receipt
from evalkit.adapters.learners.ttt_windows import Int64
from evalkit.errors import EvalkitError
from evalkit.plan import owners

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Booked:
    """Targets [lo, hi) that are booked, to learn from.

    text int64: ``before`` booked tokens of context, then the targets.  nats float64 [hi - lo], as booked.
    owners int64, of text: the stream position where the document of each token begins, -1 when that is not at hand.
    """

    lo: int
    hi: int
    text: Int64
    before: int
    nats: Float64
    owners: Int64

    def since(self, position: int) -> Booked | None:
        """Only the targets after text position ``position``, which becomes the first context token; None if none."""
        if position <= 0:
            return self
        before = max(1, self.before - position)
        skipped = max(0, position + 1 - self.before)
        if skipped >= self.hi - self.lo:
            return None
        lo, text, nats = self.lo + skipped, self.text[position:], self.nats[skipped:]
        return Booked(lo, self.hi, text, before, nats, self.owners[position:])


class ChunkClock:
    """``chunk`` targets a tick (0: every receipt), on a grid that counts from the stream's first target.

    ``_document``: where the document of the last booked token begins; ``_owner``: that of the token before ``_lo``.
    """

    def __init__(self, chunk: int, keep: int, bos_id: int) -> None:
        """``keep``: context tokens to hold before the pending targets (at most KEEP_CONTEXT, what a receipt carries)."""
        self.chunk, self.keep, self._bos_id = chunk, min(keep, KEEP_CONTEXT), bos_id
        self._next = self._document = 0
        self._clear()

    def _clear(self) -> None:
        self._lo = self._before = self._owner = 0
        self._text: list[np.ndarray] = []
        self._nats: list[np.ndarray] = []

    def add(self, receipt: Receipt) -> Booked | None:
        """Collect; returns everything pending when the grid is crossed.  EvalkitError when receipts leave a gap."""
        if self._next and receipt.lo != self._next:
            raise EvalkitError(f"a learner got targets from {receipt.lo} after {self._next - 1}: receipts leave a gap")
        self._next = receipt.hi
        if not self._text:
            context = receipt.context[-self.keep :]
            self._lo, self._before, self._text = receipt.lo, len(context), [context.astype(np.int64)]
            self._owner = self._document
        begun = np.flatnonzero(receipt.tokens == self._bos_id)
        if len(begun):
            self._document = receipt.lo + int(begun[-1])
        self._text.append(receipt.tokens.astype(np.int64))
        self._nats.append(receipt.nats)
        if self.chunk and (receipt.hi - 1) // self.chunk == (receipt.lo - 1) // self.chunk:
            return None
        text, nats = np.concatenate(self._text), np.concatenate(self._nats)
        booked = Booked(self._lo, receipt.hi, text, self._before, nats, self._owners(text))
        self._clear()
        return booked

    def _owners(self, text: Int64) -> Int64:
        """Of pending tokens: from the BOS among them, and the one before them that owns their first target's input."""
        first = self._lo - self._before
        starts = first + np.flatnonzero(text == self._bos_id)
        if self._owner <= first:
            starts = np.concatenate(([self._owner], starts))
        return owners(starts, first, first + len(text))

    def state(self) -> dict[str, Tensor]:
        """What is pending, as tensors."""
        import torch

        text = np.concatenate(self._text) if self._text else np.empty(0, np.int64)
        nats = np.concatenate(self._nats) if self._nats else np.empty(0)
        head = [self._next, self._lo, self._before, self._document, self._owner]
        return {
            "clock.head": torch.tensor(head, dtype=torch.int64),
            "clock.text": torch.from_numpy(text),
            "clock.nats": torch.from_numpy(nats),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self._clear()
        self._next, self._lo, self._before, self._document, self._owner = (int(v) for v in state["clock.head"])
        if len(state["clock.text"]):
            self._text = [state["clock.text"].numpy()]
            self._nats = [state["clock.nats"].numpy()]
