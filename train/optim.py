"""How do weights move?  Batched Muon for matrices, AdamW for the rest; float64 twins stand in optim_naive.py."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# Polar Express (Amsel et al. 2025), as in modded-nanogpt: one triple per Newton-Schulz step.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SAFETY = 1.02  # the paper's margin on the norm bound


def orthogonalise(u: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of u [n, rows, cols], by five Polar Express steps in ``dtype``."""
    wide = u.shape[-2] <= u.shape[-1]
    x = u if wide else u.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-7)).to(dtype)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    x = x.to(u.dtype)
    return x if wide else x.mT


class Muon:
    """W = (1 - lr wd) W - lr sqrt(max(1, rows / cols)) O with O the orthogonalised Nesterov momentum.

    Matrices of one shape are stacked and orthogonalised together.  ``row_norm`` scales the rows of the update to unit
    norm first (MuonEq-R).  State: one momentum tensor [n, rows, cols] per shape.
    """

    def __init__(
        self, params: dict[str, nn.Parameter], *, weight_decay: float, row_norm: bool, dtype: torch.dtype
    ) -> None:
        self.weight_decay, self.row_norm, self.dtype = weight_decay, row_norm, dtype
        self.groups: dict[str, list[nn.Parameter]] = {}
        for _, p in sorted(params.items()):
            self.groups.setdefault(f"{p.shape[0]}x{p.shape[1]}", []).append(p)
        self.momentum = {
            shape: torch.stack([torch.zeros_like(p) for p in group]) for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float, momentum: float) -> None:
        for shape, group in self.groups.items():
            grad = torch.stack([_grad(p) for p in group])
            buffer = self.momentum[shape].mul_(momentum).add_(grad)
            update = grad.add_(buffer, alpha=momentum)
            if self.row_norm:
                update = update / update.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            for p, o in zip(group, orthogonalise(update, self.dtype), strict=True):
                p.mul_(1 - lr * self.weight_decay).add_(o, alpha=-lr * scale)

    def state(self) -> dict[str, torch.Tensor]:
        return {f"muon.{shape}": buffer for shape, buffer in self.momentum.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for shape, buffer in self.momentum.items():
            buffer.copy_(state[f"muon.{shape}"])


class AdamW:
    """Adam with decoupled weight decay and bias correction; each parameter has its own learning rate."""

    def __init__(
        self, params: dict[str, nn.Parameter], *, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        self.params = dict(sorted(params.items()))
        self.betas, self.eps, self.weight_decay, self.steps = betas, eps, weight_decay, 0
        self.first = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.params.items()}

    @torch.no_grad()
    def step(self, lrs: dict[str, float]) -> None:
        """``lrs``: learning rate by parameter name."""
        self.steps += 1
        beta1, beta2 = self.betas
        for name, p in self.params.items():
            grad, lr = _grad(p), lrs[name]
            first = self.first[name].lerp_(grad, 1 - beta1)
            second = self.second[name].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            spread = (second / (1 - beta2**self.steps)).sqrt_().add_(self.eps)
            p.mul_(1 - lr * self.weight_decay).addcdiv_(first, spread, value=-lr / (1 - beta1**self.steps))

    def state(self) -> dict[str, torch.Tensor]:
        flat = {f"adam.first.{n}": t for n, t in self.first.items()}
        flat |= {f"adam.second.{n}": t for n, t in self.second.items()}
        return flat | {"adam.steps": torch.tensor(self.steps)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for name in self.params:
            self.first[name].copy_(state[f"adam.first.{name}"])
            self.second[name].copy_(state[f"adam.second.{name}"])
        self.steps = int(state["adam.steps"])


def split_params(named: Iterable[tuple[str, nn.Parameter]]) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Matrices inside blocks go to Muon; embedding, gains, gates and scales to AdamW."""
    matrices, others = {}, {}
    for name, p in named:
        is_matrix = name.startswith("blocks.") and name.endswith(".weight") and p.ndim == 2
        (matrices if is_matrix else others)[name] = p
    return matrices, others


def _grad(p: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad.clone()
