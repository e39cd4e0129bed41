"""Where do the trained weights live?  In one flat float32 vector; the parameters of the module are views into it.

One vector makes clipping one norm, an optimiser step a few vector operations, a snapshot one tensor, and the sum of
gradients over ranks one collective.  (The field's scripts reduce tensor by tensor: over 100 launches a step.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evalkit.errors import EvalkitError


class FlatParams:
    """``values`` and ``grad``: float32 [n].  Parameters of another dtype keep their own storage and are written to."""

    def __init__(self, params: Mapping[str, nn.Parameter]) -> None:
        self.params = dict(params)
        sizes = [p.numel() for p in self.params.values()]
        self._edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self.values = torch.cat([p.detach().reshape(-1).float() for p in self.params.values()])
        self.grad = torch.zeros_like(self.values)
        for p, view in zip(self.params.values(), self.views(self.values), strict=True):
            if p.dtype == torch.float32:
                p.data = view

    def views(self, flat: Tensor) -> list[Tensor]:
        """The parts of ``flat`` in the shapes of the parameters, in order."""
        spans = zip(self.params.values(), self._edges, self._edges[1:], strict=False)
        return [flat[a:b].view(p.shape) for p, a, b in spans]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Gradients are on for these parameters inside, and off outside."""
        for p in self.params.values():
            p.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for p in self.params.values():
                p.requires_grad_(False)

    def add_grad(self, loss: Tensor) -> None:
        """Add d loss / d parameters to ``grad``; no other parameter of the graph is touched."""
        found = torch.autograd.grad(loss, list(self.params.values()), allow_unused=True)
        for part, g in zip(self.views(self.grad), found, strict=True):
            if g is not None:
                part.add_(g)

    @torch.no_grad()
    def push(self) -> None:
        """Write ``values`` to parameters that are not float32 views of it."""
        for p, view in zip(self.params.values(), self.views(self.values), strict=True):
            if p.dtype != torch.float32:
                p.copy_(view)

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Take float32 [n] as the weights.  EvalkitError when the length is another."""
        if values.shape != self.values.shape:
            raise EvalkitError(
                f"a snapshot holds {values.numel()} trained weights, this model has {self.values.numel()}"
            )
        self.values.copy_(values)
        self.push()

    @property
    def bytes(self) -> int:
        return self.values.numel() * 8
