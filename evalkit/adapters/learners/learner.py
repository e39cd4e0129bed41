"""Learners train the model on booked text: the chunk clock, the training windows, and the step they share.

``text`` is what a learner holds: ``before`` booked tokens of context, then the chunk's targets.  Every target has a loss
in exactly one window; a window's inputs end just before its last target and reach back ``seq_len`` tokens when the text
goes back so far, so that all windows but the stream's first have one length and run in one batch.

Between two updates the state of one document is at hand: the one that the last booked target belongs to.  Documents that
begin inside the chunk under way start from nothing, so their positions must not see it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from evalkit.adapters.base import KEEP_CONTEXT, ChunkWork, Float64, Learner, Receipt, StreamInfo
from evalkit.adapters.learners.ranks import SOLO, Ranks
from evalkit.errors import DivergenceError, EvalkitError, InputError
from evalkit.plan import Window, owners
from evalkit.settings import Count, Positive, Settings, Size

if TYPE_CHECKING:
    from evalkit.adapters.learners.optim import Optimiser
    from evalkit.adapters.learners.weights import FlatParams
    from evalkit.models.base import Model


Int64 = npt.NDArray[np.int64]


def training_windows(before: int, n: int, seq_len: int, overlap: int = 0) -> list[Window]:
    """Windows over text positions [before, before + n), ``before`` >= 1; each takes seq_len - overlap new targets.

    ``overlap`` inputs at the front of a full window are context without loss (0 <= overlap < seq_len).
    """
    end, step = before + n, seq_len - overlap
    edges = ((lo, min(lo + step, end)) for lo in range(before, end, step))
    return [Window(max(0, hi - 1 - seq_len), lo, hi) for lo, hi in edges]


def same_length(windows: Sequence[Window], tokens: int) -> Iterator[list[Window]]:
    """Batches of windows of one length, at most ``tokens`` input tokens each (at least one window)."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: -w.length):
        if batch and (window.length != batch[0].length or (len(batch) + 1) * window.length > tokens):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def batch_nats(model: Any, booked: Booked, windows: Sequence[Window]) -> Tensor:
    """Sum of nats over the windows' targets, a scalar tensor that carries gradients.  Windows have one length."""
    import torch
    import torch.nn.functional as F

    ids, of = (np.stack([x[w.start : w.hi - 1] for w in windows]) for x in (booked.text, booked.owners))
    inputs, owners = torch.from_numpy(ids).to(model.device), torch.from_numpy(of).to(model.device)
    targets = torch.from_numpy(np.stack([booked.text[w.start + 1 : w.hi] for w in windows])).to(model.device)
    for row, window in zip(targets, windows, strict=True):
        row[: window.skip] = -100
    logits = model.logits(inputs, owners).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")


@dataclass(frozen=True)
class Booked:
    """Targets [lo, hi) that are booked, to learn from.

    text int64: ``before`` booked tokens of context, then the targets.  nats float64 [hi - lo], as booked.
    owners int64, of text: the stream position where the document of each token begins, -1 when that is not at hand.
    """

    lo: int
    hi: int
    text: Int64
    before: int
    nats: Float64
    owners: Int64

    def since(self, position: int) -> Booked | None:
        """Only the targets after text position ``position``, which becomes the first context token; None if none."""
        if position <= 0:
            return self
        before = max(1, self.before - position)
        skipped = max(0, position + 1 - self.before)
        if skipped >= self.hi - self.lo:
            return None
        lo, text, nats = self.lo + skipped, self.text[position:], self.nats[skipped:]
        return Booked(lo, self.hi, text, before, nats, self.owners[position:])


class ChunkClock:
    """``chunk`` targets a tick (0: every receipt), on a grid that counts from the stream's first target.

    ``_document``: where the document of the last booked token begins; ``_owner``: that of the token before ``_lo``.
    """

    def __init__(self, chunk: int, keep: int, bos_id: int) -> None:
        """``keep``: context tokens to hold before the pending targets (at most KEEP_CONTEXT, what a receipt carries)."""
        self.chunk, self.keep, self._bos_id = chunk, min(keep, KEEP_CONTEXT), bos_id
        self._next = self._document = 0
        self._clear()

    def _clear(self) -> None:
        self._lo = self._before = self._owner = 0
        self._text: list[np.ndarray] = []
        self._nats: list[np.ndarray] = []

    def add(self, receipt: Receipt) -> Booked | None:
        """Collect; returns everything pending when the grid is crossed.  EvalkitError when receipts leave a gap."""
        if self._next and receipt.lo != self._next:
            raise EvalkitError(f"a learner got targets from {receipt.lo} after {self._next - 1}: receipts leave a gap")
        self._next = receipt.hi
        if not self._text:
            context = receipt.context[-self.keep :]
            self._lo, self._before, self._text = receipt.lo, len(context), [context.astype(np.int64)]
            self._owner = self._document
        begun = np.flatnonzero(receipt.tokens == self._bos_id)
        if len(begun):
            self._document = receipt.lo + int(begun[-1])
        self._text.append(receipt.tokens.astype(np.int64))
        self._nats.append(receipt.nats)
        if self.chunk and (receipt.hi - 1) // self.chunk == (receipt.lo - 1) // self.chunk:
            return None
        text, nats = np.concatenate(self._text), np.concatenate(self._nats)
        booked = Booked(self._lo, receipt.hi, text, self._before, nats, self._owners(text))
        self._clear()
        return booked

    def _owners(self, text: Int64) -> Int64:
        """Of pending tokens: from the BOS among them, and the one before them that owns their first target's input."""
        first = self._lo - self._before
        starts = first + np.flatnonzero(text == self._bos_id)
        if self._owner <= first:
            starts = np.concatenate(([self._owner], starts))
        return owners(starts, first, first + len(text))

    def state(self) -> dict[str, Tensor]:
        """What is pending, as tensors."""
        import torch

        text = np.concatenate(self._text) if self._text else np.empty(0, np.int64)
        nats = np.concatenate(self._nats) if self._nats else np.empty(0)
        head = [self._next, self._lo, self._before, self._document, self._owner]
        return {
            "clock.head": torch.tensor(head, dtype=torch.int64),
            "clock.text": torch.from_numpy(text),
            "clock.nats": torch.from_numpy(nats),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self._clear()
        self._next, self._lo, self._before, self._document, self._owner = (int(v) for v in state["clock.head"])
        if len(state["clock.text"]):
            self._text = [state["clock.text"].numpy()]
            self._nats = [state["clock.nats"].numpy()]


class CurrentDocument:
    """``start``: stream position of the current document's BOS."""

    def __init__(self, bos_id: int) -> None:
        self.bos_id, self.start = bos_id, 0

    def mask(self, owners: Tensor) -> Tensor | None:
        """Owners int64 (see :class:`evalkit.models.base.Model`) -> bool of their shape; None when all are its own."""
        mine = owners == self.start
        return None if bool(mine.all()) else mine

    def observe(self, receipt: Receipt) -> bool:
        """Move on past a booked chunk; True when a new document has begun in it."""
        places = (receipt.tokens == self.bos_id).nonzero()[0]
        if len(places):
            self.start = receipt.lo + int(places[-1])
        return len(places) > 0

    def state(self) -> dict[str, Tensor]:
        return {"document": torch.tensor(self.start)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.start = int(state["document"])


class TttSettings(Settings, frozen=True):
    """Settings that every learner with a training step has."""

    chunk: Annotated[
        Size, Meta(description="targets between updates; a multiple of the plan's step; 0: each chunk")
    ] = 1024
    seq_len: Annotated[Count, Meta(description="input tokens of a training sequence")] = 512
    overlap: Annotated[Size, Meta(description="of these, tokens at the front that are context without loss")] = 0
    epochs: Annotated[Count, Meta(description="passes over a booked chunk")] = 1
    batch: Annotated[Size, Meta(description="sequences per optimiser step; 0: the whole chunk")] = 1
    lr: Annotated[Positive, Meta(description="learning rate")] = 1e-3
    schedule: Annotated[
        Literal["constant", "cosine"],
        Meta(
            description="cosine falls to 0 at the declared horizon: a look-ahead at the length unless it is a constant"
        ),
    ] = "constant"
    horizon: Annotated[Size, Meta(description="targets over which cosine falls; needed with cosine")] = 0
    clip: Annotated[float, Meta(description="largest norm of the gradient (nats per target); 0: no clipping")] = 1.0

    micro_tokens: Annotated[
        Count, Meta(description="input tokens of one forward and backward; a step adds up as many as it needs")
    ] = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = self.owner
        if not 0 <= self.clip < math.inf:
            raise InputError(f"{owner}: setting clip must be 0 (off) or a positive norm, got {self.clip:g}")
        if self.overlap >= self.seq_len:
            raise InputError(
                f"{owner}: overlap {self.overlap} leaves no target in a sequence of seq_len {self.seq_len} tokens; "
                f"choose overlap <= {self.seq_len - 1}"
            )
        if self.seq_len > KEEP_CONTEXT:
            raise InputError(
                f"{owner}: seq_len is at most {KEEP_CONTEXT} tokens (what a receipt carries), got {self.seq_len}"
            )
        if self.schedule == "cosine" and self.horizon == 0:
            raise InputError(
                f"{owner}: schedule=cosine needs horizon=N, the targets over which it falls to 0; it must be declared "
                "before the run, because the stream's own length is not known to a causal learner"
            )

    @property
    def work(self) -> ChunkWork:
        return ChunkWork(self.epochs, self.seq_len, self.micro_tokens, self.batch)

    def notes(self, owner: str) -> list[str]:
        """What a reader of the result must know."""
        if self.schedule == "constant":
            return []
        return [
            f"{owner}: cosine over a declared horizon of {self.horizon:,} targets, not causal if chosen from the text"
        ]

    def lr_at(self, lo: int) -> float:
        """Learning rate of the update on targets from ``lo`` on."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, lo / self.horizon)))


class ChunkLearner(Learner):
    """A learner that collects receipts up to its chunk, then learns.  Subclasses say how."""

    ranks: Ranks = SOLO
    sheds = ("epochs",)

    def share(self, ranks: Ranks) -> bool:
        """Train together: gradients are summed over ``ranks``."""
        self.ranks = ranks
        return True

    @property
    def chunk_tokens(self) -> int:
        return self.settings.chunk

    @property
    def grid(self) -> int:
        """Targets after which pending receipts are learned from; 0: each receipt at once."""
        return self.settings.chunk

    @property
    def period(self) -> int:
        return self.grid

    @property
    def work(self) -> ChunkWork:
        return self.settings.work

    @property
    def notes(self) -> list[str]:
        return self.settings.notes(self.name)

    def attach(self, model: Model, info: StreamInfo) -> Model:
        """A model of its own to score with; the caller's is left alone.  InputError when it cannot be trained."""
        if "parameters" not in model.can:
            raise InputError(
                f"adapter {self.name}: this model offers no parameters to train; choose an expert such as ppm"
            )
        self._clock = ChunkClock(self.grid, self.settings.seq_len, info.bos_id)
        self.updates = 0
        return self._attach(model, info)

    def observe(self, receipt: Receipt) -> None:
        """Collect a booked chunk; train when the grid is crossed.  DivergenceError when a number is not finite."""
        booked = self._clock.add(receipt)
        if booked is not None:
            self._learn(booked)
            self.updates += 1

    def shed(self, work: str) -> str:
        """Do less of ``work`` from now on; returns what changed."""
        if work not in self.sheds:
            raise EvalkitError(f"{self.name} cannot do less of '{work}'")
        was, self.settings = self.settings.epochs, msgspec.structs.replace(self.settings, epochs=1)
        return f"epochs {was} -> 1"

    @abstractmethod
    def _attach(self, model: Model, info: StreamInfo) -> Model: ...

    @abstractmethod
    def _learn(self, booked: Booked) -> None: ...

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Everything that decides later scores, by name."""

    @abstractmethod
    def _load(self, state: dict[str, Tensor]) -> None: ...

    def snapshot(self) -> bytes:
        """Weights, optimiser and pending tokens, as safetensors."""
        import torch
        from safetensors.torch import save

        state = {**self._state(), **self._clock.state(), "updates": torch.tensor(self.updates)}
        return save({name: t.detach().cpu().contiguous() for name, t in state.items()})

    def restore(self, state: bytes) -> None:
        """After attach(): be as when the snapshot was taken, to the bit.  EvalkitError when it does not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(state)
            self._clock.load(tensors)
            self._load(tensors)
            self.updates = int(tensors["updates"])
        except (SafetensorError, KeyError, RuntimeError) as fault:
            raise EvalkitError(f"the snapshot of {self.name} cannot be used: {fault}") from None


GROWTH = 100.0
"""Weights that grew by this factor have run away, even where a norm inside the model keeps its rows finite."""


class Trainer:
    """Flat weights, their optimiser, and the steps of one booked chunk."""

    def __init__(self, owner: str, flat: FlatParams, optimiser: Optimiser) -> None:
        self.owner, self.flat, self.optimiser = owner, flat, optimiser
        self._first_norm = max(1.0, float(flat.values.norm()))

    def train(self, model: Any, booked: Booked, s: TttSettings, lr: float, epochs: int, ranks: Ranks) -> None:
        """``epochs`` passes over the chunk, ``s.batch`` sequences a step, in stream order."""
        windows = training_windows(booked.before, booked.hi - booked.lo, s.seq_len, s.overlap)
        size = s.batch or len(windows)
        for _ in range(epochs):
            for i in range(0, len(windows), size):
                self._step(model, booked, windows[i : i + size], s, lr, ranks)
        norm = float(self.flat.values.norm())
        if not norm <= GROWTH * self._first_norm:
            what = f"the weights' norm is {norm:.3g} after the update, it was {self._first_norm:.3g} before the run"
            raise DivergenceError(self._sentence(booked, what, lr))

    def _step(self, model: Any, booked: Booked, windows: list[Window], s: TttSettings, lr: float, ranks: Ranks) -> None:
        """One step on the mean nats of the windows' targets."""
        parts = list(same_length(windows, s.micro_tokens))
        grad = ranks.sum(len(parts), lambda i: self._gradient(model, booked, parts[i]), like=self.flat.grad)
        grad.div_(sum(w.hi - w.lo for w in windows))
        norm = float(grad.norm())
        if not math.isfinite(norm):
            raise DivergenceError(self._sentence(booked, f"the gradient's norm is {norm}", lr))
        if s.clip and norm > s.clip:
            grad.mul_(s.clip / norm)
        self.optimiser.step(self.flat.values, grad, lr)
        self.flat.push()

    def _gradient(self, model: Any, booked: Booked, windows: list[Window]) -> Tensor:
        """Gradient of the sum of nats over the windows' targets, float32 [n]."""
        self.flat.grad.zero_()
        with self.flat.training():
            self.flat.add_grad(batch_nats(model, booked, windows))
        return self.flat.grad

    def _sentence(self, booked: Booked, what: str, lr: float) -> str:
        return (
            f"{self.owner}, training on booked targets {booked.lo}..{booked.hi - 1}: {what} (learning rate {lr:g}); "
            "what was booked stays booked: lower lr, or set clip"
        )

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        named = {"weights": self.flat.values, **self.optimiser.state()}
        return {prefix + name: t for name, t in named.items()}

    def load(self, state: dict[str, Tensor], prefix: str = "") -> None:
        own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        self.flat.load(own["weights"])
        self.optimiser.load(own)

    @property
    def bytes(self) -> int:
        return self.flat.bytes + sum(t.numel() * t.element_size() for t in self.optimiser.state().values())
