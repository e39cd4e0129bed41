"""Averages of the weights kept beside the run: EMA; the export takes the best form on held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]


class Average(Protocol):
    def update(self, params: Mapping[str, nn.Parameter], step: int, f: float) -> None:
        """Take in the weights after ``step`` steps, at progress ``f``."""
        ...

    def tensors(self) -> Tensors:
        """The average by parameter name; empty when it has seen nothing yet."""
        ...

    def state(self) -> Tensors: ...
    def load(self, state: Mapping[str, torch.Tensor]) -> None: ...


class Ema:
    """shadow = d shadow + (1 - d) w with d = min(decay, (1 + t) / (10 + t)); float32, from the first step."""

    def __init__(self, params: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.shadow = {n: p.detach().clone() for n, p in params.items()}

    @torch.no_grad()
    def update(self, params: Mapping[str, nn.Parameter], step: int, f: float) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in params.items():
            self.shadow[name].lerp_(p, 1 - decay)

    def tensors(self) -> Tensors:
        return self.shadow

    def state(self) -> Tensors:
        return {f"average.{n}": t for n, t in self.shadow.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in self.shadow.items():
            tensor.copy_(state[f"average.{name}"])
