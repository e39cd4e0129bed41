"""Learners that train whole models: ``full_ttt`` (SGD or AdamW) and ``muon_ttt`` (Muon on matrices).

Score-first test-time training of all parameters: a chunk is booked with the weights that the chunks before it left, then
trained on (parameter-golf #461, #549, #1413).  The user's model is not touched; a copy is trained.

Matrices move by their orthogonalised gradient (parameter-golf #1148, #1176), vectors by SGD.  With ``adaptive`` hard
chunks get one epoch more, easy ones one less: the thresholds are nats relative to the running mean of booked chunks, so
they hold for any vocabulary (#1148 had absolute ones, 2.1 and 1.75 nats per token of 1024 ids).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from evalkit.adapters.base import StreamInfo
from evalkit.adapters.learners.learner import Booked, ChunkLearner, Trainer, TttSettings
from evalkit.adapters.learners.optim import AdamW, Sgd, orthogonalise
from evalkit.adapters.learners.ranks import Ranks
from evalkit.adapters.learners.weights import FlatParams
from evalkit.errors import InputError
from evalkit.settings import NotNegative, Positive, Share, Size

if TYPE_CHECKING:
    from evalkit.adapters.learners.optim import Optimiser
    from evalkit.models.base import Model


class WholeModelSettings(TttSettings, frozen=True):
    """Settings of every learner that trains the model's own weights."""

    train: Annotated[tuple[str, ...], Meta(description="names of trained parameters, * is a wildcard")] = ("*",)
    freeze_blocks: Annotated[Size, Meta(description="first blocks that are not trained")] = 0


class FullTttSettings(WholeModelSettings, frozen=True):
    """Settings of ``full_ttt``."""

    owner: ClassVar[str] = "adapter full_ttt"
    lr: Annotated[Positive, Meta(description="learning rate; adamw wants about a fiftieth of sgd's")] = 0.01
    optimiser: Annotated[Literal["sgd", "adamw"], Meta(description="how weights move")] = "sgd"
    momentum: Annotated[Share, Meta(description="momentum of sgd, kept over chunks")] = 0.9
    betas: Annotated[tuple[Share, Share], Meta(description="decay of adamw's moments, per step")] = (0.9, 0.95)
    weight_decay: Annotated[
        NotNegative, Meta(description="adamw: share of the weights lost per unit of learning rate")
    ] = 0.0


class WholeModelLearner(ChunkLearner):
    """Trains a copy of the model; subclasses choose the optimiser and the epochs."""

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        from evalkit.adapters.learners.weights import FlatParams, own_copy, select_params

        owner = f"adapter {self.name}"
        self._model: Any = own_copy(model, owner)
        params = select_params(self._model.module, self.settings.train, self.settings.freeze_blocks, owner)
        flat = FlatParams(params)
        self._trainer = Trainer(self.name, flat, self._optimiser(flat))
        return self._model

    def _optimiser(self, flat: FlatParams) -> Optimiser:
        raise NotImplementedError

    def _epochs(self, booked: Booked) -> int:
        return self.settings.epochs

    def _learn(self, booked: Booked) -> None:
        s = self.settings
        self._trainer.train(self._model, booked, s, s.lr_at(booked.lo), self._epochs(booked), self.ranks)

    def _state(self) -> dict[str, Tensor]:
        return self._trainer.state()

    def _load(self, state: dict[str, Tensor]) -> None:
        self._trainer.load(state)

    def detach(self) -> None:
        """Let go of the trained copy; the user's model was never changed."""
        self._model = None

    def state_bytes(self) -> int:
        """Trained weights, gradient and moments."""
        return self._trainer.bytes


class FullTtt(WholeModelLearner):
    """Trains all weights on every booked chunk: SGD with momentum, or AdamW."""

    name: ClassVar[str] = "full_ttt"
    Settings: ClassVar[type[FullTttSettings]] = FullTttSettings

    def __init__(self, settings: FullTttSettings | None = None) -> None:
        self.settings = settings or FullTttSettings()

    def _optimiser(self, flat: FlatParams) -> Optimiser:
        s = self.settings
        if s.optimiser == "sgd":
            return Sgd(flat.values, s.momentum)
        return AdamW(flat.values, s.betas, 1e-8, s.weight_decay)


class MuonStep(Sgd):
    """w -= lr O(g) for matrices (3-D tensors are banks of them), w -= lr vector_lr g for the rest."""

    def __init__(self, flat: FlatParams, settings: MuonTttSettings, ranks: Ranks) -> None:
        """``ranks`` share the orthogonalisations, one shape each."""
        super().__init__(flat.values, settings.momentum)
        self.settings, self._flat, self._ranks = settings, flat, ranks
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i, p in enumerate(flat.params.values()):
            if p.ndim in (2, 3):
                shapes.setdefault(tuple(p.shape), []).append(i)
        self._groups = list(shapes.items())
        self._banks = [(len(members) * math.prod(shape[:-2]), *shape[-2:]) for shape, members in self._groups]

    @torch.no_grad()
    def step(self, values: Tensor, grad: Tensor, lr: float) -> None:
        if self.buffer is not None:
            self.buffer.mul_(self.momentum).add_(grad)
            grad.add_(self.buffer, alpha=self.momentum)
        parts, weights = self._flat.views(grad), self._flat.views(values)

        def moves(group: int) -> Tensor:
            g = torch.stack([parts[i] for i in self._groups[group][1]]).view(self._banks[group])
            return orthogonalise(g, self.settings.steps, self.settings.polar)

        found = self._ranks.gather(len(self._groups), moves, self._banks)
        for (shape, members), bank in zip(self._groups, found, strict=True):
            scale = max(1.0, shape[-2] / shape[-1]) ** 0.5 if self.settings.by_shape else 1.0
            for i, move in zip(members, bank.reshape(len(members), *shape), strict=True):
                weights[i].add_(move, alpha=-lr * scale)
        for i, part in enumerate(parts):
            if part.ndim not in (2, 3):
                weights[i].add_(part, alpha=-lr * self.settings.vector_lr)


class MuonTttSettings(WholeModelSettings, frozen=True):
    """Settings of ``muon_ttt``."""

    owner: ClassVar[str] = "adapter muon_ttt"
    lr: Annotated[Positive, Meta(description="learning rate: how far every direction of a matrix moves in a step")] = (
        0.006
    )
    steps: Annotated[int, Meta(description="Newton-Schulz steps (published: 3; 5 is closer to orthogonal)")] = 3
    polar: Annotated[bool, Meta(description="Polar Express coefficients instead of the quintic's")] = False
    momentum: Annotated[
        Share, Meta(description="Nesterov momentum of the gradient, kept over chunks; 0 as published")
    ] = 0.0
    by_shape: Annotated[bool, Meta(description="scale a matrix's step by sqrt(max(1, rows / cols))")] = False
    vector_lr: Annotated[Positive, Meta(description="learning rate of vectors, times lr")] = 1.0
    adaptive: Annotated[bool, Meta(description="one epoch more on hard chunks, one less on easy ones")] = False
    hard: Annotated[NotNegative, Meta(description="hard: this many nats per target above the running mean")] = 0.15
    easy: Annotated[NotNegative, Meta(description="easy: this many nats per target below the running mean")] = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= 10:
            raise InputError(f"{self.owner}: setting steps must be between 1 and 10, got {self.steps}")


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
