"""A model whose head can be replaced: how a learner gets between the last hidden state and the logits.

``logits = head(hidden)``, and the banded pass gives hidden states too, so that a delta on the hidden state, a
bias on the logits or a low-rank term in the head sits in one method whatever the plan is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evalkit.errors import InputError
from evalkit.plan import Window


class SplitModel:
    """A Model around another one; subclasses override ``head`` (or ``hidden``)."""

    def __init__(self, inner: Any, owner: str) -> None:
        self.inner, self.owner = inner, owner
        self.vocab_size, self.max_seq_len = inner.vocab_size, inner.max_seq_len
        self.can, self.fingerprint = (inner.can - {"split"}) | {"learned"}, inner.fingerprint
        self.tokenizer_model, self.device, self.module = inner.tokenizer_model, inner.device, inner.module

    def scored(self, windows: Sequence[Window]) -> None:
        """See :class:`evalkit.models.base.ScoredModel`; only when ``can`` has "scored"."""
        self.inner.scored(windows)

    def hidden(self, ids: Tensor, owners: Tensor) -> Tensor:
        """int64 [B, L] twice -> [B, L, D]"""
        return self.inner.hidden(ids, owners)

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> logits [..., V]"""
        return self.inner.head(hidden)

    def logits(self, ids: Tensor, owners: Tensor) -> Tensor:
        return self.head(self.hidden(ids, owners))

    def banded_hidden(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        """int64 [L] twice, continuing ``state`` -> (hidden [L, D], new state).  InputError when it cannot be split."""
        if isinstance(self.inner, SplitModel):
            return self.inner.banded_hidden(ids, owners, state, window)
        with headless(self.inner, self.owner):
            return self.inner.banded(ids, owners, state, window)

    def banded(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        hidden, state = self.banded_hidden(ids, owners, state, window)
        return self.head(hidden), state


@contextmanager
def headless(model: Any, owner: str) -> Iterator[None]:
    """Inside, the module's ``head`` method returns its argument, so passes that end in it end in hidden states."""
    module = model.module
    if not inspect.ismethod(getattr(module, "head", None)):
        raise InputError(
            f"{owner}: this model's banded pass cannot be split before its head; use --plan sliding:seq_len=512,stride=64"
        )
    module.head = _as_is
    try:
        yield
    finally:
        del module.head


def _as_is(hidden: Tensor) -> Tensor:
    return hidden


def require_split(model: Any, owner: str) -> None:
    """InputError when the model has no head apart."""
    if "hidden" not in model.can:
        raise InputError(f"{owner}: this model does not offer its hidden states apart from its head; choose lora_ttt")


def head_weight(model: Any, owner: str) -> tuple[nn.Module, str]:
    """(module, attribute) of the one [V, D] matrix that turns hidden states into logits, found by its gradient.

    InputError when there is none.  A tied embedding is found as the embedding.
    """
    require_split(model, owner)
    with torch.no_grad():
        zero = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
        width = model.hidden(zero, zero).shape[-1]
    named = {n: p for n, p in model.module.named_parameters() if p.shape == (model.vocab_size, width)}
    for name, p in named.items():
        probe = torch.ones(1, p.shape[1], device=p.device, dtype=p.dtype)
        was, found = p.requires_grad, None
        p.requires_grad_(True)
        with torch.enable_grad():
            out = model.head(probe).sum()
            if out.requires_grad:
                found = torch.autograd.grad(out, p, allow_unused=True)[0]
        p.requires_grad_(was)
        if found is not None:
            path, _, attribute = name.rpartition(".")
            return model.module.get_submodule(path), attribute
    raise InputError(
        f"{owner}: no [{model.vocab_size}, D] matrix was found in this model's head; leave 'head' out of targets"
    )


@contextmanager
def swapped(owner: nn.Module, attribute: str, value: Tensor) -> Iterator[None]:
    """Inside, the module's parameter ``attribute`` reads as ``value`` (which may carry gradients)."""
    held = owner._parameters[attribute]
    owner._parameters[attribute] = value  # type: ignore[assignment]
    try:
        yield
    finally:
        owner._parameters[attribute] = held
