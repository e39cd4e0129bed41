"""Snapshots of everything that learns, beside the journal: what lets a run go on with the same bits.

``state/CHUNK.bin``: magic, length and crc32 of a JSON header, the header (chunk, stream position, parts), the parts.
The two newest are kept; a damaged one is passed over for the one before it.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from evalkit.stream.files import write_atomic

MAGIC = b"EVKSTATE"
_HEAD = struct.Struct("<8sII")


@dataclass(frozen=True)
class Snapshot:
    """State after chunk ``chunk`` was observed; ``hi`` is the next target."""

    chunk: int
    hi: int
    parts: dict[str, bytes]


def save_snapshot(folder: Path, snapshot: Snapshot) -> int:
    """Write atomically and drop all but the two newest.  Returns the size in bytes."""
    folder.mkdir(exist_ok=True)
    table = [[name, len(data), zlib.crc32(data)] for name, data in snapshot.parts.items()]
    header = json.dumps({"chunk": snapshot.chunk, "hi": snapshot.hi, "parts": table}).encode()
    blob = b"".join([_HEAD.pack(MAGIC, len(header), zlib.crc32(header)), header, *snapshot.parts.values()])
    final = folder / f"{snapshot.chunk:09d}.bin"
    write_atomic(final, blob)
    for old in sorted(folder.glob("*.bin"))[:-2]:
        old.unlink()
    return len(blob)


def load_snapshot(folder: Path, last_chunk: int) -> Snapshot | None:
    """The newest sound snapshot at or before ``last_chunk``; None when there is none."""
    if not folder.is_dir():
        return None
    for path in sorted(folder.glob("*.bin"), reverse=True):
        snapshot = _read(path)
        if snapshot is not None and snapshot.chunk <= last_chunk:
            return snapshot
    return None


def _read(path: Path) -> Snapshot | None:
    blob = path.read_bytes()
    if len(blob) < _HEAD.size:
        return None
    magic, length, crc = _HEAD.unpack_from(blob)
    header = blob[_HEAD.size : _HEAD.size + length]
    if magic != MAGIC or len(header) != length or zlib.crc32(header) != crc:
        return None
    meta, offset, parts = json.loads(header), _HEAD.size + length, dict[str, bytes]()
    for name, size, check in meta["parts"]:
        data = blob[offset : offset + size]
        if len(data) != size or zlib.crc32(data) != check:
            return None
        parts[name], offset = data, offset + size
    return Snapshot(meta["chunk"], meta["hi"], parts)
