"""Which positions of a window belong to the document that a per-document state was learned from?

Between two updates the state of one document is at hand: the one that the last booked target belongs to.  Documents that
begin inside the chunk under way start from nothing, so their positions must not see it.  Position p of the stream
belongs to the current document when its BOS stands at or before p and no later BOS does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evalkit.adapters.base import Receipt
from evalkit.errors import EvalkitError
from evalkit.plan import Window


class CurrentDocument:
    """``start``: stream position of the current document's BOS.  ``next_target``: first target not booked."""

    def __init__(self, bos_id: int) -> None:
        self.bos_id = bos_id
        self.start, self.next_target = 0, 1
        self._seen_to = 1
        self._next_bos: int | None = None
        self._windows: tuple[Window, ...] = ()

    def place(self, windows: Sequence[Window]) -> None:
        """The windows of the next forward call; they must come in stream order, without gaps."""
        self._windows = tuple(windows)

    def mask(self, ids: Tensor) -> Tensor | None:
        """ids int64 [B, L] or [L] of the placed windows -> bool of their shape; None when all are the current one's."""
        if not self._windows or ids.numel() % len(self._windows):
            raise EvalkitError("a per-document state was asked for windows that were not placed")
        rows = ids.reshape(len(self._windows), -1)
        starts = torch.tensor([w.start for w in self._windows], device=ids.device)
        positions = starts[:, None] + torch.arange(rows.shape[1], device=ids.device)
        self._look(rows, positions)
        mine = positions >= self.start
        if self._next_bos is not None:
            mine &= positions < self._next_bos
        return None if bool(mine.all()) else mine.reshape(ids.shape)

    def _look(self, rows: Tensor, positions: Tensor) -> None:
        """Remember the first BOS at or after ``next_target``; what is booked before it is known from receipts."""
        if min(w.lo for w in self._windows) > self._seen_to:
            raise EvalkitError(
                f"a per-document state saw no windows for targets {self._seen_to}..{self._windows[0].lo - 1}"
            )
        self._remember(rows, positions, max(w.hi for w in self._windows))

    def _remember(self, rows: Tensor, positions: Tensor, seen_to: int) -> None:
        self._seen_to = max(self._seen_to, seen_to)
        found = positions[(rows == self.bos_id) & (positions >= self.next_target)]
        if len(found):
            first = int(found.min())
            self._next_bos = first if self._next_bos is None else min(first, self._next_bos)

    def pass_over(self, first: int, ids: Tensor) -> None:
        """ids [n] at stream positions first.. were inputs of windows that another process ran, before the next ones."""
        positions = torch.arange(first, first + len(ids), device=ids.device)
        self._remember(ids, positions, first + len(ids) + 1)

    def observe(self, receipt: Receipt) -> bool:
        """Move on past a booked chunk; True when a new document has begun in it."""
        places = (receipt.tokens == self.bos_id).nonzero()[0]
        if len(places):
            self.start = receipt.lo + int(places[-1])
        self.next_target = self._seen_to = receipt.hi
        self._next_bos = None
        return len(places) > 0

    def state(self) -> dict[str, Tensor]:
        return {"document": torch.tensor([self.start, self.next_target])}

    def load(self, state: dict[str, Tensor]) -> None:
        self.start, self.next_target = (int(v) for v in state["document"])
        self._seen_to, self._next_bos = self.next_target, None
