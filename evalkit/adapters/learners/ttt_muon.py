"""How does Muon step on a flat vector?  Matrices of one shape are orthogonalised together, vectors move by SGD."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evalkit.adapters.learners.newton_schulz import orthogonalise
from evalkit.adapters.learners.ranks import Ranks
from evalkit.adapters.learners.ttt_flat import FlatParams

if TYPE_CHECKING:
    from evalkit.adapters.learners.muon_ttt import MuonTttSettings


class MuonStep:
    """w -= lr O(g) for matrices (3-D tensors are banks of them), w -= lr vector_lr g for the rest."""

    def __init__(self, flat: FlatParams, settings: MuonTttSettings, ranks: Ranks) -> None:
        """``ranks`` share the orthogonalisations, one shape each."""
        self.settings, self._flat, self._ranks = settings, flat, ranks
        self.buffer = torch.zeros_like(flat.values) if settings.momentum else None
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i, p in enumerate(flat.params.values()):
            if p.ndim in (2, 3):
                shapes.setdefault(tuple(p.shape), []).append(i)
        self._groups = list(shapes.items())
        self._banks = [(len(members) * math.prod(shape[:-2]), *shape[-2:]) for shape, members in self._groups]

    @torch.no_grad()
    def step(self, values: Tensor, grad: Tensor, lr: float) -> None:
        if self.buffer is not None:
            self.buffer.mul_(self.settings.momentum).add_(grad)
            grad.add_(self.buffer, alpha=self.settings.momentum)
        parts, weights = self._flat.views(grad), self._flat.views(values)

        def moves(group: int) -> Tensor:
            g = torch.stack([parts[i] for i in self._groups[group][1]]).view(self._banks[group])
            return orthogonalise(g, self.settings.steps, self.settings.polar)

        found = self._ranks.gather(len(self._groups), moves, self._banks)
        for (shape, members), bank in zip(self._groups, found, strict=True):
            scale = max(1.0, shape[-2] / shape[-1]) ** 0.5 if self.settings.by_shape else 1.0
            for i, move in zip(members, bank.reshape(len(members), *shape), strict=True):
                weights[i].add_(move, alpha=-lr * scale)
        for i, part in enumerate(parts):
            if part.ndim not in (2, 3):
                weights[i].add_(part, alpha=-lr * self.settings.vector_lr)

    def state(self) -> dict[str, Tensor]:
        return {} if self.buffer is None else {"muon.momentum": self.buffer}

    def load(self, state: dict[str, Tensor]) -> None:
        if self.buffer is not None:
            self.buffer.copy_(state["muon.momentum"])

    def reset(self) -> None:
        if self.buffer is not None:
            self.buffer.zero_()
