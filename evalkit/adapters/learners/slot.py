"""``slot``: a few vectors added to the last hidden state, fitted to booked tokens (SLOT, parameter-golf).

With z = head(h + delta) + bias and p = softmax(z), a target y has d nats / d z = p - 1_y: the bias' gradient, in closed
form.  The delta's is its pull-back through the head (through the softcap, then W^T), one product more.

S <- decay S + sum of squares (delta) or sum of p (1 - p) (bias);    move = -lr * gradient / (S + damping)

At decay 1 the steps fall like 1 / targets and a bias ends near log(observed + damping) - log(expected + damping), a
smoothed residual count.  The bias' damping is in expected occurrences; the delta's is in targets, at the mean curvature
of its coordinates, so that neither depends on the model's scale.

logits = head(hidden + delta) + bias        one delta for the stream, and one more inside the current document

Both are constants while a chunk is scored, learned from targets before it.  The hidden states of the scoring pass are
kept until the chunk is booked, so learning costs no second pass through the trunk.

SLOT (arXiv 2505.12392) fits them to the text that it then scores; published for this benchmark that broke the law, also in
the "causal" forms that share one delta over overlapping windows (parameter-golf #1176, #1229, #1306, #1350: half of the
optimised targets, or nearly all, were about to be scored).  Here a delta is fixed for a whole chunk and comes from targets
before the chunk alone.

``form=online``: warm, one closed-form Newton step per ``stride`` booked targets in stream order.  ``form=steps``: AdamW on
the last ``context`` booked targets, from zero for each chunk (#1128, #1176) or warm (#1399).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Tensor

from evalkit.adapters.base import KEEP_CONTEXT, ChunkWork, StreamInfo
from evalkit.adapters.learners.heads import SplitModel
from evalkit.adapters.learners.learner import Booked, ChunkLearner, CurrentDocument
from evalkit.adapters.learners.optim import AdamW
from evalkit.errors import DivergenceError, InputError
from evalkit.plan import Window
from evalkit.settings import Count, NotNegative, Positive, Settings

if TYPE_CHECKING:
    from evalkit.adapters.base import Receipt
    from evalkit.models.base import Model


@dataclass(frozen=True)
class RowGradients:
    """Sums over rows, and what a diagonal preconditioner needs.

    delta, delta_square: float32 [D], sum of the rows' gradients and of their squares.  bias: float32 [V], sum of
    p - 1_y.  bias_spread: float32 [V], sum of p (1 - p), the diagonal of the exact Fisher information.
    """

    delta: Tensor
    delta_square: Tensor
    bias: Tensor
    bias_spread: Tensor


def row_gradients(model: Any, hidden: Tensor, targets: Tensor, bias: Tensor, with_delta: bool) -> RowGradients:
    """hidden [n, D] with the delta added, targets int64 [n], bias [V] (or [n, V]) -> sums over the n rows."""
    h = hidden.detach().requires_grad_(with_delta)
    with torch.set_grad_enabled(with_delta):
        raw = model.head(h).float()
    with torch.no_grad():
        p = torch.softmax(raw + bias, dim=-1)
        spread = (p - p * p).sum(0)
        p[torch.arange(len(targets), device=p.device), targets] -= 1.0
        if not with_delta:
            nothing = torch.zeros(hidden.shape[-1], device=p.device)
            return RowGradients(nothing, nothing, p.sum(0), spread)
        rows = torch.autograd.grad(raw, h, p)[0].float()
        return RowGradients(rows.sum(0), (rows * rows).sum(0), p.sum(0), spread)


@dataclass(frozen=True)
class Pace:
    """Rates of one state.  ``half_life``: targets after which curvature counts half; 0: it is never forgotten."""

    lr_delta: float
    lr_bias: float
    damp_delta: float
    damp_bias: float
    half_life: float

    def decay(self, n: int) -> float:
        return 0.5 ** (n / self.half_life) if self.half_life else 1.0


class SlotState:
    """delta float32 [D], bias float32 [V], and their curvature."""

    NAMES = ("delta", "bias", "delta_curvature", "bias_curvature", "seen")

    def __init__(self, width: int, vocab: int, pace: Pace, device: torch.device) -> None:
        self.pace = pace
        self.delta, self.delta_curvature = torch.zeros(width, device=device), torch.zeros(width, device=device)
        self.bias, self.bias_curvature = torch.zeros(vocab, device=device), torch.zeros(vocab, device=device)
        self.seen = torch.zeros((), dtype=torch.float64)

    def reset(self) -> None:
        for tensor in self.state().values():
            tensor.zero_()

    @torch.no_grad()
    def step(self, g: RowGradients, n: int) -> None:
        """Move once for the sums over n targets."""
        pace, decay = self.pace, self.pace.decay(n)
        self.seen.mul_(decay).add_(n)
        if pace.lr_delta:
            self.delta_curvature.mul_(decay).add_(g.delta_square)
            level = self.delta_curvature.mean() / float(self.seen)
            self.delta.sub_(pace.lr_delta * g.delta / (self.delta_curvature + pace.damp_delta * level + 1e-30))
        if pace.lr_bias:
            self.bias_curvature.mul_(decay).add_(g.bias_spread)
            self.bias.sub_(pace.lr_bias * g.bias / (self.bias_curvature + pace.damp_bias))

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.NAMES}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.state().values())


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


class SlotModel(SplitModel):
    """``stream`` and ``in_document``: the states that are added; None where there is none."""

    def __init__(
        self, inner: Any, owner: str, stream: SlotState | None, in_document: SlotState | None, document: CurrentDocument
    ) -> None:
        super().__init__(inner, owner)
        self.stream, self.in_document, self.document = stream, in_document, document
        self.can |= {"scored"}
        self._last: Tensor | None = None
        self._kept: dict[int, Tensor] = {}

    def logits(self, ids: Tensor, owners: Tensor) -> Tensor:
        hidden = self.inner.hidden(ids, owners)
        self._last = None if torch.is_grad_enabled() else hidden
        return self.shifted(hidden, self._mask(owners))

    def banded(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        hidden, state = self.banded_hidden(ids, owners, state, window)
        self._last = None if torch.is_grad_enabled() else hidden[None]
        return self.shifted(hidden, self._mask(owners)), state

    def head(self, hidden: Tensor) -> Tensor:
        """With the stream's delta and bias; which document a bare hidden state belongs to is not known."""
        return self.shifted(hidden, torch.zeros(hidden.shape[:-1], dtype=torch.bool, device=hidden.device))

    def _mask(self, owners: Tensor) -> Tensor | None:
        return None if self.in_document is None else self.document.mask(owners)

    def shifted(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Logits [..., V] of hidden [..., D]; the document's state counts where ``mask`` is true (None: everywhere)."""
        out = self.inner.head(hidden + self._sum("delta", mask).to(hidden.dtype))
        return out + self._sum("bias", mask).to(out.dtype)

    def _sum(self, part: str, mask: Tensor | None) -> Tensor:
        total = torch.zeros((), device=self.device)
        if self.stream is not None:
            total = getattr(self.stream, part)
        if self.in_document is not None:
            own = getattr(self.in_document, part)
            total = total + (own if mask is None else own * mask[..., None])
        return total

    def scored(self, windows: Sequence[Window]) -> None:
        """Keep the hidden states of the windows' targets, by the first target."""
        if "scored" in self.inner.can:
            super().scored(windows)
        if self._last is None:
            return
        for window, rows in zip(windows, self._last, strict=True):
            self._kept[window.lo] = rows[window.skip :].detach()
        self._last = None

    def take(self, lo: int, hi: int) -> Tensor | None:
        """Hidden states [hi - lo, D] of booked targets, and forget them; None when they were not all seen here."""
        kept, self._kept = self._kept, {}
        rows, at = list[Tensor](), lo
        while at < hi and at in kept:
            rows.append(kept[at])
            at += len(kept[at])
        return torch.cat(rows) if at == hi else None


class SlotSettings(Settings, frozen=True):
    """Settings of ``slot``."""

    owner: ClassVar[str] = "adapter slot"
    form: Annotated[Literal["online", "steps"], Meta(description="how the delta is found")] = "online"
    scope: Annotated[
        tuple[Literal["stream", "document"], ...],
        Meta(description="one delta for the stream, one for each document, or both (online); steps takes one"),
    ] = ("stream", "document")
    chunk: Annotated[Count, Meta(description="targets between updates, at most; a multiple of the plan's step")] = 512
    stride: Annotated[Count, Meta(description="online: booked targets per Newton step")] = 64
    delta: Annotated[NotNegative, Meta(description="learning rate of the delta on the hidden state; 0: none")] = 1.0
    bias: Annotated[NotNegative, Meta(description="learning rate of the bias on the logits; 0: none")] = 1.0
    damp_delta: Annotated[Positive, Meta(description="online: damping of the stream's delta, targets")] = 30000.0
    damp_bias: Annotated[Positive, Meta(description="online: damping of the stream's bias, expected occurrences")] = 4.0
    damp_delta_document: Annotated[Positive, Meta(description="online: as damp_delta, of a document's delta")] = 30000.0
    damp_bias_document: Annotated[Positive, Meta(description="online: as damp_bias, of a document's bias")] = 4.0
    half_life: Annotated[
        NotNegative, Meta(description="online: targets after which the stream's curvature counts half; 0: never")
    ] = 0.0
    steps: Annotated[Count, Meta(description="steps: AdamW steps per chunk")] = 5
    context: Annotated[Count, Meta(description="steps: booked targets that the delta is fitted to")] = 1024
    warm: Annotated[bool, Meta(description="steps: go on from the last chunk's delta instead of zero")] = False
    reuse: Annotated[
        bool, Meta(description="learn from the scoring pass's hidden states; several ranks need false")
    ] = True
    seq_len: Annotated[Count, Meta(description="reuse=false: input tokens of a recomputed sequence")] = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = self.owner
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

    @property
    def work(self) -> ChunkWork:
        return ChunkWork()

    @property
    def notes(self) -> list[str]:
        return []

    def _attach(self, model: Model, info: StreamInfo) -> Model:
        import torch

        from evalkit.adapters.learners.heads import require_split
        from evalkit.adapters.learners.learner import CurrentDocument

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

        from evalkit.adapters.learners.learner import training_windows

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
