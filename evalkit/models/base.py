"""What is a model?  Ids in, rows of logits out; more is optional and declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from evalkit.stream.corpus import Corpus


@runtime_checkable
class Model(Protocol):
    """Shape legend: B windows, L positions, V vocabulary, D width.

    ``can`` is the subset of {"banded", "corpus", "hidden", "parameters"} that the model offers; see BandedModel,
    CorpusModel and HiddenModel for what is behind the first three; "parameters" means ``module`` is a torch nn.Module whose named
    parameters decide the logits (test-time training).
    """

    vocab_size: int
    max_seq_len: int | None
    """Longest window it was made for, in tokens; None when there is no limit."""
    can: frozenset[str]
    fingerprint: str
    """Hex digest of weights and architecture."""
    tokenizer_model: bytes | None
    """Tokenizer that travels with the checkpoint, or None: a SentencePiece model, {"bos_id", "tokenizer"} with the content of a
    tokenizer.json, or b"bytes:separator=B" where ids are the bytes themselves and byte B stands between documents."""
    device: Any
    module: Any

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, L] -> floating [B, L, V]; row i is the distribution of token i+1 given tokens 0..i."""
        ...


class BandedModel(Protocol):
    def banded(self, ids: torch.Tensor, state: Any, window: int) -> tuple[torch.Tensor, Any]:
        """int64 [L] continuing ``state`` (None at the start of a stream) -> (floating [L, V], new state).

        Every position attends to itself and the ``window - 1`` tokens before it, in every layer, across calls:
        the state carries the last keys and values, so no token is computed twice.  A recurrent model carries its state
        instead and may depend on all tokens since the state was None: it forgets by itself, and ``window`` is then only
        the warm-up that the plan gives it.  Inside the first ``window`` tokens the rows are those of ``logits``.
        """
        ...


class HiddenModel(Protocol):
    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, L] -> floating [B, L, D], the input of :meth:`head`."""
        ...

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """floating [..., D] -> logits [..., V], softcap included."""
        ...


class CorpusModel(Protocol):
    corpus: Corpus
    """Text that travels with the checkpoint, to be counted before the first target; its ids are the checkpoint's own."""
