"""Do the tokens of a document carry exactly the bytes of its text?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evalkit.errors import ByteCountError, InputError
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import Tokenizer

Int32 = npt.NDArray[np.int32]


def reconcile(tokenizer: Tokenizer, documents: Sequence[Document], ids: Sequence[Int32]) -> Int32:
    """Check a batch and return its tokens, BOS before each document: int32 [sum of lengths + documents].

    Raises ByteCountError for the first document whose tokens count other bytes than its text has, or decode to other
    bytes, and InputError for one that encodes to a BOS.
    """
    bos = np.array([tokenizer.bos_id], np.int32)
    tokens = np.concatenate([part for i in ids for part in (bos, i)])
    before = np.concatenate((bos, tokens[:-1]))
    starts = np.cumsum([0, *(len(i) + 1 for i in ids[:-1])])
    counts = np.add.reduceat(tokenizer.pieces.target_bytes(before, tokens), starts)
    sizes = np.array([len(d.data) for d in documents])
    whole = b"".join(d.data for d in documents)
    one_bos_each = int((tokens == tokenizer.bos_id).sum()) == len(documents)
    if np.array_equal(counts, sizes) and one_bos_each and tokenizer.pieces.decode(before, tokens) == whole:
        return tokens
    for document, part in zip(documents, ids, strict=True):
        _check_one(tokenizer, document, part)
    raise AssertionError("a batch failed to reconcile but none of its documents did")


def _check_one(tokenizer: Tokenizer, document: Document, ids: Int32) -> None:
    where = f"{document.source}, document {document.index} ('{document.name}')"
    if (ids == tokenizer.bos_id).any():
        raise InputError(f"{where}: its text encodes to BOS (id {tokenizer.bos_id}), which separates documents")
    data = tokenizer.decode_bytes(ids)
    if data == document.data:
        return
    at = first_difference(document.data, data)
    why = tokenizer.losses(document.text, ids) or "the tokenizer is not lossless"
    raise ByteCountError(
        f"{where}: the text has {len(document.data):,} bytes and its tokens {len(data):,}; they part at byte {at:,} "
        f"({_excerpt(document.data, at)} became {_excerpt(data, at)}): {why}; score it with a lossless tokenizer"
    )


def first_difference(a: bytes, b: bytes) -> int:
    """Offset of the first byte in which they differ; the shorter length when one begins the other."""
    n = min(len(a), len(b))
    differs = np.frombuffer(a, np.uint8, n) != np.frombuffer(b, np.uint8, n)
    return int(differs.argmax()) if differs.any() else n


def _excerpt(data: bytes, at: int) -> str:
    while at and at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return repr(data[at : at + 16].decode("utf-8", "replace")) if at < len(data) else "the end"
