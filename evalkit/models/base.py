"""The Model protocol and its faces: ids and their owners in, rows of logits out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from evalkit.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from evalkit.plan import Window
    from evalkit.stream.corpus import Corpus


class Text(Protocol):
    """What a forward pass reads of a stream: token ids [n] and, int64 [D], where documents begin."""

    @property
    def tokens(self) -> np.ndarray: ...

    @property
    def doc_start(self) -> np.ndarray: ...


@runtime_checkable
class Model(Protocol):
    """Shape legend: B windows, L positions, V vocabulary, D width.

    ``can`` is the subset of {"banded", "corpus", "hidden", "lanes", "learned", "parameters", "scored", "split"} that the
    model offers; see BandedModel, CorpusModel, HiddenModel and ScoredModel for what is behind four of them; "parameters"
    means ``module`` is a torch nn.Module whose named parameters determine the logits (test-time training); "lanes" means
    documents learn inside the pass that scores them (models/lanes.py); "learned" means a learner made it; "split" means the
    logits are head(hidden), position by position and nothing else, so that the head may run on booked positions alone.

    Every method that takes ``ids`` takes ``owners`` beside them, int64 of the same shape: for each position the stream
    position of the first token (BOS) of the document that it belongs to, -1 outside any document (padding).  The owner
    of a position follows from the tokens up to it, so it says nothing of the future.  A model that treats all documents
    alike ignores it; one that keeps a state per document compares it.
    """

    vocab_size: int
    max_seq_len: int | None
    """Longest window that the model supports, in tokens; None when there is no limit."""
    can: frozenset[str]
    fingerprint: str
    """Hex digest of weights and architecture."""
    tokenizer_model: bytes | None
    """Tokenizer that travels with the checkpoint, or None: a SentencePiece model, {"bos_id", "tokenizer"} with the content of a
    tokenizer.json, or b"bytes:separator=B" where ids are the bytes themselves and byte B stands between documents."""
    device: Any
    module: Any

    def logits(self, ids: torch.Tensor, owners: torch.Tensor, /) -> torch.Tensor:
        """int64 [B, L] twice -> floating [B, L, V]; row i is the distribution of token i+1 given tokens 0..i."""
        ...


class BandedModel(Protocol):
    def banded(self, ids: torch.Tensor, owners: torch.Tensor, state: Any, window: int, /) -> tuple[torch.Tensor, Any]:
        """int64 [L] twice, continuing ``state`` (None at the start of a stream) -> (floating [L, V], new state).

        Every position attends to itself and the ``window - 1`` tokens before it, in every layer, across calls:
        the state carries the last keys and values, so no token is computed twice.  A recurrent model carries its state
        instead and may depend on all tokens since the state was None: it forgets by itself, and ``window`` is then only
        the warm-up that the plan gives it.  Inside the first ``window`` tokens the rows are those of ``logits``.
        """
        ...


class HiddenModel(Protocol):
    def hidden(self, ids: torch.Tensor, owners: torch.Tensor, /) -> torch.Tensor:
        """int64 [B, L] twice -> floating [B, L, D], the input of :meth:`head`."""
        ...

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """floating [..., D] -> logits [..., V], softcap included."""
        ...


class CorpusModel(Protocol):
    corpus: Corpus
    """Text that travels with the checkpoint, to be counted before the first target; its ids are the checkpoint's own."""


@runtime_checkable
class SizedModel(Protocol):
    """A model that knows the bytes of its artifact."""

    size_bytes: int


@runtime_checkable
class NotedModel(Protocol):
    """A model whose loader made a choice that the user should read."""

    notes: Sequence[str]


class ScoredModel(Protocol):
    """A model that may keep its activations of the targets just scored, to learn from them once they are booked."""

    def scored(self, windows: Sequence[Window], /) -> None:
        """Called after a forward: its batch rows were these windows, one window per row, in order."""
        ...


ARGUMENTS = {"logits": "ids, owners", "hidden": "ids, owners", "banded": "ids, owners, state, window"}


def require_protocol(model: Any, where: str) -> None:
    """InputError, one sentence, when ``model`` cannot be called as the protocol above calls it.

    The one place that looks at signatures: models written before ``owners`` came to the protocol meet it here.
    """
    if not isinstance(model, Model):
        named = ", ".join(sorted((*Model.__annotations__, "logits")))
        raise InputError(
            f"{where}: {type(model).__name__} is not a model; it must have {named} (evalkit/models/base.py)"
        )
    for method, arguments in ARGUMENTS.items():
        if method != "logits" and method not in model.can:
            continue
        try:
            inspect.signature(getattr(model, method)).bind(*arguments.split(", "))
        except AttributeError:
            raise InputError(
                f"{where}: {type(model).__name__} says it can '{method}' but has no {method}({arguments})"
            ) from None
        except ValueError:
            continue  # written in C, without a signature to look at
        except TypeError:
            raise InputError(
                f"{where}: {type(model).__name__}.{method}{inspect.signature(getattr(model, method))} cannot take "
                f"({arguments}); write def {method}(self, {arguments}) and ignore owners, which says of each position where "
                "its document begins, unless documents matter to the model"
            ) from None
