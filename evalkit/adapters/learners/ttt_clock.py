"""When does a learner learn?  When the booked position crosses a multiple of its chunk; until then it collects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evalkit.adapters.base import KEEP_CONTEXT, Float64, Receipt
from evalkit.adapters.learners.ttt_windows import Int64
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Booked:
    """Targets [lo, hi) that are booked, to learn from.

    text int64: ``before`` booked tokens of context, then the targets.  nats float64 [hi - lo], as booked.
    """

    lo: int
    hi: int
    text: Int64
    before: int
    nats: Float64

    def since(self, position: int) -> Booked | None:
        """Only the targets after text position ``position``, which becomes the first context token; None if none."""
        if position <= 0:
            return self
        before = max(1, self.before - position)
        skipped = max(0, position + 1 - self.before)
        if skipped >= self.hi - self.lo:
            return None
        return Booked(self.lo + skipped, self.hi, self.text[position:], before, self.nats[skipped:])


class ChunkClock:
    """``chunk`` targets a tick (0: every receipt), on a grid that counts from the stream's first target."""

    def __init__(self, chunk: int, keep: int) -> None:
        """``keep``: context tokens to hold before the pending targets (at most KEEP_CONTEXT, what a receipt carries)."""
        self.chunk, self.keep = chunk, min(keep, KEEP_CONTEXT)
        self._next = 0
        self._clear()

    def _clear(self) -> None:
        self._lo = self._before = 0
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
        self._text.append(receipt.tokens.astype(np.int64))
        self._nats.append(receipt.nats)
        if self.chunk and (receipt.hi - 1) // self.chunk == (receipt.lo - 1) // self.chunk:
            return None
        booked = Booked(self._lo, receipt.hi, np.concatenate(self._text), self._before, np.concatenate(self._nats))
        self._clear()
        return booked

    def state(self) -> dict[str, Tensor]:
        """What is pending, as tensors."""
        import torch

        text = np.concatenate(self._text) if self._text else np.empty(0, np.int64)
        nats = np.concatenate(self._nats) if self._nats else np.empty(0)
        head = [self._next, self._lo, self._before]
        return {
            "clock.head": torch.tensor(head, dtype=torch.int64),
            "clock.text": torch.from_numpy(text),
            "clock.nats": torch.from_numpy(nats),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self._clear()
        self._next, self._lo, self._before = (int(v) for v in state["clock.head"])
        if len(state["clock.text"]):
            self._text = [state["clock.text"].numpy()]
            self._nats = [state["clock.nats"].numpy()]
