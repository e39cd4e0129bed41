"""How do many documents learn side by side, each with its own low-rank state?  One bank of states, one lane each.

Documents are independent when the state starts afresh in each, so a batch may hold one window of each of many documents:
row b of the batch uses the state of its lane.  One forward serves score and gradient: the rows are committed first, the
step comes after.  (parameter-golf #77, there in order of length; here lanes are filled in stream order.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.adapters.base import Receipt
from evalkit.adapters.ttt import GROWTH
from evalkit.adapters.ttt_head import SplitModel
from evalkit.errors import DivergenceError, EvalkitError, InputError


class LaneLinear(nn.Module):
    """A linear layer with one low-rank term per lane.  A [lanes, rank, in], B [lanes, out, rank]."""

    def __init__(self, base: nn.Linear, lanes: int, rank: int, scale: float, owner: LaneModel) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self._rows = owner.rows
        like: dict[str, Any] = {"dtype": torch.float32, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty(lanes, rank, base.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(lanes, base.out_features, rank, **like))

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, in], row b of lane ``rows.index[b]``."""
        index = self._rows.index
        low = torch.bmm(x, self.lora_A[index].to(x.dtype).mT)
        return self.base(x) + torch.bmm(low, self.lora_B[index].to(x.dtype).mT) * self.scale


class Rows:
    """``index`` int64 [B]: the lane of each row of the forward under way."""

    index: Tensor


class LaneModel(SplitModel):
    """A model with a bank of states.  ``values`` float32 [lanes, n]: all weights of a lane in one row."""

    def __init__(self, inner: Any, owner: str, settings: Any) -> None:
        super().__init__(inner, owner)
        self.rows, self.settings = Rows(), settings
        self.lanes, self.chunk = settings.lanes, settings.chunk
        self.layers: dict[str, LaneLinear] = {}
        self._graph: Tensor | None = None

    def logits(self, ids: Tensor) -> Tensor:
        raise InputError(
            f"{self.owner}: lanes={self.lanes} is scored by 'evalkit eval' in one process only; give lanes=0 for ranks, "
            "audits and certificates"
        )

    def hidden(self, ids: Tensor) -> Tensor:
        raise InputError(
            f"{self.owner}: with lanes={self.lanes} it must be the last learner of the stack; or give lanes=0"
        )

    def add(self, name: str) -> None:
        """Put a bank of low-rank terms on the linear layer ``name``."""
        path, _, leaf = name.rpartition(".")
        parent, s = self.module.get_submodule(path), self.settings
        self.layers[name] = LaneLinear(getattr(parent, leaf), self.lanes, s.rank, s.scale, self)
        setattr(parent, leaf, self.layers[name])

    @torch.no_grad()
    def begin(self, seed: int) -> None:
        """Lay the weights of a lane side by side, A uniform in +-1/sqrt(in) and B zero."""
        params = [p for part in ("lora_A", "lora_B") for p in (getattr(x, part) for x in self.layers.values())]
        sizes = [p[0].numel() for p in params]
        generator = torch.Generator().manual_seed(seed)
        fresh = []
        for i, p in enumerate(params):
            bound = p.shape[2] ** -0.5 if i < len(self.layers) else 0.0
            fresh.append(((torch.rand(p.shape[1:], generator=generator) * 2 - 1) * bound).flatten())
        self.fresh = torch.cat(fresh).to(self.device)
        self.values = self.fresh.repeat(self.lanes, 1)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = torch.zeros(self.lanes, device=self.device)
        at = 0
        for p, size in zip(params, sizes, strict=True):
            p.data = self.values[:, at : at + size].view(p.shape)
            p.requires_grad_(True)
            at += size
        self._params = params

    @torch.no_grad()
    def start(self, lane: int) -> None:
        """A document begins in this lane."""
        self.values[lane] = self.fresh
        for tensor in (self.first, self.second):
            tensor[lane] = 0.0
        self.steps[lane] = 0.0

    def lane_logits(self, lanes: Sequence[int], ids: Tensor) -> Tensor:
        """ids int64 [B, L], row b of lanes[b] -> logits [B, L, V], without gradients; the graph waits for the step."""
        self.rows.index = torch.tensor(lanes, device=ids.device)
        with torch.enable_grad():
            logits: Tensor = self.inner.logits(ids)
        self._graph = logits
        return logits.detach()

    def learn(self, booked: Sequence[tuple[int, int, Receipt]]) -> None:
        """One AdamW step for each (row, skip, receipt) of the last forward: its targets begin at row position skip."""
        if self._graph is None:
            raise EvalkitError("a lane learns from rows that were never computed")
        if booked:
            losses = [self._nats(row, skip, receipt) for row, skip, receipt in booked]
            with torch.enable_grad():
                found = torch.autograd.grad(torch.stack(losses).sum(), self._params)
            index = self.rows.index[[row for row, _, _ in booked]]
            grad = torch.cat([g.reshape(self.lanes, -1) for g in found], dim=1)[index]
            self._step(index, grad, booked)
        self._graph = None

    def _nats(self, row: int, skip: int, receipt: Receipt) -> Tensor:
        assert self._graph is not None
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
