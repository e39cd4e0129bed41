"""Where do SLOT's delta and bias enter the model, and where do the hidden states that they learn from come from?

    logits = head(hidden + delta) + bias        one delta for the stream, and one more inside the current document

Both are constants while a chunk is scored, learned from targets before it.  The hidden states of the scoring pass are
kept until the chunk is booked, so learning costs no second pass through the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evalkit.adapters.learners.slot_state import SlotState
from evalkit.adapters.learners.ttt_document import CurrentDocument
from evalkit.adapters.learners.ttt_head import SplitModel
from evalkit.plan import Window


class SlotModel(SplitModel):
    """``stream`` and ``in_document``: the states that are added; None where there is none."""

    def __init__(
        self, inner: Any, owner: str, stream: SlotState | None, in_document: SlotState | None, document: CurrentDocument
    ) -> None:
        super().__init__(inner, owner)
        self.stream, self.in_document, self.document = stream, in_document, document
        self.can |= {"scored"}
        self._last: Tensor | None = None
        self._kept: dict[int, Tensor] = {}

    def logits(self, ids: Tensor, owners: Tensor) -> Tensor:
        hidden = self.inner.hidden(ids, owners)
        self._last = None if torch.is_grad_enabled() else hidden
        return self.shifted(hidden, self._mask(owners))

    def banded(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        hidden, state = self.banded_hidden(ids, owners, state, window)
        self._last = None if torch.is_grad_enabled() else hidden[None]
        return self.shifted(hidden, self._mask(owners)), state

    def head(self, hidden: Tensor) -> Tensor:
        """With the stream's delta and bias; which document a bare hidden state belongs to is not known."""
        return self.shifted(hidden, torch.zeros(hidden.shape[:-1], dtype=torch.bool, device=hidden.device))

    def _mask(self, owners: Tensor) -> Tensor | None:
        return None if self.in_document is None else self.document.mask(owners)

    def shifted(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Logits [..., V] of hidden [..., D]; the document's state counts where ``mask`` is true (None: everywhere)."""
        out = self.inner.head(hidden + self._sum("delta", mask).to(hidden.dtype))
        return out + self._sum("bias", mask).to(out.dtype)

    def _sum(self, part: str, mask: Tensor | None) -> Tensor:
        total = torch.zeros((), device=self.device)
        if self.stream is not None:
            total = getattr(self.stream, part)
        if self.in_document is not None:
            own = getattr(self.in_document, part)
            total = total + (own if mask is None else own * mask[..., None])
        return total

    def scored(self, windows: Sequence[Window]) -> None:
        """Keep the hidden states of the windows' targets, by the first target."""
        if "scored" in self.inner.can:
            super().scored(windows)
        if self._last is None:
            return
        for window, rows in zip(windows, self._last, strict=True):
            self._kept[window.lo] = rows[window.skip :].detach()
        self._last = None

    def take(self, lo: int, hi: int) -> Tensor | None:
        """Hidden states [hi - lo, D] of booked targets, and forget them; None when they were not all seen here."""
        kept, self._kept = self._kept, {}
        rows, at = list[Tensor](), lo
        while at < hi and at in kept:
            rows.append(kept[at])
            at += len(kept[at])
        return torch.cat(rows) if at == hi else None
