"""What does the model learn when every direction of a gradient counts alike?  The learner ``muon_ttt``.

Matrices move by their orthogonalised gradient (parameter-golf #1148, #1176), vectors by SGD.  With ``adaptive`` hard
chunks get one epoch more, easy ones one less: the thresholds are nats relative to the running mean of booked chunks, so
they hold for any vocabulary (#1148 had absolute ones, 2.1 and 1.75 nats a token of 1024 ids).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from evalkit.adapters.base import StreamInfo
from evalkit.adapters.learners.full_ttt import WholeModelLearner, WholeModelSettings
from evalkit.adapters.learners.ttt import at_least, fraction, positive
from evalkit.adapters.learners.ttt_clock import Booked
from evalkit.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.adapters.learners.ttt_flat import FlatParams
    from evalkit.adapters.learners.ttt_optim import Optimiser
    from evalkit.models.base import Model


class MuonTttSettings(WholeModelSettings, frozen=True):
    """Settings of ``muon_ttt``."""

    lr: Annotated[float, Meta(description="learning rate: how far every direction of a matrix moves in a step")] = 0.006
    steps: Annotated[int, Meta(description="Newton-Schulz steps (published: 3; 5 is closer to orthogonal)")] = 3
    polar: Annotated[bool, Meta(description="Polar Express coefficients instead of the quintic's")] = False
    momentum: Annotated[
        float, Meta(description="Nesterov momentum of the gradient, kept over chunks; 0 as published")
    ] = 0.0
    by_shape: Annotated[bool, Meta(description="scale a matrix's step by sqrt(max(1, rows / cols))")] = False
    vector_lr: Annotated[float, Meta(description="learning rate of vectors, times lr")] = 1.0
    adaptive: Annotated[bool, Meta(description="one epoch more on hard chunks, one less on easy ones")] = False
    hard: Annotated[float, Meta(description="hard: this many nats a target above the running mean")] = 0.15
    easy: Annotated[float, Meta(description="easy: this many nats a target below the running mean")] = 0.15

    def __post_init__(self) -> None:
        owner = "adapter muon_ttt"
        self.check(owner)
        if not 1 <= self.steps <= 10:
            raise InputError(f"{owner}: setting steps must be between 1 and 10, got {self.steps}")
        fraction(owner, "momentum", self.momentum)
        positive(owner, "vector_lr", self.vector_lr)
        for name in ("hard", "easy"):
            at_least(owner, name, getattr(self, name), 0)


class MuonTtt(WholeModelLearner):
    """Trains all weights by orthogonalised gradients, longer on chunks that were hard."""

    name: ClassVar[str] = "muon_ttt"
    Settings: ClassVar[type[MuonTttSettings]] = MuonTttSettings

    def __init__(self, settings: MuonTttSettings | None = None) -> None:
        self.settings = settings or MuonTttSettings()

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        self._chunks, self._mean = 0, 0.0
        return super()._attach(model, info)

    def _optimiser(self, flat: FlatParams) -> Optimiser:
        from evalkit.adapters.learners.ttt_muon import MuonStep

        return MuonStep(flat, self.settings, self.ranks)

    def shed(self, work: str) -> str:
        """One epoch for every chunk, hard ones too."""
        change = super().shed(work)
        self.settings = msgspec.structs.replace(self.settings, adaptive=False)
        return change

    def _epochs(self, booked: Booked) -> int:
        """Decided from booked scores alone, so every rank decides alike."""
        nats = float(booked.nats.mean())
        extra = 0
        if self.settings.adaptive and self._chunks:
            extra = int(nats > self._mean + self.settings.hard) - int(nats < self._mean - self.settings.easy)
        self._chunks += 1
        self._mean += (nats - self._mean) / self._chunks
        return max(1, self.settings.epochs + extra)

    def _state(self) -> dict[str, Tensor]:
        import torch

        running = torch.tensor([self._chunks, self._mean], dtype=torch.float64)
        return {**super()._state(), "muon.running": running}

    def _load(self, state: dict[str, Tensor]) -> None:
        super()._load(state)
        chunks, self._mean = (float(v) for v in state["muon.running"])
        self._chunks = int(chunks)
