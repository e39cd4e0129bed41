"""The documents of a training text, and which of them are kept out; files are read as evalkit.stream does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from evalkit.errors import InputError
from evalkit.stream.text import Document, kind_of, read_documents


def read(path: Path) -> Iterator[Document]:
    """Yield the documents of one file in order, empty ones skipped; raises InputError, a token shard included."""
    kind = kind_of(path)
    if kind == "shard":
        raise InputError(f"{path}: this is a token shard, not text; give .txt or .jsonl, plain or .xz")
    for document in read_documents(path, kind):
        if document.data:
            yield document


def documents(path: Path) -> Iterator[str]:
    """The same as strings."""
    for document in read(path):
        yield document.text


def is_held_out(document: str, permille: int) -> bool:
    """Decide by the document's own hash, so that the split does not depend on file order."""
    return is_held_out_bytes(document.encode("utf-8"), permille)


def is_held_out_bytes(data: bytes, permille: int) -> bool:
    """The same decision from the document's UTF-8 bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % 1000 < permille
