"""What does the whole model learn from text that is already scored?  The learner ``full_ttt``.

Score-first test-time training of all parameters: a chunk is booked with the weights that the chunks before it left, then
trained on (parameter-golf #461, #549, #1413).  The user's model is not touched; a copy is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from evalkit.adapters.base import StreamInfo
from evalkit.adapters.learners.ttt import ChunkLearner, Trainer, TttSettings, at_least, fraction
from evalkit.adapters.learners.ttt_clock import Booked

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.adapters.learners.ttt_flat import FlatParams
    from evalkit.adapters.learners.ttt_optim import Optimiser
    from evalkit.models.base import Model


class WholeModelSettings(TttSettings, frozen=True):
    """Settings of every learner that trains the model's own weights."""

    train: Annotated[tuple[str, ...], Meta(description="names of trained parameters, * is a wildcard")] = ("*",)
    freeze_blocks: Annotated[int, Meta(description="first blocks that are not trained")] = 0

    def check(self, owner: str) -> None:
        super().check(owner)
        at_least(owner, "freeze_blocks", self.freeze_blocks, 0)


class FullTttSettings(WholeModelSettings, frozen=True):
    """Settings of ``full_ttt``."""

    lr: Annotated[float, Meta(description="learning rate; adamw wants about a fiftieth of sgd's")] = 0.01
    optimiser: Annotated[Literal["sgd", "adamw"], Meta(description="how weights move")] = "sgd"
    momentum: Annotated[float, Meta(description="momentum of sgd, kept over chunks")] = 0.9
    betas: Annotated[tuple[float, float], Meta(description="decay of adamw's moments, per step")] = (0.9, 0.95)
    weight_decay: Annotated[float, Meta(description="adamw: share of the weights lost per unit of learning rate")] = 0.0

    def __post_init__(self) -> None:
        owner = "adapter full_ttt"
        self.check(owner)
        fraction(owner, "momentum", self.momentum)
        for beta in self.betas:
            fraction(owner, "betas", beta)
        at_least(owner, "weight_decay", self.weight_decay, 0)


class WholeModelLearner(ChunkLearner):
    """Trains a copy of the model; subclasses choose the optimiser and the epochs."""

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        from evalkit.adapters.learners.ttt_clone import own_copy, select_params
        from evalkit.adapters.learners.ttt_flat import FlatParams

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
        from evalkit.adapters.learners.ttt_optim import AdamW, Sgd

        s = self.settings
        if s.optimiser == "sgd":
            return Sgd(flat.values, s.momentum)
        return AdamW(flat.values, s.betas, 1e-8, s.weight_decay)
