"""Chunks whose documents learn by themselves, scored piece by piece: rows, then a step that the next piece sees.

Rows of a piece are computed, kept, and only then shown to the learner.  A unit of work is one document of the chunk, with
forward calls of its own, each padded to the length that it has where the document does not end: no bit of its rows depends
on another document, or on where its own will end.  A model that says ``batched`` gets units of as many documents as it has
lanes, in stream order, and their next pieces in one call, whose shape follows the neighbours.  Units do not depend on each
other, so ranks share them; a document that the chunk cuts leaves its state to the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from evalkit.adapters.base import Bool, Needs, Receipt, TokenLedger
from evalkit.errors import EvalkitError, InputError
from evalkit.models.base import Text
from evalkit.models.forward import LocalForward, WindowForward
from evalkit.models.rows import Answer, Question
from evalkit.plan import Chunk, Document, Plan, Window, owners


@dataclass
class Open:
    """One document of the chunk: its pieces still to come, and the rows of those that are done."""

    first: int
    """Stream position of its first token; rows of a piece never reach before it."""
    ledger: TokenLedger
    """Its own: what it has booked, it may learn."""
    pieces: deque[tuple[Window, int]]
    """Each with the input tokens of its forward call, padding included."""
    lane: int
    done: list[tuple[Window, Tensor]] = field(default_factory=list)


class LaneForward(LocalForward):
    """The forward of a model with lanes."""

    hands_on: ClassVar[bool] = True

    def __init__(
        self,
        model: Any,
        plan: Plan,
        text: Text,
        needs: Needs,
        groups: dict[str, Bool],
    ) -> None:
        if not isinstance(plan, Document):
            raise InputError(
                f"{model.owner}: it trains documents apart, but plan {plan.name} scores across them; "
                "give --plan document:seq_len=512,stride=256"
            )
        super().__init__(model, plan, text, needs, groups)
        self._strides = plan
        self._starts = set(np.asarray(text.doc_start).tolist())
        self._carried = b""

    def units(self, chunk: Chunk) -> Iterator[Sequence[Window]]:
        """The windows of one document, or of as many as share forward calls."""
        documents = list[list[Window]]()
        for window in chunk.windows:
            if not documents or (window.start in self._starts and window.lo == window.start + 1):
                documents.append([])
            documents[-1].append(window)
        size = self.model.lanes if self.model.batched else 1
        for i in range(0, len(documents), size):
            yield tuple(w for document in documents[i : i + size] for w in document)

    def continues(self, unit: Sequence[Window]) -> bool:
        """True when its first document began in the chunk before."""
        return unit[0].lo - 1 not in self._starts

    def run(self, unit: Sequence[Window], question: Question) -> Iterator[Answer]:
        """Rows of one unit, and its documents' steps between them; see :meth:`restore` for one that continues."""
        documents = self._open(unit)
        active = list(documents)
        while active:
            self._forward(active)
            active = [document for document in active if document.pieces]
        self._carried = self._left(documents[-1])
        for document in documents:
            for w, rows in document.done:
                yield self.finish(rows, question.cut(w.lo, w.hi))

    def _pieces(self, window: Window) -> list[tuple[Window, int]]:
        """The window's targets, at most ``model.chunk`` at a time, and the input tokens of the call for each."""
        full = window.lo + (self._strides.seq_len if window.skip == 0 else self._strides.stride)
        edges = range(window.lo, window.hi, self.model.chunk or window.hi)
        found = []
        for lo in edges:
            end = lo + edges.step
            found.append((replace(window, lo=lo, hi=min(end, window.hi)), min(end, full) - 1 - window.start))
        return found

    def _open(self, unit: Sequence[Window]) -> list[Open]:
        """Its documents, each in a lane with a fresh state, or with the one that was left."""
        found: list[Open] = []
        for window in unit:
            if not found or (window.start in self._starts and window.lo == window.start + 1):
                found.append(Open(window.start, self._ledger(window.start, window.lo), deque(), len(found)))
                self.model.start(found[-1].lane)
            found[-1].pieces.extend(self._pieces(window))
        if self.continues(unit):
            found[0].first = self._load(found[0].lane)
            found[0].ledger = self._ledger(found[0].first, unit[0].lo)
        return found

    def _ledger(self, first: int, lo: int) -> TokenLedger:
        """For a document that begins at ``first`` and whose targets before ``lo`` are booked."""
        return TokenLedger(self.tokens[first:lo], lo)

    def _forward(self, active: Sequence[Open]) -> None:
        """One forward over the next piece of each, then one step on each that goes on."""
        pieces, lengths = zip(*[d.pieces.popleft() for d in active], strict=True)
        ids = np.zeros((len(pieces), max(lengths)), dtype=np.int64)
        of = np.full_like(ids, -1)
        for i, w in enumerate(pieces):
            ids[i, : w.length] = self.tokens[w.start : w.hi - 1]
            of[i, : w.length] = owners(self.doc_start, w.start, w.hi - 1)
        inputs = (torch.from_numpy(x).to(self.model.device) for x in (ids, of))
        logits = self.model.lane_logits([d.lane for d in active], *inputs)
        booked = []
        for i, (document, w) in enumerate(zip(active, pieces, strict=True)):
            rows = logits[i, w.skip : w.length].clone()
            document.done.append((w, rows))
            if w.hi - 1 not in self._starts:
                booked.append((i, w.skip, self._book(document, w, rows)))
        self.model.learn(booked)

    def _book(self, document: Open, w: Window, rows: Tensor) -> Receipt:
        """The rows are fixed: now their targets may be shown."""
        tokens = np.asarray(self.tokens[w.lo : w.hi], dtype=np.int32)
        picked = torch.log_softmax(rows.double(), -1)[
            torch.arange(len(tokens)), torch.from_numpy(tokens.astype(np.int64))
        ]
        return document.ledger.book(w.lo, tokens, -picked.cpu().numpy())

    def _left(self, document: Open) -> bytes:
        """The state of a document that goes on behind the unit; empty when it has ended: its last target is a BOS."""
        from safetensors.torch import save

        if document.done[-1][0].hi - 1 in self._starts:
            return b""
        state = {name: t.cpu() for name, t in self.model.lane_state(document.lane).items()}
        return save({**state, "first": torch.tensor(document.first)})

    def _load(self, lane: int) -> int:
        """Put the state that was left into a lane; returns where its document begins."""
        from safetensors.torch import load

        if not self._carried:
            raise EvalkitError("a document goes on from a chunk that left no state")
        tensors = load(self._carried)
        self.model.load_lane(lane, tensors)
        return int(tensors["first"])

    def snapshot(self) -> bytes:
        """The state of the document that the last unit's end cut; empty when none was."""
        return self._carried

    def restore(self, state: bytes) -> None:
        self._carried = state


def open_forward(
    model: Any,
    plan: Plan,
    stream: Text,
    needs: Needs,
    groups: dict[str, Bool],
    batch_tokens: int,
) -> LocalForward:
    """The forward that fits the model: by windows, or by documents where it has lanes."""
    if "lanes" in model.can:
        return LaneForward(model, plan, stream, needs, groups)
    return WindowForward(model, plan, stream, needs, groups, batch_tokens)
