"""How does one document's low-rank state stay out of the next document?  By a mask over positions, or by pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evalkit.adapters.learners.lora import LoraModel
from evalkit.adapters.learners.ttt_document import CurrentDocument


class DocumentLoraModel(LoraModel):
    """A LoraModel whose terms count only inside the current document; everywhere when ``document`` is None."""

    def __init__(self, inner: Any, owner: str, document: CurrentDocument | None) -> None:
        super().__init__(inner, owner)
        self._document = document

    def _mask(self, owners: Tensor) -> Tensor | None:
        return None if self._document is None else self._document.mask(owners)

    def logits(self, ids: Tensor, owners: Tensor) -> Tensor:
        self.gate.mask = self._mask(owners)
        if self._head is None:
            return self.inner.logits(ids, owners)
        return self.head(self.inner.hidden(ids, owners))

    def hidden(self, ids: Tensor, owners: Tensor) -> Tensor:
        self.gate.mask = self._mask(owners)
        return self.inner.hidden(ids, owners)

    def banded(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        if self._head is None:
            return self._pieces(self.inner.banded, ids, owners, state, window)
        hidden, state = self.banded_hidden(ids, owners, state, window)
        return self.head(hidden), state

    def banded_hidden(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        return self._pieces(super().banded_hidden, ids, owners, state, window)

    def _pieces(
        self, run: Callable[..., Any], ids: Tensor, owners: Tensor, state: Any, window: int
    ) -> tuple[Tensor, Any]:
        """A banded pass cuts its input as it likes, so it is given pieces on which the mask has one value."""
        mask = self._mask(owners)
        edges = [0, len(ids)]
        if mask is not None:
            edges[1:1] = (torch.nonzero(mask[1:] != mask[:-1])[:, 0] + 1).tolist()
        rows = []
        for begin, end in itertools.pairwise(edges):
            self.gate.mask = None if mask is None else mask[begin : begin + 1]
            out, state = run(ids[begin:end], owners[begin:end], state, window)
            rows.append(out)
        self.gate.mask = mask
        return torch.cat(rows), state
