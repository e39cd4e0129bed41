"""How do token ids lie on disk?  The field's shard: 256 little-endian int32 (magic, version, count), then uint16 ids."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
Tokens = npt.NDArray[np.uint16]


def write_durably(path: Path, data: bytes) -> None:
    """Write, fsync, rename: after a crash the file is the old one or the new one, never a part."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_shard(path: Path, tokens: Tokens) -> None:
    """Write uint16 [n] with the field's header."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    write_durably(path, header.tobytes() + tokens.astype("<u2").tobytes())


def read_shard(path: Path) -> Tokens:
    """Memory-map a shard; raises InputError on a wrong magic, version or length."""
    size = path.stat().st_size if path.exists() else -1
    if size < HEADER_BYTES:
        raise InputError(f"{path} has {size} bytes, a token shard has at least {HEADER_BYTES}; tokenise the text again")
    magic, version, count = (int(i) for i in np.fromfile(path, dtype="<i4", count=3))
    if (magic, version) != (MAGIC, VERSION) or size != HEADER_BYTES + 2 * count:
        raise InputError(
            f"{path} says magic {magic}, version {version}, {count} tokens in {size} bytes; a shard has {MAGIC}, "
            f"{VERSION} and 1024 + 2 n bytes; tokenise the text again"
        )
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
