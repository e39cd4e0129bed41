"""The check that the tokens of a document carry exactly the bytes of its text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from evalkit.errors import ByteCountError, InputError
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import Tokenizer

Int32 = npt.NDArray[np.int32]

PIECES = re.compile(rb"[ \t\n\r\v\f]+|[^ \t\n\r\v\f]+")
"""Words and the white space between them."""


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
        raise InputError(
            f"{where}: its text encodes to BOS (id {tokenizer.bos_id}) at token {int((ids == tokenizer.bos_id).argmax()):,}, "
            f"which separates documents; choose a separator that no document holds, or split the document there"
        )
    data = tokenizer.decode_bytes(ids)
    if data == document.data:
        return
    at = first_difference(document.data, data)
    why = tokenizer.losses(document.text, ids) or "the tokenizer is not lossless"
    raise ByteCountError(
        f"{where}: the text has {len(document.data):,} bytes and its tokens {len(data):,}; they part at byte {at:,} "
        f"({_excerpt(document.data, at)} became {_excerpt(data, at)}): {why}; score it with a lossless tokenizer, or give "
        "--lossy to score the text as the tokenizer gives it back"
    )


def given_back(tokenizer: Tokenizer, documents: Sequence[Document], ids: Sequence[Int32]) -> list[Document]:
    """The documents as the tokenizer library's own decoder reads their tokens; those that come back equal stay as they are.

    :func:`reconcile` then compares these texts with the piece table.  Raises ByteCountError where a token carries no text
    (<unk>): its bytes cannot be counted from any text.
    """
    found = list[Document]()
    for document, part in zip(documents, ids, strict=True):
        if tokenizer.decode_bytes(part) == document.data:
            found.append(document)
            continue
        lost = int(tokenizer.pieces.groups["unknown"][part].sum())
        if lost:
            raise ByteCountError(
                f"{document.source}, document {document.index} ('{document.name}'): {lost:,} of its {len(part):,} tokens are "
                f"<unk>, which stands for any text, so no bytes can be counted, with --lossy neither; score it with a "
                f"tokenizer that has byte fallback"
            )
        found.append(replace(document, data=tokenizer.given_back(part)))
    return found


def bytes_changed(text: bytes, other: bytes) -> int:
    """Bytes of the words and white space of ``text`` that ``other`` does not have, or the reverse where that is more.

    Both are compared as collections of words and gaps; 0 only when these are equal.
    """
    ours, theirs = Counter(PIECES.findall(text)), Counter(PIECES.findall(other))
    return max(sum(len(p) * n for p, n in (a - b).items()) for a, b in ((ours, theirs), (theirs, ours)))


def first_difference(a: bytes, b: bytes) -> int:
    """Offset of the first byte in which they differ; the shorter length when one begins the other."""
    n = min(len(a), len(b))
    differs = np.frombuffer(a, np.uint8, n) != np.frombuffer(b, np.uint8, n)
    return int(differs.argmax()) if differs.any() else n


def _excerpt(data: bytes, at: int) -> str:
    while at and at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return repr(data[at : at + 16].decode("utf-8", "replace")) if at < len(data) else "the end"
