"""How does a flat vector of weights move?  SGD with momentum, AdamW; Muon stands in muon_ttt.py.

Each optimiser owns tensors of the vector's length, names them for the snapshot, and steps in place.
"""

from __future__ import annotations

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
