"""Token shards, and whether one can be trusted.

The field's format (llm.c, modded-nanogpt, parameter-golf): 256 little-endian int32 (magic 20240520, version 1, number
of tokens, zeros), then the tokens as little-endian uint16.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.files import check_file, compression, slices, write_atomic

MAGIC = 20240520
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
VERSION = 1
HEADER = 1024
LARGEST = 2**31 - 1
"""The header counts tokens in an int32."""

UInt16 = npt.NDArray[np.uint16]


def read_shard(path: str | Path) -> UInt16:
    """Return the tokens, uint16 [n]: a read-only memory map of a plain file, or an array in memory of a packed one.

    Raises InputError for a wrong magic, version or count, and when the size is not 1024 + 2 * count bytes.
    """
    path = check_file(path)
    if compression(path):
        return _read_packed(path)
    with path.open("rb") as file:
        count = _count(file.read(HEADER), path)
    _check_size(path, count, path.stat().st_size)
    return np.memmap(path, "<u2", "r", offset=HEADER, shape=(count,))


def write_shard(path: str | Path, tokens: npt.NDArray[np.integer]) -> None:
    """Write tokens [n] as a shard, whole or not at all; raises InputError for ids that uint16 cannot hold."""
    if not 1 <= len(tokens) <= LARGEST:
        raise InputError(f"{path}: a shard holds 1 to {LARGEST:,} tokens, not {len(tokens):,}; cut it into several")
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most > 0xFFFF:
        worst = most if least >= 0 else least
        raise InputError(f"{path}: token id {worst:,} does not fit a shard's 16 bits (0 to 65,535); keep it as text")
    write_atomic(path, _pieces(tokens))


def _pieces(tokens: npt.NDArray[np.integer]) -> Iterator[bytes]:
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    yield header.tobytes()
    for lo in range(0, len(tokens), 1 << 20):
        yield tokens[lo : lo + (1 << 20)].astype("<u2").tobytes()


def _read_packed(path: Path) -> UInt16:
    data, count = bytearray(), -1
    for piece in slices(path):
        data += piece
        if count < 0 and len(data) >= HEADER:
            count = _count(bytes(data[:HEADER]), path)
        if count >= 0 and len(data) > HEADER + 2 * count:
            break
    if count < 0:
        _count(bytes(data), path)
    _check_size(path, count, len(data))
    tokens = np.frombuffer(data, "<u2", offset=HEADER)
    tokens.flags.writeable = False
    return tokens


def _count(header: bytes, path: Path) -> int:
    """The number of tokens that a checked header claims."""
    magic = int.from_bytes(header[:4], "little")
    if magic != MAGIC:
        raise InputError(f"{path}: it begins with {magic}, not with the shard magic {MAGIC}; {_guess(header)}")
    if len(header) < HEADER:
        raise InputError(f"{path}: {len(header)} bytes are too few for a shard's {HEADER}-byte header; it is truncated")
    version, count = (int(v) for v in np.frombuffer(header, "<i4")[1:3])
    if version != VERSION:
        raise InputError(f"{path}: shard version {version}, but only version {VERSION} (uint16 tokens) is known")
    if count < 1:
        raise InputError(f"{path}: the header claims {count:,} tokens, but a shard holds at least 1; write it again")
    return count


def _guess(header: bytes) -> str:
    if header[:4] == MAGIC_BYTES[::-1]:
        return "it is big-endian; write it little-endian"
    if header[:4] == (20240801).to_bytes(4, "little"):
        return "it is llm.c's uint32 format; write uint16 tokens"
    if header[:6] == b"\x93NUMPY":
        return "it is a NumPy file; write a shard with evalkit.stream.stream.write_shard"
    return "if it is a headerless token file, write it with evalkit.stream.stream.write_shard; if it is text, rename it"


def _check_size(path: Path, count: int, size: int) -> None:
    if size != HEADER + 2 * count:
        relation = "truncated" if size < HEADER + 2 * count else "longer than its header says"
        raise InputError(
            f"{path}: the header claims {count:,} tokens ({HEADER + 2 * count:,} bytes) and the file has "
            f"{'at least ' if size > HEADER + 2 * count else ''}{size:,} bytes; it is {relation}: fetch it again"
        )
