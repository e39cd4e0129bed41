"""The optimisers: batched Muon for matrices, AdamW for the rest; float64 twins stand in tests/twins/optim.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from evalkit.adapters.learners.optim import POLAR_EXPRESS, QUINTIC, SAFETY, newton_schulz
from evalkit.train.ranks import ALONE, Ranks

METHODS = {"polar_express": POLAR_EXPRESS, "quintic": (QUINTIC,) * 5, "turbo": POLAR_EXPRESS[1:]}
"""Coefficients of each Newton-Schulz step."""
TABLES = ("embed.weight", "lm_head.weight")
"""Rows of these, and of every ``*.table.weight``, belong to tokens."""


def orthogonalise(u: torch.Tensor, dtype: torch.dtype = torch.float32, method: str = "polar_express") -> torch.Tensor:
    """Nearest semi-orthogonal matrices of u [n, rows, cols]."""
    return newton_schulz(u, METHODS[method], SAFETY, dtype, balance=method == "turbo")


class Muon:
    """W = (1 - lr wd) W - lr sqrt(max(1, rows / cols)) O with O the orthogonalised Nesterov momentum.

    Matrices of one shape are a bank: stacked, and orthogonalised together; with several ``ranks`` each does its part of
    a bank and all get the whole.  State: one momentum tensor [n, rows, cols] per shape.

    row_norm: rows of the update to unit norm first (MuonEq-R, PR #1285, -0.001).  variance: NorMuon's decay of the row
    second moment of O, 0 for none (0.6 % fewer steps in the speedrun).  method: see :data:`METHODS`.  cautious: decay
    a weight only where the step shrinks it too (helps the speedrun, nothing in PR #375).
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        *,
        weight_decay: float,
        row_norm: bool,
        dtype: torch.dtype,
        variance: float = 0.0,
        method: str = "polar_express",
        cautious: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.weight_decay, self.row_norm, self.dtype, self.ranks = weight_decay, row_norm, dtype, ranks
        self.variance, self.method, self.cautious = variance, method, cautious
        self.groups: dict[str, list[nn.Parameter]] = {}
        self.names: dict[str, list[str]] = {}
        for name, p in sorted(params.items()):
            shape = f"{p.shape[0]}x{p.shape[1]}"
            self.groups.setdefault(shape, []).append(p)
            self.names.setdefault(shape, []).append(name)
        self.momentum = {s: torch.stack([torch.zeros_like(p) for p in group]) for s, group in self.groups.items()}
        self.second = {s: m[..., :1].clone() for s, m in self.momentum.items()} if variance else {}

    @torch.no_grad()
    def step(
        self, lr: float, momentum: float, factors: Mapping[str, float] | None = None, decay: float = 1.0
    ) -> None:  # fmt: skip
        """``factors``: of the learning rate, by parameter name (1 where absent); ``decay``: of the weight decay."""
        for shape, group in self.groups.items():
            update = self._update(shape, group, momentum)
            scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            directions = self._normalised(shape, self.ranks.shared(update, self._orthogonal))
            for name, p, o in zip(self.names[shape], group, directions, strict=True):
                rate = lr * (factors.get(name, 1.0) if factors else 1.0)
                self._decay(p, o, rate * self.weight_decay * decay)
                p.add_(o, alpha=-rate * scale)

    def _update(self, shape: str, group: list[nn.Parameter], momentum: float) -> torch.Tensor:
        """Nesterov momentum [n, rows, cols], rows normalised when asked."""
        grad = torch.stack([_grad(p) for p in group])
        buffer = self.momentum[shape].mul_(momentum).add_(grad)
        update = grad.add_(buffer, alpha=momentum)
        return update / update.norm(dim=-1, keepdim=True).clamp_min(1e-12) if self.row_norm else update

    def _orthogonal(self, update: torch.Tensor) -> torch.Tensor:
        return orthogonalise(update, self.dtype, self.method)

    def _normalised(self, shape: str, o: torch.Tensor) -> torch.Tensor:
        """NorMuon: each row over the root of its mean square over time, then the old Frobenius norm again."""
        if not self.variance:
            return o
        second = self.second[shape].lerp_(o.square().mean(-1, keepdim=True), 1 - self.variance)
        scaled = o / second.sqrt().clamp_min(1e-10)
        return scaled * (o.norm(dim=(-2, -1), keepdim=True) / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))

    def _decay(self, p: torch.Tensor, o: torch.Tensor, amount: float) -> None:
        if self.cautious:
            p.sub_(p * (p * o > 0), alpha=amount)
        else:
            p.mul_(1 - amount)

    def state(self) -> dict[str, torch.Tensor]:
        flat = {f"muon.{shape}": buffer for shape, buffer in self.momentum.items()}
        return flat | {f"normuon.{shape}": buffer for shape, buffer in self.second.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, buffer in self.state().items():
            buffer.copy_(state[name])


class AdamW:
    """Adam with decoupled weight decay and bias correction; each parameter has its own learning rate.

    ``decays``: weight decay by parameter name, where it is not ``weight_decay``.
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decays: Mapping[str, float] | None = None,
    ) -> None:
        self.params = dict(sorted(params.items()))
        self.betas, self.eps, self.weight_decay, self.steps = betas, eps, weight_decay, 0
        self.decays = dict(decays or {})
        self.first = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.params.items()}

    @torch.no_grad()
    def step(self, lrs: Mapping[str, float]) -> None:
        """``lrs``: learning rate by parameter name."""
        self.steps += 1
        beta1, beta2 = self.betas
        for name, p in self.params.items():
            grad, lr = _grad(p), lrs[name]
            first = self.first[name].lerp_(grad, 1 - beta1)
            second = self.second[name].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            spread = (second / (1 - beta2**self.steps)).sqrt_().add_(self.eps)
            decay = self.decays.get(name, self.weight_decay)
            p.mul_(1 - lr * decay).addcdiv_(first, spread, value=-lr / (1 - beta1**self.steps))

    def state(self) -> dict[str, torch.Tensor]:
        flat = {f"adam.first.{n}": t for n, t in self.first.items()}
        flat |= {f"adam.second.{n}": t for n, t in self.second.items()}
        return flat | {"adam.steps": torch.tensor(self.steps)}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for name in self.params:
            self.first[name].copy_(state[f"adam.first.{name}"])
            self.second[name].copy_(state[f"adam.second.{name}"])
        self.steps = int(state["adam.steps"])


def split_params(named: Iterable[tuple[str, nn.Parameter]]) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Matrices inside blocks go to Muon; embeddings, hashed parts, gains, gates and scales to AdamW."""
    matrices, others = {}, {}
    for name, p in named:
        is_matrix = name.startswith(("blocks.", "mtp.")) and name.endswith(".weight") and p.ndim == 2
        (matrices if is_matrix else others)[name] = p
    return matrices, others


def is_table(name: str) -> bool:
    """True for parameters whose rows belong to tokens or hashes: they take the embedding's learning rate and decay."""
    return name in TABLES or name.endswith(".table.weight")


def layer_of(name: str) -> int:
    """Layer of a block's parameter, -1 for the others."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" else -1


def _grad(p: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad.clone()
