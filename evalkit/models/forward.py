"""A plan's windows run through a model, in one process; the harness has the version that shares them.

Logits come first and know nothing of the targets; what a stack needs of each row is picked out afterwards, at once.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load, save

from evalkit.adapters.base import Bool, Needs
from evalkit.errors import InputError
from evalkit.models.base import Text
from evalkit.models.reduce import reduce
from evalkit.models.rows import Answer, Ask, Question, ask_targets
from evalkit.plan import Chunk, Plan, Window, owners

LOGIT_CELLS = 1 << 27
"""Logits at a time, at most: 512 MiB of float32.  8,192 rows of up to 16,384 ids are one slab."""


class LocalForward(ABC):
    """What one process can compute of a :class:`~evalkit.models.rows.Forward`: any unit, as soon as its question stands."""

    world_size: int = 1
    hands_on: ClassVar[bool] = False
    """True: a chunk's last unit may leave a state for the next chunk's first, on whichever rank that runs."""

    def __init__(self, model: Any, plan: Plan, text: Text, needs: Needs, groups: dict[str, Bool]) -> None:
        self.model, self.plan, self.needs, self.groups = model, plan, needs, groups
        self.tokens, self.doc_start = text.tokens, text.doc_start
        self.ask: Ask = ask_targets(text.tokens)

    def rows(self, chunk: Chunk) -> Iterator[Answer]:
        """Finished rows of the chunk's targets, in stream order."""
        for unit in self.units(chunk):
            yield from self.run(unit, self.ask(chunk, unit[0].lo, unit[-1].hi))

    @abstractmethod
    def units(self, chunk: Chunk) -> Iterator[Sequence[Window]]:
        """The chunk's windows by what is computed at once, in stream order; any rank may have any of them."""

    @abstractmethod
    def run(self, unit: Sequence[Window], question: Question) -> Iterator[Answer]:
        """Compute one unit: its rows in stream order, in one piece or more."""

    def continues(self, unit: Sequence[Window]) -> bool:
        """True when it needs the state that the chunk before left (:meth:`snapshot` there, :meth:`restore` here)."""
        return False

    @property
    def target_bytes(self) -> int:
        """Bytes of a finished target, about, and of what experts hold ready for it: what a unit in flight costs."""
        scalars = 8 + 8 * self.needs.hints + len(self.needs.masses)
        return 8 * scalars + (4 * self.model.vocab_size if self.needs.rows else 0)

    @abstractmethod
    def snapshot(self) -> bytes: ...

    @abstractmethod
    def restore(self, state: bytes) -> None: ...

    def ranks(self) -> list[dict[str, Any]]:
        return []

    def tracks(self) -> dict[int, list[tuple[str, float, float]]]:
        return {}

    def finish(self, logits: torch.Tensor, question: Question) -> Answer:
        """Logits [n, V] of the targets that the question is about, on the device -> what the stack reads of them."""
        return reduce(logits, question, self.needs, self.groups)


class WindowForward(LocalForward):
    """Runs the plan's windows on one device.  ``batch_tokens`` bounds the input tokens of a forward call."""

    def __init__(
        self, model: Any, plan: Plan, text: Text, needs: Needs, groups: dict[str, Bool], batch_tokens: int
    ) -> None:
        _check_fit(model, plan)
        super().__init__(model, plan, text, needs, groups)
        self.batch_tokens = batch_tokens
        self._state: Any = None

    @property
    def slab(self) -> int:
        """Rows of logits at a time, at most: it follows from the vocabulary alone, as a matrix product's last bits may
        depend on it."""
        return max(1, LOGIT_CELLS // self.model.vocab_size)

    def units(self, chunk: Chunk) -> Iterator[Sequence[Window]]:
        fits = self.batch_tokens if "split" in self.model.can else min(self.batch_tokens, self.slab)
        return self.plan.units(chunk, fits)

    def run(self, unit: Sequence[Window], question: Question) -> Iterator[Answer]:
        """Rows of one unit of the plan: slabs of them, or one piece per block where the plan carries a state on."""
        if not self.plan.carries:
            yield from self._windows(unit, question)
            return
        for window in unit:
            yield self.finish(self._carry(window), question.cut(window.lo, window.hi))
        if not self.plan.carries_on:
            self._state = None

    def _inputs(self, windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and owners of windows of one length, int64 [B, L] each, on the device."""
        ids = np.stack([np.asarray(self.tokens[w.start : w.hi - 1], dtype=np.int64) for w in windows])
        of = np.stack([owners(self.doc_start, w.start, w.hi - 1) for w in windows])
        return torch.from_numpy(ids).to(self.model.device), torch.from_numpy(of).to(self.model.device)

    def _scored(self, windows: Sequence[Window]) -> None:
        """Tell a model that keeps what it computed whose rows the last call's were."""
        if "scored" in self.model.can:
            self.model.scored(windows)

    @torch.no_grad()
    def _rows(self, windows: Sequence[Window]) -> torch.Tensor:
        """Booked rows: hidden states [n, D] of a model whose head stands apart, else logits [n, V]."""
        inputs = self._inputs(windows)
        # sliding:512/64 computes eight rows for each one booked: no head for the others
        rows = self.model.hidden(*inputs) if "split" in self.model.can else self.model.logits(*inputs)
        self._scored(windows)
        return _booked(rows, windows)

    def _windows(self, windows: Sequence[Window], question: Question) -> Iterator[Answer]:
        """With 152 thousand ids a batch of 8,192 rows would take 5 GB of logits, and as much again for a stack of rows."""
        rows = self._rows(windows)
        for begin in range(0, len(rows), self.slab):
            end = min(begin + self.slab, len(rows))
            part = question.cut(question.lo + begin, question.lo + end)
            yield self.finish(self._head(rows[begin:end]), part)

    @torch.no_grad()
    def _head(self, rows: torch.Tensor) -> torch.Tensor:
        return self.model.head(rows) if "split" in self.model.can else rows

    @torch.no_grad()
    def _carry(self, window: Window) -> torch.Tensor:
        ids, of = self._inputs([window])
        if window.skip > 0:
            self._state = None
        logits, self._state = self.model.banded(ids[0], of[0], self._state, self.plan.context)
        self._scored([window])
        return logits[window.skip :]

    def snapshot(self) -> bytes:
        """Keys and values carried to the next chunk; empty when the plan carries nothing that far."""
        if self._state is None or not self.plan.carries_on:
            return b""
        flat: list[torch.Tensor] = []
        shape = json.dumps(_flatten(self._state, flat)).encode()
        named = {
            f"t{i}": t.cpu().contiguous().clone() for i, t in enumerate(flat)
        }  # the format allows no shared memory
        return save({**named, "shape": torch.frombuffer(bytearray(shape), dtype=torch.uint8)})

    def restore(self, state: bytes) -> None:
        if not state:
            self._state = None
            return
        named = load(state)
        shape = json.loads(named.pop("shape").numpy().tobytes())
        self._state = _unflatten(shape, (named[f"t{i}"].to(self.model.device) for i in range(len(named))))


def _booked(rows: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
    """[B, L, D] of B windows -> [n, D], those of their targets."""
    if all(w.skip == windows[0].skip for w in windows):
        return rows[:, windows[0].skip :].reshape(-1, rows.size(-1))
    return torch.cat([row[w.skip :] for row, w in zip(rows, windows, strict=True)])


def _check_fit(model: Any, plan: Plan) -> None:
    if plan.carries and "banded" not in model.can:
        raise InputError(f"plan {plan.name}: this model cannot run a banded pass; use sliding:seq_len=512,stride=64")
    limit = model.max_seq_len
    if limit is not None and plan.context > limit:
        raise InputError(
            f"plan {plan.name}: windows of {plan.context} tokens, but the model was made for at most {limit}; "
            f"write {plan.name}:{'window' if plan.carries else 'seq_len'}={limit}"
        )


def _flatten(state: Any, flat: list[torch.Tensor]) -> Any:
    """A nest of lists, tuples, ints, None and tensors -> its shape, with tensors moved to ``flat``."""
    if isinstance(state, torch.Tensor):
        flat.append(state)
        return "t"
    if isinstance(state, (list, tuple)):
        return [_flatten(item, flat) for item in state]
    if state is None or isinstance(state, int):
        return state
    raise TypeError(f"a banded state may hold tensors, lists, tuples, ints and None, found {type(state).__name__}")


def _unflatten(shape: Any, tensors: Iterator[torch.Tensor]) -> Any:
    if shape == "t":
        return next(tensors)
    if isinstance(shape, list):
        return tuple(_unflatten(item, tensors) for item in shape)
    return shape
