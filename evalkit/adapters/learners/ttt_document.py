"""The current document of a per-document state: which positions of a window may see it.

Between two updates the state of one document is at hand: the one that the last booked target belongs to.  Documents that
begin inside the chunk under way start from nothing, so their positions must not see it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evalkit.adapters.base import Receipt


class CurrentDocument:
    """``start``: stream position of the current document's BOS."""

    def __init__(self, bos_id: int) -> None:
        self.bos_id, self.start = bos_id, 0

    def mask(self, owners: Tensor) -> Tensor | None:
        """Owners int64 (see :class:`evalkit.models.base.Model`) -> bool of their shape; None when all are its own."""
        mine = owners == self.start
        return None if bool(mine.all()) else mine

    def observe(self, receipt: Receipt) -> bool:
        """Move on past a booked chunk; True when a new document has begun in it."""
        places = (receipt.tokens == self.bos_id).nonzero()[0]
        if len(places):
            self.start = receipt.lo + int(places[-1])
        return len(places) > 0

    def state(self) -> dict[str, Tensor]:
        return {"document": torch.tensor(self.start)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.start = int(state["document"])
