"""The documents of a text file (.txt: one; .jsonl: the ``text`` of each line; xz, gz and zst are opened).

What a file is shows in its content: the shard magic, or a first line that is a JSON object with a ``text`` string,
or else plain text.  The name decides only what content leaves open: a ``.bin`` that lacks the magic and a ``.jsonl``
whose first line is broken are reported as what they claim to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from evalkit.errors import InputError
from evalkit.stream.files import check_file, compression, slices
from evalkit.stream.shard import MAGIC_BYTES

Kind = Literal["text", "jsonl", "shard"]

DOCUMENT_LIMIT = 256 << 20
"""Bytes of the longest document.  SentencePiece needs about 45 bytes of memory per byte of one document (measured)."""
PACKED = (".xz", ".gz", ".zst")


@dataclass(frozen=True)
class Document:
    """One document: ``data`` is its UTF-8 text, ``index`` counts from 0 within the file, ``name`` is for people."""

    source: str
    index: int
    name: str
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode("utf-8")


class Line(msgspec.Struct):
    """A line of a .jsonl file; other fields are ignored."""

    text: str
    id: Any = None


LINE = msgspec.json.Decoder(Line)


def kind_of(path: str | Path) -> Kind:
    """Say what a file holds; raises InputError when it is missing, empty or unreadable."""
    path = check_file(path)
    head = next(slices(path), b"")
    if not head:
        raise InputError(f"{path}: the {compression(path)} stream is empty; give a file with text or tokens")
    name = path.name.lower()
    bare = next((name.removesuffix(p) for p in PACKED if name.endswith(p)), name)
    if head[:4] == MAGIC_BYTES or bare.endswith(".bin"):
        return "shard"
    if bare.endswith((".jsonl", ".ndjson")) or _starts_as_jsonl(path, head):
        return "jsonl"
    return "text"


def read_documents(path: str | Path, kind: Kind) -> Iterator[Document]:
    """Yield the documents of a text file in order; raises InputError that names file and line or offset."""
    path = Path(path)
    some = False
    for document in _read_jsonl(path) if kind == "jsonl" else _read_text(path):
        some = some or bool(document.data)
        yield document
    if not some:
        raise InputError(f"{path}: all its documents are empty; give a file with text")


def _starts_as_jsonl(path: Path, head: bytes) -> bool:
    if head.lstrip()[:1] != b"{":
        return False
    try:
        LINE.decode(next(line for _, line in _lines(path) if line.strip()))
    except (msgspec.DecodeError, UnicodeDecodeError, InputError):
        return False
    return True


def _read_text(path: Path) -> Iterator[Document]:
    """One document; line ends and a byte order mark stay as they are."""
    data = b"".join(_bounded(path, slices(path)))
    check_utf8(data, str(path))
    yield Document(str(path), 0, path.name, data)


def _read_jsonl(path: Path) -> Iterator[Document]:
    index = 0
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = LINE.decode(line)
        except msgspec.ValidationError as fault:
            raise InputError(f'{where}: {fault}; each line is {{"text": "..."}}') from None
        except UnicodeDecodeError:
            raise InputError(f"{where}: the text is not UTF-8; mend or drop the line") from None
        except msgspec.DecodeError as fault:
            raise InputError(f"{where}: not JSON ({fault}); mend or drop the line") from None
        name = str(row.id) if isinstance(row.id, str | int) else f"{path.name}:{number}"
        yield Document(str(path), index, name, row.text.encode("utf-8"))
        index += 1


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines without their end, numbered from 1, none longer than DOCUMENT_LIMIT."""
    number, held, size = 1, list[bytes](), 0
    for piece in slices(path):
        first, *rest = piece.split(b"\n")
        held.append(first)
        size += len(first)
        _check_size(path, size)
        for line in rest:
            yield number, b"".join(held)
            number, held, size = number + 1, [line], len(line)
    yield number, b"".join(held)


def _bounded(path: Path, pieces: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        _check_size(path, size)
        yield piece


def _check_size(path: Path, size: int) -> None:
    if size > DOCUMENT_LIMIT:
        raise InputError(f"{path}: a document of more than {DOCUMENT_LIMIT:,} bytes; split it into several documents")


def check_utf8(data: bytes, where: str) -> None:
    """Raise InputError with the offset where ``data`` stops being UTF-8 text (a NUL byte counts as binary)."""
    nul = data.find(b"\x00")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{where}: this is UTF-16, not UTF-8; convert it with: iconv -f UTF-16 -t UTF-8")
    if nul >= 0:
        raise InputError(f"{where}: byte {nul:,} is NUL, so this is binary, not text; give UTF-8 text, .jsonl or .bin")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError(
            f"{where}: byte {fault.start:,} (0x{data[fault.start]:02x}) is not UTF-8, so this is binary or another "
            f"encoding; convert it with iconv"
        ) from None
