"""What can one delta on the last hidden state and one bias on the logits learn?  The learner ``slot``.

SLOT (arXiv 2505.12392) fits them to the text that it then scores; published for this benchmark that broke the law, also in
the "causal" forms that share one delta over overlapping windows (parameter-golf #1176, #1229, #1306, #1350: half of the
optimised targets, or nearly all, were about to be scored).  Here a delta is fixed for a whole chunk and comes from targets
before the chunk alone.

``form=online``: warm, one closed-form Newton step per ``stride`` booked targets in stream order.  ``form=steps``: AdamW on
the last ``context`` booked targets, from zero for each chunk (#1128, #1176) or warm (#1399).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from evalkit.adapters.base import KEEP_CONTEXT, Settings, StreamInfo
from evalkit.adapters.learners.ttt import ChunkLearner, at_least, positive
from evalkit.adapters.learners.ttt_clock import Booked
from evalkit.errors import DivergenceError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.adapters.base import Receipt
    from evalkit.adapters.learners.slot_fit import SlotFit
    from evalkit.models.base import Model


class SlotSettings(Settings, frozen=True):
    """Settings of ``slot``."""

    form: Annotated[Literal["online", "steps"], Meta(description="how the delta is found")] = "online"
    scope: Annotated[
        tuple[Literal["stream", "document"], ...],
        Meta(description="one delta for the stream, one for each document, or both (online); steps takes one"),
    ] = ("stream", "document")
    chunk: Annotated[int, Meta(description="targets between updates, at most; a multiple of the plan's step")] = 512
    stride: Annotated[int, Meta(description="online: booked targets per Newton step")] = 64
    delta: Annotated[float, Meta(description="learning rate of the delta on the hidden state; 0: none")] = 1.0
    bias: Annotated[float, Meta(description="learning rate of the bias on the logits; 0: none")] = 1.0
    damp_delta: Annotated[float, Meta(description="online: damping of the stream's delta, targets")] = 30000.0
    damp_bias: Annotated[float, Meta(description="online: damping of the stream's bias, expected occurrences")] = 4.0
    damp_delta_document: Annotated[float, Meta(description="online: as damp_delta, of a document's delta")] = 30000.0
    damp_bias_document: Annotated[float, Meta(description="online: as damp_bias, of a document's bias")] = 4.0
    half_life: Annotated[
        float, Meta(description="online: targets after which the stream's curvature counts half; 0: never")
    ] = 0.0
    steps: Annotated[int, Meta(description="steps: AdamW steps per chunk")] = 5
    context: Annotated[int, Meta(description="steps: booked targets that the delta is fitted to")] = 1024
    warm: Annotated[bool, Meta(description="steps: go on from the last chunk's delta instead of zero")] = False
    reuse: Annotated[
        bool, Meta(description="learn from the scoring pass's hidden states; several ranks need false")
    ] = True
    seq_len: Annotated[int, Meta(description="reuse=false: input tokens of a recomputed sequence")] = 512

    def __post_init__(self) -> None:
        owner = "adapter slot"
        for name in ("chunk", "stride", "steps", "context", "seq_len"):
            at_least(owner, name, getattr(self, name), 1)
        for name in ("delta", "bias", "half_life"):
            at_least(owner, name, getattr(self, name), 0)
        for name in ("damp_delta", "damp_bias", "damp_delta_document", "damp_bias_document"):
            positive(owner, name, getattr(self, name))
        if self.delta == 0 and self.bias == 0:
            raise InputError(f"{owner}: delta=0 and bias=0 leave nothing to learn; give one of them a learning rate")
        if len(set(self.scope)) != len(self.scope) or not self.scope:
            raise InputError(f"{owner}: scope must name stream, document or both, got {list(self.scope)}")
        if self.form == "steps" and len(self.scope) > 1:
            raise InputError(
                f"{owner}: form=steps fits one delta, got the scopes {list(self.scope)}; give scope=[stream]"
            )
        if self.seq_len > KEEP_CONTEXT:
            raise InputError(f"{owner}: seq_len is at most {KEEP_CONTEXT} tokens, got {self.seq_len}")


class Slot(ChunkLearner):
    """Learns a delta on the last hidden state and a bias on the logits, for the stream and for each document."""

    name: ClassVar[str] = "slot"
    Settings: ClassVar[type[SlotSettings]] = SlotSettings
    sheds = ()

    def __init__(self, settings: SlotSettings | None = None) -> None:
        self.settings = settings or SlotSettings()

    @property
    def grid(self) -> int:
        """It learns from every receipt, because the hidden states are those of the chunk just scored."""
        return 0

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        import torch

        from evalkit.adapters.learners.slot_fit import OnlineFit, StepsFit
        from evalkit.adapters.learners.slot_model import SlotModel
        from evalkit.adapters.learners.ttt_document import CurrentDocument
        from evalkit.adapters.learners.ttt_head import require_split

        s, owner = self.settings, f"adapter {self.name}"
        require_split(model, owner)
        if s.reuse and self.ranks.size > 1:
            raise InputError(f"{owner}: {self.ranks.size} ranks each see a part of the hidden states; give reuse=false")
        width = _hidden(model, torch.tensor([info.first_token]), torch.tensor([0])).shape[-1]
        self._document = CurrentDocument(info.bos_id)
        self._fit: SlotFit = (OnlineFit if s.form == "online" else StepsFit)(s, width, model.vocab_size, model.device)
        self._model: Any = SlotModel(model, owner, self._fit.stream, self._fit.in_document, self._document)
        return self._model

    def observe(self, receipt: Receipt) -> None:
        super().observe(receipt)
        self._document.observe(receipt)

    def _learn(self, booked: Booked) -> None:
        """Fit on the chunk's rows, piece by piece: a piece ends where a document does."""
        import torch

        rows = self._model.take(booked.lo, booked.hi) if self.settings.reuse else None
        if rows is None:
            rows = self._recompute(booked)
        targets = torch.from_numpy(booked.text[booked.before :]).to(rows.device)
        ends = (targets == self._document.bos_id).nonzero()[:, 0] + 1
        edges = [0, *[int(e) for e in ends if e < len(targets)], len(targets)]
        for begin, end in itertools.pairwise(edges):
            if begin:
                self._fit.new_document()
            self._fit.learn(self._model.inner, rows[begin:end], targets[begin:end])
        if len(ends) and int(ends[-1]) == len(targets):
            self._fit.new_document()
        self._fit.finish(self._model.inner)
        self._check(booked)

    def _recompute(self, booked: Booked) -> Tensor:
        import torch

        from evalkit.adapters.learners.ttt_windows import training_windows

        parts = []
        for window in training_windows(booked.before, booked.hi - booked.lo, self.settings.seq_len):
            ids, of = (torch.from_numpy(x[window.start : window.hi - 1]) for x in (booked.text, booked.owners))
            parts.append(_hidden(self._model.inner, ids, of)[window.skip :])
        return torch.cat(parts)

    def _check(self, booked: Booked) -> None:
        for name, tensor in self._fit.state().items():
            if not bool(tensor.isfinite().all()):
                raise DivergenceError(
                    f"slot, learning from booked targets {booked.lo}..{booked.hi - 1}: {name} is not finite; "
                    "what was booked stays booked: lower delta and bias"
                )

    def _state(self) -> dict[str, Tensor]:
        return {**self._fit.state(), **self._document.state()}

    def _load(self, state: dict[str, Tensor]) -> None:
        self._fit.load(state)
        self._document.load(state)

    def detach(self) -> None:
        """Let go of the wrapped model; the user's was never changed."""
        self._model = None

    def state_bytes(self) -> int:
        """Deltas, biases, curvatures, and the kept rows of form=steps."""
        return self._fit.bytes


def _hidden(model: Any, ids: Tensor, owners: Tensor) -> Tensor:
    """Hidden states [L, D] of one window's inputs, int64 [L] twice."""
    import torch

    with torch.no_grad():
        return model.hidden(ids[None].to(model.device), owners[None].to(model.device))[0]
