"""Optimisers over one flat vector of parameters, and the Newton-Schulz iteration of Muon.

Each optimiser owns tensors of the vector's length, names them for the snapshot, and steps in place.

Each step applies an odd polynomial a x + b x^3 + c x^5 to the singular values, in matrix products only.
Quintic: Jordan et al. 2024 (Muon).  Polar Express: Amsel, Persson, Musco and Gower 2025, one triple per step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor


class Optimiser(Protocol):
    def step(self, values: Tensor, grad: Tensor, lr: float) -> None:
        """Move ``values`` float32 [n] against ``grad`` float32 [n], in place."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...

    def reset(self) -> None:
        """Forget every moment."""
        ...


class Sgd:
    """m = momentum m + g;  w -= lr m (nesterov: w -= lr (g + momentum m))."""

    def __init__(self, like: Tensor, momentum: float = 0.0, nesterov: bool = False) -> None:
        self.momentum, self.nesterov = momentum, nesterov
        self.buffer = torch.zeros_like(like) if momentum else None

    @torch.no_grad()
    def step(self, values: Tensor, grad: Tensor, lr: float) -> None:
        if self.buffer is None:
            values.add_(grad, alpha=-lr)
            return
        self.buffer.mul_(self.momentum).add_(grad)
        move = grad.add(self.buffer, alpha=self.momentum) if self.nesterov else self.buffer
        values.add_(move, alpha=-lr)

    def state(self) -> dict[str, Tensor]:
        return {} if self.buffer is None else {"sgd.momentum": self.buffer}

    def load(self, state: dict[str, Tensor]) -> None:
        if self.buffer is not None:
            self.buffer.copy_(state["sgd.momentum"])

    def reset(self) -> None:
        if self.buffer is not None:
            self.buffer.zero_()


class AdamW:
    """Adam with bias correction and decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(self, like: Tensor, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        self.betas, self.eps, self.weight_decay, self.steps = betas, eps, weight_decay, 0
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)

    @torch.no_grad()
    def step(self, values: Tensor, grad: Tensor, lr: float) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        self.first.lerp_(grad, 1 - beta1)
        self.second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        spread = (self.second / (1 - beta2**self.steps)).sqrt_().add_(self.eps)
        values.mul_(1 - lr * self.weight_decay)
        values.addcdiv_(self.first, spread, value=-lr / (1 - beta1**self.steps))

    def state(self) -> dict[str, Tensor]:
        return {"adam.first": self.first, "adam.second": self.second, "adam.steps": torch.tensor(self.steps)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.first.copy_(state["adam.first"])
        self.second.copy_(state["adam.second"])
        self.steps = int(state["adam.steps"])

    def reset(self) -> None:
        self.steps = 0
        self.first.zero_()
        self.second.zero_()


Triple = tuple[float, float, float]

QUINTIC: Triple = (3.4445, -4.7750, 2.0315)
"""Steep at 0 and not convergent: singular values end between about 0.7 and 1.2."""

POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SAFETY = 1.02
"""Polar Express bounds the largest singular value by the Frobenius norm times this."""


def coefficients(steps: int, polar: bool) -> tuple[Triple, ...]:
    """One triple per step; after its five tuned steps Polar Express repeats the last."""
    if not polar:
        return (QUINTIC,) * steps
    return tuple(POLAR_EXPRESS[min(i, len(POLAR_EXPRESS) - 1)] for i in range(steps))


def orthogonalise(g: Tensor, steps: int = 5, polar: bool = False) -> Tensor:
    """g float32 [n, rows, cols], n matrices of one shape at once -> as large, singular values near 1 (0 stays 0)."""
    return newton_schulz(g, coefficients(steps, polar), SAFETY if polar else 1.0)


def newton_schulz(
    g: Tensor, triples: Iterable[Triple], margin: float, dtype: torch.dtype | None = None, balance: bool = False
) -> Tensor:
    """One step per triple, in ``dtype`` (None: that of g), on g [n, rows, cols] over its Frobenius norm times ``margin``.

    ``balance`` (Turbo-Muon) scales row i by (sum_j |X X^T|_ij)^-1/2 first; that bounds the norm by 1 and brings singular
    values nearer together, so that the first and steepest step may be left out.
    """
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * margin + 1e-7)
    if balance:
        x = x * (x @ x.mT).abs().sum(-1, keepdim=True).clamp_min(1e-14).rsqrt()
    x = x if dtype is None else x.to(dtype)
    for a, b, c in triples:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    x = x.to(g.dtype)
    return x.mT if tall else x
