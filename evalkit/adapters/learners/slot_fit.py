"""How are a delta and a bias fitted to booked rows?  Online, or by a few AdamW steps on the latest ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evalkit.adapters.learners.slot_gradient import row_gradients
from evalkit.adapters.learners.slot_state import Pace, SlotState
from evalkit.adapters.learners.ttt_optim import AdamW

if TYPE_CHECKING:
    from evalkit.adapters.learners.slot import SlotSettings


class SlotFit(ABC):
    """``stream`` and ``in_document``: what scoring adds, None where the scope leaves it out."""

    stream: SlotState | None
    in_document: SlotState | None

    def __init__(self, s: SlotSettings, width: int, vocab: int, device: Any) -> None:
        self.settings = s
        slow = Pace(s.delta, s.bias, s.damp_delta, s.damp_bias, s.half_life)
        fast = Pace(s.delta, s.bias, s.damp_delta_document, s.damp_bias_document, 0.0)
        self.stream = SlotState(width, vocab, slow, device) if "stream" in s.scope else None
        self.in_document = SlotState(width, vocab, fast, device) if "document" in s.scope else None

    @abstractmethod
    def learn(self, model: Any, hidden: Tensor, targets: Tensor) -> None:
        """Booked rows of one document, in stream order: hidden [n, D] without delta, targets int64 [n]."""

    @abstractmethod
    def finish(self, model: Any) -> None:
        """The chunk is over; the next one is scored with what stands then."""

    def new_document(self) -> None:
        if self.in_document is not None:
            self.in_document.reset()

    def _states(self) -> dict[str, SlotState]:
        named = {"stream": self.stream, "document": self.in_document}
        return {name: state for name, state in named.items() if state is not None}

    def state(self) -> dict[str, Tensor]:
        return {f"{scope}.{name}": t for scope, held in self._states().items() for name, t in held.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        for scope, held in self._states().items():
            held.load({name: state[f"{scope}.{name}"] for name in held.NAMES})

    @property
    def bytes(self) -> int:
        return sum(held.bytes for held in self._states().values())


class OnlineFit(SlotFit):
    """One Newton step of every state per ``stride`` rows, all on the same gradient."""

    def learn(self, model: Any, hidden: Tensor, targets: Tensor) -> None:
        states = list(self._states().values())
        for at in range(0, len(targets), self.settings.stride):
            rows, ids = hidden[at : at + self.settings.stride], targets[at : at + self.settings.stride]
            delta = torch.stack([s.delta for s in states]).sum(0)
            bias = torch.stack([s.bias for s in states]).sum(0)
            g = row_gradients(model, rows + delta.to(rows.dtype), ids, bias, self.settings.delta > 0)
            for state in states:
                state.step(g, len(ids))

    def finish(self, model: Any) -> None:
        """Nothing: every step was taken on the way."""


class StepsFit(SlotFit):
    """AdamW on the latest ``context`` rows; lr are the settings' delta and bias, eps 1e-5 as published."""

    def __init__(self, s: SlotSettings, width: int, vocab: int, device: Any) -> None:
        super().__init__(s, width, vocab, device)
        self._rows = torch.zeros(0, width, device=device)
        self._targets = torch.zeros(0, dtype=torch.int64, device=device)

    def learn(self, model: Any, hidden: Tensor, targets: Tensor) -> None:
        self._rows = torch.cat((self._rows, hidden.float()))[-self.settings.context :]
        self._targets = torch.cat((self._targets, targets))[-self.settings.context :]

    def new_document(self) -> None:
        super().new_document()
        if self.in_document is not None:
            self._rows, self._targets = self._rows[:0], self._targets[:0]

    def finish(self, model: Any) -> None:
        s = self.settings
        state = next(iter(self._states().values()))
        if not s.warm:
            state.reset()
        if not len(self._targets):
            return
        movers = [AdamW(state.delta, (0.9, 0.999), 1e-5, 1e-8), AdamW(state.bias, (0.9, 0.999), 1e-5, 1e-8)]
        for _ in range(s.steps):
            rows = self._rows + state.delta
            g = row_gradients(model, rows.to(self._rows.dtype), self._targets, state.bias, s.delta > 0)
            for mover, values, grad, lr in zip(
                movers, (state.delta, state.bias), (g.delta, g.bias), (s.delta, s.bias), strict=True
            ):
                if lr:
                    mover.step(values, grad / len(self._targets), lr)

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "rows": self._rows, "targets": self._targets}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        device = self._rows.device
        self._rows, self._targets = state["rows"].to(device), state["targets"].to(device)

    @property
    def bytes(self) -> int:
        return super().bytes + self._rows.numel() * 4 + self._targets.numel() * 8
