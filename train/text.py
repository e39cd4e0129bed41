"""Which documents does a text file hold?  (.txt is one document; .jsonl has a ``text`` field per line; .xz is opened.)"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from evalkit.errors import InputError


def open_text(path: Path) -> str:
    """Return the whole file as text; raises InputError when it is missing, unreadable or not UTF-8."""
    try:
        data = path.read_bytes()
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the text file {path}: {error}; give UTF-8 .txt or .jsonl, plain or .xz"
        ) from None


def documents(path: Path) -> Iterator[str]:
    """Yield the documents of one file, in file order; empty ones are skipped."""
    text = open_text(path)
    if ".jsonl" not in path.suffixes:
        if text:
            yield text
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path} line {number} is not a JSON object with a 'text' field; mend or drop it"
            ) from None
        if document:
            yield document


def is_held_out(document: str, permille: int) -> bool:
    """Decide by the document's own hash, so that the split does not depend on file order."""
    digest = hashlib.blake2b(document.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 1000 < permille
