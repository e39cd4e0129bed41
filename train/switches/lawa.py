"""LAWA, the mean of the last snapshots (Kaddour 2022).  Off: never on in a record."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from evalkit.train.averages import Tensors


class Lawa:
    """Mean of the last ``keep`` snapshots, one at every ``every``-th step."""

    def __init__(self, params: Mapping[str, nn.Parameter], keep: int, every: int) -> None:
        self.keep, self.every = keep, every
        self.kept: list[Tensors] = []

    @torch.no_grad()
    def update(self, params: Mapping[str, nn.Parameter], step: int, f: float) -> None:
        if step % self.every == 0:
            self.kept = [
                *self.kept[1 - self.keep or len(self.kept) :],
                {n: p.detach().clone() for n, p in params.items()},
            ]

    def tensors(self) -> Tensors:
        if not self.kept:
            return {}
        return {n: torch.stack([snap[n] for snap in self.kept]).mean(0) for n in self.kept[0]}

    def state(self) -> Tensors:
        return {f"lawa.{i}.{n}": t for i, snap in enumerate(self.kept) for n, t in snap.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        self.kept = []
        for i in range(self.keep):
            at = f"lawa.{i}."
            if snap := {n[len(at) :]: t for n, t in state.items() if n.startswith(at)}:
                self.kept.append({n: t.clone() for n, t in snap.items()})
