"""What do low-rank terms learn from text that is already scored?  The learner ``lora_ttt``, in two forms.

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
from evalkit.adapters.learners.learner import Booked, ChunkLearner, Trainer, TttSettings, at_least, fraction, positive
from evalkit.errors import EvalkitError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.adapters.learners.lora import DocumentLoraModel
    from evalkit.adapters.learners.lora_lanes import LaneModel
    from evalkit.models.base import Model


class LoraSettings(TttSettings, frozen=True):
    """Settings of every learner with low-rank terms."""

    lr: Annotated[float, Meta(description="learning rate of AdamW")] = 0.005
    rank: Annotated[int, Meta(description="rank of every low-rank term")] = 8
    alpha: Annotated[float | None, Meta(description="the term is scaled by alpha / rank; none: by 1")] = None
    targets: Annotated[
        tuple[str, ...], Meta(description="q, k, v, o, mlp, head, or names of linear layers, * is a wildcard")
    ] = ("q", "v", "head")
    reset: Annotated[Literal["never", "document"], Meta(description="when the state starts afresh")] = "never"
    warm_a: Annotated[bool, Meta(description="reset=document: keep A, zero only B and the moments")] = False
    betas: Annotated[tuple[float, float], Meta(description="decay of AdamW's moments, per step")] = (0.9, 0.95)
    weight_decay: Annotated[float, Meta(description="share of A and B lost per unit of learning rate")] = 0.0
    lanes: Annotated[
        int,
        Meta(
            description="above 0: each document learns in the pass that scores it (plan document), so many may share "
            "calls; 0: on the chunk clock"
        ),
    ] = 0
    batched: Annotated[
        bool,
        Meta(
            description="lanes: one forward call for so many documents (for a GPU); rows then move in their last digits with the "
            "neighbours, so there is no audit and no certificate"
        ),
    ] = False
    start: Annotated[str | None, Meta(description="safetensors file (peft's names) to begin with")] = None

    def check(self, owner: str) -> None:
        super().check(owner)
        at_least(owner, "rank", self.rank, 1)
        at_least(owner, "targets (number of)", len(self.targets), 1)
        if self.alpha is not None:
            positive(owner, "alpha", self.alpha)
        for beta in self.betas:
            fraction(owner, "betas", beta)
        at_least(owner, "weight_decay", self.weight_decay, 0)
        at_least(owner, "lanes", self.lanes, 0)
        if self.lanes:
            self._check_lanes(owner)
        elif self.batched:
            raise InputError(f"{owner}: batched=true puts lanes into one forward call, but lanes=0; give lanes=16")

    def _check_lanes(self, owner: str) -> None:
        """Lanes hold independent documents, and each takes one step a chunk on the graph that scored it."""
        for name, is_so, wanted in (
            ("reset", self.reset == "document", "document"),
            ("warm_a", not self.warm_a, "false"),
            ("epochs", self.epochs == 1, "1"),
            ("schedule", self.schedule == "constant", "constant"),
            ("start", self.start is None, "none"),
            ("targets", "head" not in self.targets, "[q,v,o,mlp], without head"),
        ):
            if not is_so:
                got = getattr(self, name)
                raise InputError(f"{owner}: lanes={self.lanes} needs {name}={wanted}, got {got}; or give lanes=0")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LoraTttSettings(LoraSettings, frozen=True):
    """Settings of ``lora_ttt``."""

    def __post_init__(self) -> None:
        self.check("adapter lora_ttt")


class LoraTtt(ChunkLearner):
    """Trains low-rank terms on every booked chunk, for the whole stream or afresh in each document."""

    name: ClassVar[str] = "lora_ttt"
    Settings: ClassVar[type[LoraSettings]] = LoraTttSettings

    def __init__(self, settings: LoraSettings | None = None) -> None:
        self.settings: Any = settings or self.Settings()
        self.lanes, self.batched = self.settings.lanes, self.settings.batched

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        from evalkit.adapters.learners.learner import CurrentDocument

        self._lanes = self._build_lanes(model, info.seed) if self.settings.lanes else None
        if self._lanes is not None:
            return self._lanes
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

    def _build_lanes(self, model: Any, seed: int) -> LaneModel:
        from evalkit.adapters.learners.heads import SplitModel
        from evalkit.adapters.learners.lora import check_rank, find_targets
        from evalkit.adapters.learners.lora_lanes import LaneModel
        from evalkit.adapters.learners.weights import sharing_copy

        s, owner = self.settings, f"adapter {self.name}"
        if isinstance(model, SplitModel):  # another learner's model, whose state a copy would leave behind
            raise InputError(
                f"{owner}: lanes={s.lanes} cannot stand behind a learner with a state per document (slot, another lora_ttt); "
                "give lanes=0, or drop one of them"
            )
        lanes = LaneModel(sharing_copy(model, owner), owner, s)
        for name in find_targets(lanes.module, s.targets, model.vocab_size, owner):
            lanes.add(name)
            base = lanes.layers[name].base
            check_rank(owner, name, (base.out_features, base.in_features), s.rank)
        lanes.begin(seed)
        return lanes

    @property
    def chunk_tokens(self) -> int:
        """With lanes a document learns inside the engine's chunk, which may be as long as it likes."""
        return 0 if self.settings.lanes else self.settings.chunk

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
        """Start afresh when a document ended, then learn.  With lanes all of it was learned on the way."""
        if self._lanes is not None:
            return
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
        return {} if self._lanes is not None else {**self._trainer.state(), **self._document.state()}

    def _load(self, state: dict[str, Tensor]) -> None:
        if self._lanes is None:
            self._trainer.load(state)
            self._document.load(state)

    def save(self, path: Path) -> None:
        """The low-rank terms as they are now, under peft's names.  EvalkitError with lanes: there are many states."""
        if self._lanes is not None:
            raise EvalkitError("with lanes there is one state per document, none to save")
        from evalkit.adapters.learners.lora import save_adapter

        save_adapter(path, self._model)

    def detach(self) -> None:
        """Let go of the copy; the user's model was never changed."""
        self._model: Any = None

    def state_bytes(self) -> int:
        """A, B, their gradient and moments, and the fresh state to go back to."""
        if self._lanes is not None:
            return self._lanes.bytes
        return self._trainer.bytes + (0 if self._fresh is None else self._fresh.numel() * 4)
