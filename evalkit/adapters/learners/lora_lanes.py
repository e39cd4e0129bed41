"""``lora_lanes``: each document learns low-rank terms of its own, in the pass that scores it.

Documents are independent when the state starts afresh in each.  A bank holds one state per lane; row b of a forward call
uses the state of its lane.  One
forward serves score and gradient: the rows are committed first, the step comes after.  (parameter-golf #77, there in
order of length; here in stream order.)  Each document has forward calls of its own, so that its rows do not move by one
bit with its neighbours; with ``batched`` as many documents as there are lanes share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from evalkit.adapters.base import Learner, Receipt, StreamInfo
from evalkit.adapters.learners.heads import SplitModel
from evalkit.adapters.learners.learner import GROWTH
from evalkit.adapters.learners.lora import check_rank, find_targets
from evalkit.adapters.learners.weights import sharing_copy
from evalkit.errors import DivergenceError, EvalkitError, InputError
from evalkit.settings import Count, NotNegative, Positive, Settings, Share

if TYPE_CHECKING:
    from evalkit.models.base import Model


class LoraLanesSettings(Settings, frozen=True):
    """Settings of ``lora_lanes``."""

    owner: ClassVar[str] = "adapter lora_lanes"
    lanes: Annotated[
        Count, Meta(description="documents that are under way at a time, each with a state of its own")
    ] = 16
    batched: Annotated[
        bool,
        Meta(
            description="one forward call for so many documents (for a GPU); rows then move in their last digits with the "
            "neighbours, so there is no audit and no certificate"
        ),
    ] = False
    chunk: Annotated[Count, Meta(description="targets of a document between two steps")] = 256
    rank: Annotated[Count, Meta(description="rank of every low-rank term")] = 8
    alpha: Annotated[Positive | None, Meta(description="the term is scaled by alpha / rank; none: by 1")] = None
    targets: Annotated[
        tuple[str, ...],
        Meta(description="q, k, v, o, mlp, or names of linear layers, * is a wildcard; not the head", min_length=1),
    ] = ("q", "v", "o", "mlp")
    lr: Annotated[Positive, Meta(description="learning rate of AdamW")] = 0.005
    betas: Annotated[tuple[Share, Share], Meta(description="decay of AdamW's moments, per step")] = (0.9, 0.95)
    weight_decay: Annotated[NotNegative, Meta(description="share of A and B lost per unit of learning rate")] = 0.0
    clip: Annotated[NotNegative, Meta(description="largest norm of a document's gradient; 0: as it is")] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if "head" in self.targets:
            raise InputError(
                f"{self.owner}: targets must not name the head, got {list(self.targets)}; write targets=[q,v,o,mlp]"
            )

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LoraLanes(Learner):
    """Trains low-rank terms afresh in each document, in the pass that scores it (plan ``document``)."""

    name: ClassVar[str] = "lora_lanes"
    Settings: ClassVar[type[LoraLanesSettings]] = LoraLanesSettings

    def __init__(self, settings: LoraLanesSettings | None = None) -> None:
        self.settings: LoraLanesSettings = settings or LoraLanesSettings()
        self.lanes, self.batched = self.settings.lanes, self.settings.batched
        self._model: LaneModel | None = None

    def attach(self, model: Model, info: StreamInfo) -> Model:
        """A model of its own to score with; the caller's is left alone.  InputError when it cannot be trained."""
        owner = f"adapter {self.name}"
        if "parameters" not in model.can:
            raise InputError(f"{owner}: this model offers no parameters to train; choose an expert such as ppm")
        self._model = self._build(model, info.seed)
        return self._model

    def _build(self, model: Model, seed: int) -> LaneModel:
        s, owner = self.settings, f"adapter {self.name}"
        lanes = LaneModel(sharing_copy(model, owner), owner, s)
        for name in find_targets(lanes.module, s.targets, model.vocab_size, owner):
            lanes.add(name)
            base = lanes.layers[name].base
            check_rank(owner, name, (base.out_features, base.in_features), s.rank)
        lanes.begin(seed)
        return lanes

    def observe(self, receipt: Receipt) -> None:
        """Nothing is left: each document learned from its own receipts on the way."""

    def snapshot(self) -> bytes:
        """Empty: a document that a chunk cuts hands its state on with the forward pass."""
        return b""

    def restore(self, state: bytes) -> None:
        if state:
            raise EvalkitError(f"the snapshot of {self.name} has {len(state)} bytes, it keeps none")

    def detach(self) -> None:
        """Let go of the copy; the user's model was never changed."""
        self._model = None

    def state_bytes(self) -> int:
        """Weights, gradient and moments of every lane."""
        return 0 if self._model is None else self._model.bytes


class LaneLinear(nn.Module):
    """A linear layer with a low-rank term for each row of the forward call: A [B, rank, in] and B [B, out, rank]."""

    terms: tuple[Tensor, Tensor]

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.rank, self.scale = base, rank, scale

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, in], or [L, in] of one row."""
        a, b = (term.to(x.dtype).mT for term in self.terms)
        if x.dim() == 2:
            return self.base(x) + (x @ a[0]) @ b[0] * self.scale
        return self.base(x) + torch.bmm(torch.bmm(x, a), b) * self.scale


class LaneModel(SplitModel):
    """A model with a bank of states.  ``values`` float32 [lanes, n]: all weights of a lane in one row."""

    values: Tensor

    def __init__(self, inner: Any, owner: str, settings: LoraLanesSettings) -> None:
        super().__init__(inner, owner)
        self.can |= {"lanes"}
        self.settings = settings
        self.lanes, self.chunk, self.batched = settings.lanes, settings.chunk, settings.batched
        self.layers: dict[str, LaneLinear] = {}
        self._index: Tensor | None = None

    def logits(self, ids: Tensor, owners: Tensor) -> Tensor:
        raise InputError(f"{self.owner}: it is scored document by document; here only lora_ttt:reset=document will do")

    def hidden(self, ids: Tensor, owners: Tensor) -> Tensor:
        raise InputError(f"{self.owner}: it must be the last learner of the stack; move it behind the others")

    def add(self, name: str) -> None:
        """Put a bank of low-rank terms on the linear layer ``name``."""
        path, _, leaf = name.rpartition(".")
        parent, s = self.module.get_submodule(path), self.settings
        self.layers[name] = LaneLinear(getattr(parent, leaf), s.rank, s.scale)
        setattr(parent, leaf, self.layers[name])

    @torch.no_grad()
    def begin(self, seed: int) -> None:
        """Lay the weights of a lane side by side, A uniform in +-1/sqrt(in) and B zero."""
        bases, rank = [layer.base for layer in self.layers.values()], self.settings.rank
        generator = torch.Generator().manual_seed(seed)
        a = [(torch.rand(rank, b.in_features, generator=generator) * 2 - 1) * b.in_features**-0.5 for b in bases]
        fresh = [x.flatten() for x in a] + [torch.zeros(b.out_features * rank) for b in bases]
        self._sizes = [len(x) for x in fresh]
        self.fresh = torch.cat(fresh).to(self.device)
        self.values = self.fresh.repeat(self.lanes, 1)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = torch.zeros(self.lanes, device=self.device)

    @torch.no_grad()
    def start(self, lane: int) -> None:
        """A document begins in this lane."""
        self.values[lane] = self.fresh
        for tensor in (self.first, self.second):
            tensor[lane] = 0.0
        self.steps[lane] = 0.0

    def lane_logits(self, lanes: Sequence[int], ids: Tensor, owners: Tensor) -> Tensor:
        """int64 [B, L] twice, row b of lanes[b] -> logits [B, L, V], without gradients; the graph waits for the step."""
        self._index = torch.tensor(lanes, device=ids.device)
        self._leaf = self.values[self._index].requires_grad_(True)
        with torch.enable_grad():
            self._lay(self._leaf)
            self._graph: Tensor = self.inner.logits(ids, owners)
        return self._graph.detach()

    def reading(self, lane: int) -> Any:
        """The model with the low-rank terms of one lane as they are now, for rows that are asked for one by one."""
        self._lay(self.values[lane : lane + 1].clone())
        return self.inner

    def _lay(self, values: Tensor) -> None:
        """values [B, n]: hand each layer its A and B."""
        parts, n = values.split(self._sizes, dim=1), len(self.layers)
        for layer, a, b in zip(self.layers.values(), parts[:n], parts[n:], strict=True):
            layer.terms = a.view(len(a), layer.rank, -1), b.view(len(b), -1, layer.rank)

    def learn(self, booked: Sequence[tuple[int, int, Receipt]]) -> None:
        """One AdamW step for each (row, skip, receipt) of the last forward: its targets begin at row position skip."""
        if self._index is None:
            raise EvalkitError("a lane learns from rows that were never computed")
        if booked:
            losses = [self._nats(row, skip, receipt) for row, skip, receipt in booked]
            with torch.enable_grad():
                grad = torch.autograd.grad(torch.stack(losses).sum(), self._leaf)[0]
            rows = [row for row, _, _ in booked]
            self._step(self._index[rows], grad[rows], booked)
        self._index = None
        del self._graph, self._leaf

    def _nats(self, row: int, skip: int, receipt: Receipt) -> Tensor:
        n = receipt.hi - receipt.lo
        targets = torch.from_numpy(receipt.tokens.astype("int64")).to(self._graph.device)
        with torch.enable_grad():
            return F.cross_entropy(self._graph[row, skip : skip + n].float(), targets)

    @torch.no_grad()
    def _step(self, index: Tensor, grad: Tensor, booked: Sequence[tuple[int, int, Receipt]]) -> None:
        s = self.settings
        norms = grad.norm(dim=1, keepdim=True)
        self._require(norms[:, 0].isfinite(), booked, "the gradient's norm is not finite")
        if s.clip:
            grad = grad * (s.clip / norms).clamp(max=1.0)
        beta1, beta2 = s.betas
        self.steps[index] += 1
        steps = self.steps[index][:, None]
        first = self.first[index].lerp(grad, 1 - beta1)
        second = self.second[index] * beta2 + (1 - beta2) * grad * grad
        move = (first / (1 - beta1**steps)) / ((second / (1 - beta2**steps)).sqrt() + 1e-10)
        self.first[index], self.second[index] = first, second
        self.values[index] = self.values[index] * (1 - s.lr * s.weight_decay) - s.lr * move
        most = GROWTH * max(1.0, float(self.fresh.norm()))
        self._require(self.values[index].norm(dim=1) <= most, booked, f"the weights' norm is above {most:.3g}")

    def _require(self, fine: Tensor, booked: Sequence[tuple[int, int, Receipt]], what: str) -> None:
        """DivergenceError for the first document of which ``fine`` bool [n] is false."""
        if bool(fine.all()):
            return
        bad = booked[int((~fine).nonzero()[0])][2]
        raise DivergenceError(
            f"{self.owner}, training on booked targets {bad.lo}..{bad.hi - 1}: {what} "
            f"(learning rate {self.settings.lr:g}); what was booked stays booked: lower lr, or set clip"
        )

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """What a document that goes on needs."""
        parts = {"values": self.values, "first": self.first, "second": self.second, "steps": self.steps}
        return {f"lane.{name}": tensor[lane].clone() for name, tensor in parts.items()}

    @torch.no_grad()
    def load_lane(self, lane: int, state: dict[str, Tensor]) -> None:
        for name in ("values", "first", "second", "steps"):
            getattr(self, name)[lane] = state[f"lane.{name}"].to(self.device)

    @property
    def bytes(self) -> int:
        """Weights, gradient and moments of every lane."""
        return self.values.numel() * 16 + self.fresh.numel() * 4
