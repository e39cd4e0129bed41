"""``phased_ttt``: low-rank terms for each document, and a base that also learns, at fixed places of the stream.

Per-document LoRA as in ``lora_ttt:reset=document``; whenever the booked position crosses a multiple of ``every`` targets
the base weights take SGD steps on what was booked since the last phase.  The published form (parameter-golf #1610, #1626)
scored documents in order of length and chose the training documents by a race between ranks; here the order is the
stream's and the places are constants, so any two runs train on the same targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from evalkit.adapters.base import StreamInfo
from evalkit.adapters.learners.learner import Booked, ChunkClock, Trainer
from evalkit.adapters.learners.lora_ttt import LoraSettings, LoraTtt
from evalkit.errors import InputError
from evalkit.settings import Count, Positive, Share, Size

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.adapters.base import Receipt
    from evalkit.models.base import Model


class PhasedTttSettings(LoraSettings, frozen=True):
    """Settings of ``phased_ttt``: those of the low-rank state, and of the global phases."""

    owner: ClassVar[str] = "adapter phased_ttt"
    reset: Annotated[Literal["never", "document"], Meta(description="when the low-rank state starts afresh")] = (
        "document"
    )
    every: Annotated[Count, Meta(description="targets between global phases; a multiple of chunk")] = 4096
    base_lr: Annotated[Positive, Meta(description="learning rate of SGD on the base weights")] = 0.01
    base_momentum: Annotated[Share, Meta(description="momentum of SGD, kept over phases")] = 0.9
    base_epochs: Annotated[Count, Meta(description="passes over a phase's targets")] = 1
    base_batch: Annotated[Size, Meta(description="sequences per step of a phase; 0: all of it in one step")] = 1
    train: Annotated[tuple[str, ...], Meta(description="names of trained base parameters, * is a wildcard")] = ("*",)
    freeze_blocks: Annotated[Size, Meta(description="first blocks whose base weights are not trained")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk and self.every % self.chunk:
            raise InputError(
                f"{self.owner}: every={self.every} is not a multiple of chunk={self.chunk}, so phases would fall inside a chunk; "
                f"choose every={max(1, self.every // self.chunk) * self.chunk}"
            )


class PhasedTtt(LoraTtt):
    """Low-rank terms learn each document, and the base weights learn the stream in phases."""

    name: ClassVar[str] = "phased_ttt"
    Settings: ClassVar[type[LoraSettings]] = PhasedTttSettings

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        from evalkit.adapters.learners.optim import Sgd
        from evalkit.adapters.learners.weights import FlatParams, own_copy, select_params

        s = self.settings
        self._base: Any = own_copy(model, f"adapter {self.name}")
        params = select_params(self._base.module, s.train, s.freeze_blocks, f"adapter {self.name}")
        flat = FlatParams(params)
        self._base_trainer = Trainer(f"{self.name} (global phase)", flat, Sgd(flat.values, s.base_momentum))
        self._phase = ChunkClock(s.every, s.seq_len, info.bos_id)
        self.phases = 0
        return super()._attach(self._base, info)

    @property
    def period(self) -> int:
        return self.settings.every

    def observe(self, receipt: Receipt) -> None:
        """The document's state learns first, then, at a phase, the base."""
        super().observe(receipt)
        booked = self._phase.add(receipt)
        if booked is not None:
            self._learn_base(booked)

    def _learn_base(self, booked: Booked) -> None:
        s = self.settings
        phase = msgspec.structs.replace(s, batch=s.base_batch)
        self._base_trainer.train(self._base, booked, phase, s.base_lr, s.base_epochs, self.ranks)
        self.phases += 1

    def _state(self) -> dict[str, Tensor]:
        import torch

        phase = {f"phase.{name}": t for name, t in self._phase.state().items()}
        counters = {"phases": torch.tensor(self.phases)}
        return {**super()._state(), **self._base_trainer.state("base."), **phase, **counters}

    def _load(self, state: dict[str, Tensor]) -> None:
        super()._load(state)
        self._base_trainer.load(state, "base.")
        self._phase.load({n.removeprefix("phase."): t for n, t in state.items() if n.startswith("phase.")})
        self.phases = int(state["phases"])

    def detach(self) -> None:
        super().detach()
        self._base = None

    def state_bytes(self) -> int:
        """Both states, and the tokens that wait for the next phase."""
        return super().state_bytes() + self._base_trainer.bytes + 16 * self.settings.every
