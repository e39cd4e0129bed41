"""The journal: an append-only file of JSON lines, checksummed, on disk before any adapter learns.

Line 1 is the header (schema, fingerprint, settings); each later line is one booked chunk.  Every line ends with the
crc32 of the rest of it.  A torn tail (a line without newline, or with a wrong crc at the very end) is cut on opening;
a damaged line before the end is an error, because what follows it cannot be trusted.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from evalkit.errors import InputError
from evalkit.scoring.ledger import BookedChunk, DocumentPart

SCHEMA = 1


def encode_line(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":"), sort_keys=True)
    return f'{body[:-1]},"crc":{zlib.crc32(body.encode())}}}\n'.encode()


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The record, or None when the line is torn or damaged."""
    text, comma, tail = line.rstrip(b"\n").rpartition(b',"crc":')
    if not comma or not line.endswith(b"}\n"):
        return None
    body = text + b"}"
    if not tail[:-1].isdigit() or zlib.crc32(body) != int(tail[:-1]):
        return None
    return json.loads(body)


def chunk_record(booked: BookedChunk) -> dict[str, Any]:
    docs = [[p.doc, p.targets, p.bytes, list(p.nats)] for p in booked.parts]
    record = {"chunk": booked.index, "lo": booked.lo, "hi": booked.hi, "docs": docs, "digest": booked.digest}
    return record | {"shed": list(booked.shed)} if booked.shed else record


def chunk_from_record(record: dict[str, Any]) -> BookedChunk:
    parts = tuple(DocumentPart(d, t, b, tuple(nats)) for d, t, b, nats in record["docs"])
    shed = tuple(record.get("shed", ()))
    return BookedChunk(record["chunk"], record["lo"], record["hi"], parts, record["digest"], shed)


class Journal:
    """The run's memory.  ``append`` returns only when the line is on disk."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self.path = file, path

    @classmethod
    def open(cls, path: Path, header: dict[str, Any]) -> tuple[Journal, list[BookedChunk]]:
        """Create, or reopen and return the chunks already booked.  InputError when another run lives here."""
        header = {"schema": SCHEMA, **header}
        if not path.exists():
            file = path.open("xb")
            journal = cls(file, path)
            journal._write(header)
            _sync_folder(path.parent)
            return journal, []
        found, chunks, length = read_journal(path)
        if found is None:
            path.unlink()
            return cls.open(path, {k: v for k, v in header.items() if k != "schema"})
        _check_same_run(found, header, path)
        file = path.open("r+b")
        file.truncate(length)
        file.seek(length)
        return cls(file, path), chunks

    def append(self, booked: BookedChunk) -> None:
        self._write(chunk_record(booked))

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(encode_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_header(path: Path) -> dict[str, Any] | None:
    """The first line of a journal; None when there is no journal, or no whole first line."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return decode_line(file.readline())


def read_journal(path: Path) -> tuple[dict[str, Any] | None, list[BookedChunk], int]:
    """(header or None when nothing was written whole, booked chunks, length in bytes of the sound part)."""
    records, length = list[dict[str, Any]](), 0
    with path.open("rb") as file:
        lines = file.readlines()
    for number, line in enumerate(lines, start=1):
        record = decode_line(line)
        if record is None:
            if number < len(lines):
                raise InputError(
                    f"{path}: line {number} of {len(lines)} is damaged, so the run cannot resume; use another --out"
                )
            break
        records.append(record)
        length += len(line)
    if not records:
        return None, [], 0
    if records[0].get("schema") != SCHEMA:
        raise InputError(f"{path}: journal schema {records[0].get('schema')}, this version reads {SCHEMA}")
    return records[0], [chunk_from_record(r) for r in records[1:]], length


def _check_same_run(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    for part in wanted["fingerprint"]:
        old, new = found.get("fingerprint", {}).get(part), wanted["fingerprint"][part]
        if old != new:
            raise InputError(
                f"{path.parent} holds a run with another {part} ({str(old)[:60]}, now {str(new)[:60]}); "
                "give another --out, or remove that folder to start again"
            )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
