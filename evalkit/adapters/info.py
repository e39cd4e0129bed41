"""What an adapter may know of a stream before the first token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from evalkit.adapters.base import CountsCorpus, StreamInfo

if TYPE_CHECKING:
    from evalkit.adapters.base import Expert
    from evalkit.models.base import CorpusModel, Model
    from evalkit.stream.corpus import Corpus
    from evalkit.stream.stream import Stream


def stream_info(
    stream: Stream, seed: int = 0, vocab_size: int | None = None, corpus: Corpus | None = None
) -> StreamInfo:
    """Constants of the tokenizer and the checkpoint, and the context token 0; nothing of the text.

    ``vocab_size``: rows of the model when it has more than the tokenizer has pieces (the rest are unused ids with no
    bytes); raises InputError when it has fewer.  ``corpus``: see :func:`carried`.
    """
    table = stream.tokenizer.pieces.resized(vocab_size or stream.tokenizer.vocab_size)
    return StreamInfo(
        vocab_size=table.vocab_size,
        bos_id=stream.tokenizer.bos_id,
        first_token=int(stream.tokens[0]),
        seed=seed,
        piece_bytes=table.piece_bytes,
        groups=dict(table.groups),
        corpus=corpus,
    )


def carried(model: Model, experts: Iterable[Expert]) -> Corpus | None:
    """The corpus that the checkpoint carries, unpacked when one of the experts can count it."""
    wanted = "corpus" in model.can and any(isinstance(expert, CountsCorpus) for expert in experts)
    return cast("CorpusModel", model).corpus if wanted else None
