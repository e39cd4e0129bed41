"""How is a chunk scored when its documents learn side by side?  In turns: the next piece of each open document.

Rows of a piece are computed, kept, and only then shown to the learner, so the next piece of that document sees them.
A piece has a forward call of its own, padded to the length that it has where its document does not end: no bit of its
rows depends on another document, or on where its own will end.  A model that says ``batched`` gets the pieces of a turn
in one call, whose shape follows the neighbours.  Documents enter lanes in stream order and leave when they end; their
rows come out in stream order.  A document that the chunk cuts keeps its lane.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.adapters.base import Bool, Needs, Receipt
from evalkit.errors import InputError
from evalkit.models.forward import BatchRows, Forward
from evalkit.plan import Chunk, Plan, Window


@dataclass
class Open:
    """One document of the chunk: its pieces still to come, and the rows of those that are done."""

    first: int
    """Stream position of its first token; rows of a piece never reach before it."""
    pieces: deque[tuple[Window, int]]
    """Each with the input tokens of its forward call, padding included."""
    lane: int = -1
    done: list[tuple[Window, Tensor]] = field(default_factory=list)


class LaneForward:
    """The forward of one process for a model with lanes.  ``receipt(lo, tokens, nats, before)`` mints receipts."""

    def __init__(
        self,
        model: Any,
        plan: Plan,
        tokens: Any,
        doc_start: np.ndarray,
        needs: Needs,
        groups: dict[str, Bool],
        receipt: Callable[..., Receipt],
    ) -> None:
        if plan.name != "document":
            raise InputError(
                f"{model.owner}: lanes={model.lanes} trains documents apart, but plan {plan.name} scores across them; "
                "give --plan document:seq_len=512,stride=256, or lanes=0"
            )
        self.model, self.plan, self.tokens = model, plan, tokens
        self.needs, self.groups, self._receipt = needs, groups, receipt
        self._starts = set(np.asarray(doc_start).tolist())
        self._carried: tuple[int, int] | None = None

    def batches(self, chunk: Chunk) -> Iterator[BatchRows]:
        """Rows of the chunk's targets, document by document, in stream order."""
        documents = self._documents(chunk)
        waiting, active, out = deque(documents), list[Open](), deque(documents)
        free = [lane for lane in range(self.model.lanes) if self._carried is None or lane != self._carried[1]]
        while waiting or active:
            while waiting and (free or waiting[0].lane >= 0):
                active.append(self._enter(waiting.popleft(), free))
            self._advance(active)
            for document in [d for d in active if not d.pieces]:
                active.remove(document)
                self._leave(document, free)
            while out and not out[0].pieces and out[0].done:
                yield from self._rows(out.popleft())

    def _documents(self, chunk: Chunk) -> list[Open]:
        """The chunk's windows by document, cut into pieces of at most ``model.chunk`` targets."""
        found: list[Open] = []
        for window in chunk.windows:
            if not found or (window.start in self._starts and window.lo == window.start + 1):
                found.append(Open(window.start, deque()))
            end = window.lo + (self.plan.seq_len if window.skip == 0 else self.plan.stride)  # pyright: ignore[reportAttributeAccessIssue]
            edges = range(window.lo, window.hi, self.model.chunk or window.hi)
            for lo in edges:
                piece = replace(window, lo=lo, hi=min(lo + edges.step, window.hi))
                found[-1].pieces.append((piece, min(lo + edges.step, end) - 1 - window.start))
        if self._carried is not None and chunk.windows[0].lo - 1 not in self._starts:
            found[0].first, found[0].lane = self._carried
        return found

    def _enter(self, document: Open, free: list[int]) -> Open:
        if document.lane < 0:
            document.lane = free.pop(0)
            self.model.start(document.lane)
        return document

    def _leave(self, document: Open, free: list[int]) -> None:
        """The lane is free when the document has ended: its last target is the next one's BOS."""
        end = document.done[-1][0].hi
        self._carried = None if self._carried and self._carried[1] == document.lane else self._carried
        if end - 1 in self._starts:
            free.append(document.lane)
        else:
            self._carried = (document.first, document.lane)

    def _advance(self, active: Sequence[Open]) -> None:
        """The next piece of every open document."""
        for together in [active] if self.model.batched else [[document] for document in active]:
            self._forward(together)

    def _forward(self, active: Sequence[Open]) -> None:
        """One forward over the next piece of each, then one step on each that goes on."""
        pieces, lengths = zip(*[d.pieces.popleft() for d in active], strict=True)
        ids = np.zeros((len(pieces), max(lengths)), dtype=np.int64)
        for row, w in zip(ids, pieces, strict=True):
            row[: w.length] = self.tokens[w.start : w.hi - 1]
        logits = self.model.lane_logits([d.lane for d in active], torch.from_numpy(ids).to(self.model.device))
        booked = []
        for i, (document, w) in enumerate(zip(active, pieces, strict=True)):
            rows = logits[i, w.skip : w.length].clone()
            document.done.append((w, rows))
            if w.hi - 1 not in self._starts:
                booked.append((i, w.skip, self._mint(document, w, rows)))
        self.model.learn(booked)

    def _mint(self, document: Open, w: Window, rows: Tensor) -> Receipt:
        """The rows are fixed: now their targets may be shown."""
        tokens = np.asarray(self.tokens[w.lo : w.hi], dtype=np.int32)
        picked = torch.log_softmax(rows.double(), -1)[
            torch.arange(len(tokens)), torch.from_numpy(tokens.astype(np.int64))
        ]
        before = np.asarray(self.tokens[document.first : w.lo], dtype=np.int32)
        return self._receipt(w.lo, tokens, -picked.cpu().numpy(), before)

    def _rows(self, document: Open) -> Iterator[BatchRows]:
        for w, rows in document.done:
            yield BatchRows(w.lo, w.hi, rows, self.needs, self.groups)

    def snapshot(self) -> bytes:
        """The document that the last chunk cut, and its state."""
        from safetensors.torch import save

        if self._carried is None:
            return b""
        state = {name: t.cpu() for name, t in self.model.lane_state(self._carried[1]).items()}
        return save({**state, "carried": torch.tensor(self._carried)})

    def restore(self, state: bytes) -> None:
        from safetensors.torch import load

        self._carried = None
        if state:
            tensors = load(state)
            first, lane = (int(v) for v in tensors["carried"])
            self._carried = (first, lane)
            self.model.load_lane(lane, tensors)


def open_forward(
    model: Any,
    plan: Plan,
    stream: Any,
    needs: Needs,
    groups: dict[str, Bool],
    batch_tokens: int,
    receipt: Callable[..., Receipt],
) -> Forward | LaneForward:
    """The forward of one process that fits the model: by windows, or by documents where it has lanes."""
    if getattr(model, "lanes", 0):
        return LaneForward(model, plan, stream.tokens, stream.doc_start, needs, groups, receipt)
    return Forward(model, plan, stream.tokens, needs, groups, batch_tokens)
