"""``lora_ttt``: low-rank terms trained on text that is already scored, in two forms.

``reset=never``: one state for the stream, trained chunk by chunk in stream order (parameter-golf #550 on its own model).
``reset=document``: each document starts afresh and learns from its own booked chunks alone (#77, #1530); with ``warm_a``
the A matrices carry on from document to document in stream order (#1767 carried them in order of length).
Windows lie on the plan's grid, never at a document's end: the published edge that looks there is not causal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from evalkit.adapters.base import Receipt, StreamInfo
from evalkit.adapters.learners.learner import Booked, ChunkLearner, Trainer, TttSettings
from evalkit.settings import Count, NotNegative, Positive, Share

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.adapters.learners.lora import DocumentLoraModel
    from evalkit.models.base import Model


class LoraSettings(TttSettings, frozen=True):
    """Settings of every learner with low-rank terms."""

    lr: Annotated[Positive, Meta(description="learning rate of AdamW")] = 0.005
    rank: Annotated[Count, Meta(description="rank of every low-rank term")] = 8
    alpha: Annotated[Positive | None, Meta(description="the term is scaled by alpha / rank; none: by 1")] = None
    targets: Annotated[
        tuple[str, ...],
        Meta(description="q, k, v, o, mlp, head, or names of linear layers, * is a wildcard", min_length=1),
    ] = ("q", "v", "head")
    reset: Annotated[Literal["never", "document"], Meta(description="when the state starts afresh")] = "never"
    warm_a: Annotated[bool, Meta(description="reset=document: keep A, zero only B and the moments")] = False
    betas: Annotated[tuple[Share, Share], Meta(description="decay of AdamW's moments, per step")] = (0.9, 0.95)
    weight_decay: Annotated[NotNegative, Meta(description="share of A and B lost per unit of learning rate")] = 0.0
    start: Annotated[str | None, Meta(description="safetensors file (peft's names) to begin with")] = None

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LoraTttSettings(LoraSettings, frozen=True):
    """Settings of ``lora_ttt``."""

    owner: ClassVar[str] = "adapter lora_ttt"


class LoraTtt(ChunkLearner):
    """Trains low-rank terms on every booked chunk, for the whole stream or afresh in each document."""

    name: ClassVar[str] = "lora_ttt"
    Settings: ClassVar[type[LoraSettings]] = LoraTttSettings

    def __init__(self, settings: LoraSettings | None = None) -> None:
        self.settings: Any = settings or self.Settings()

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        from evalkit.adapters.learners.learner import CurrentDocument

        self._document = CurrentDocument(info.bos_id)
        self._model: Any = self._build(model, info.seed)
        self._begin_flat()
        return self._model

    def _build(self, model: Any, seed: int) -> DocumentLoraModel:
        from evalkit.adapters.learners.lora import DocumentLoraModel, check_rank, find_targets, load_adapter
        from evalkit.adapters.learners.weights import sharing_copy

        s, owner = self.settings, f"adapter {self.name}"
        document = self._document if s.reset == "document" else None
        lora = DocumentLoraModel(sharing_copy(model, owner), owner, document)
        for name in find_targets(lora.module, s.targets, model.vocab_size, owner):
            lora.add(name, s.rank, s.scale)
            layer = lora.layers[name]
            check_rank(owner, name, (layer.lora_B.shape[0], layer.lora_A.shape[1]), s.rank)
        lora.initialise(seed)
        if s.start is not None:
            load_adapter(Path(s.start), lora)
        return lora

    def _begin_flat(self) -> None:
        from evalkit.adapters.learners.optim import AdamW
        from evalkit.adapters.learners.weights import FlatParams

        params = self._model.named_params()
        flat = FlatParams(params)
        self._a_size = sum(p.numel() for n, p in params.items() if ".lora_A." in n)
        self._fresh = flat.values.clone() if self.settings.reset == "document" else None
        optimiser = AdamW(flat.values, self.settings.betas, 1e-10, self.settings.weight_decay)
        self._trainer = Trainer(self.name, flat, optimiser)

    def observe(self, receipt: Receipt) -> None:
        """Start afresh when a document ended, then learn."""
        began = self._document.observe(receipt)
        if began and self.settings.reset == "document":
            self._reset()
        super().observe(receipt)

    def _reset(self) -> None:
        assert self._fresh is not None
        kept = self._a_size if self.settings.warm_a else 0
        self._trainer.flat.values[kept:].copy_(self._fresh[kept:])
        self._trainer.optimiser.reset()

    def _learn(self, booked: Booked) -> None:
        own: Booked | None = booked
        if self.settings.reset == "document":
            own = booked.since(self._document.start - (booked.lo - booked.before))
        if own is None:
            return
        s = self.settings
        self._trainer.train(self._model, own, s, s.lr_at(booked.lo), s.epochs, self.ranks)

    def _state(self) -> dict[str, Tensor]:
        return {**self._trainer.state(), **self._document.state()}

    def _load(self, state: dict[str, Tensor]) -> None:
        self._trainer.load(state)
        self._document.load(state)

    def save(self, path: Path) -> None:
        """The low-rank terms as they are now, under peft's names."""
        from evalkit.adapters.learners.lora import save_adapter

        save_adapter(path, self._model)

    def detach(self) -> None:
        """Let go of the copy; the user's model was never changed."""
        self._model: Any = None

    def state_bytes(self) -> int:
        """A, B, their gradient and moments, and the fresh state to go back to."""
        return self._trainer.bytes + (0 if self._fresh is None else self._fresh.numel() * 4)
