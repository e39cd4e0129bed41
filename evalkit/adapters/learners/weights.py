"""Copies of a model, the choice of parameters that train, and their view as one flat vector.

A learner trains its copy, so ``detach`` has nothing to undo, and the base can be scored beside it from the same weights.

One vector makes clipping one norm, an optimiser step a few vector operations, a snapshot one tensor, and the sum of
gradients over ranks one collective.  (The field's scripts reduce tensor by tensor: over 100 launches a step.)
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.adapters.learners.heads import SplitModel
from evalkit.errors import EvalkitError, InputError, nearest

LAYER_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")


def own_copy(model: Any, owner: str) -> Any:
    """The model with weights of its own, gradients off.

    InputError behind another learner: its copy would stay as it is now, whatever that learner learns.
    """
    if "learned" in model.can:
        raise InputError(
            f"{owner}: it trains a copy of all weights, which would leave behind what the learner before it learns; put "
            f"{owner} first, or drop one of them"
        )
    copied = _frozen(copy.deepcopy(model))
    copied.can = model.can | {"learned"}
    return copied


def sharing_copy(model: Any, owner: str) -> Any:
    """The model with modules of its own that hold the *same* weights: modules can be replaced at no cost in memory.

    InputError behind a learner with more than weights (slot, low-rank terms): that would be copied as it is now.
    """
    if isinstance(model, SplitModel):
        raise InputError(
            f"{owner}: it cannot stand behind slot or another learner of low-rank terms, whose learning it would leave behind; "
            f"put {owner} before it, or drop one of them"
        )
    tensors = [*model.module.parameters(), *model.module.buffers()]
    memo: dict[int, Any] = {id(t): t for t in tensors if not t.is_inference()}
    return _frozen(copy.deepcopy(model, memo))


def _frozen(model: Any) -> Any:
    model.module.requires_grad_(False)
    model.module.eval()
    return model


def select_params(
    module: nn.Module, patterns: Sequence[str], freeze_blocks: int, owner: str
) -> dict[str, nn.Parameter]:
    """Floating parameters whose name matches a pattern (``*`` wildcards) and whose block number is not frozen.

    InputError when a pattern matches nothing or nothing is left to train.
    """
    named = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in named):
            raise InputError(f"{owner}: no parameter matches '{pattern}'{nearest(pattern, named)}")
    chosen = {n: p for n, p in named.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
    left = {n: p for n, p in chosen.items() if _block(n) is None or _block(n) >= freeze_blocks}  # type: ignore[operator]
    if not left:
        raise InputError(
            f"{owner}: nothing is left to train, {len(chosen)} parameters match and freeze_blocks={freeze_blocks} "
            "freezes them all; lower freeze_blocks or widen train"
        )
    devices = {p.device for p in left.values()}
    if len(devices) > 1:
        raise InputError(f"{owner}: the weights lie on {len(devices)} devices, training needs one")
    return left


def _block(name: str) -> int | None:
    found = LAYER_NUMBER.search(name)
    return int(found[1]) if found else None


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
