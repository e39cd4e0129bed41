"""How do token ids and small files reach the disk?  By evalkit's shard format and its write-whole-or-not-at-all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.stream.files import write_atomic
from evalkit.stream.shard import HEADER, LARGEST, MAGIC, read_shard, write_shard

Tokens = npt.NDArray[np.uint16]

__all__ = ["HEADER", "LARGEST", "MAGIC", "Tokens", "read_shard", "write_durably", "write_shard"]


def write_durably(path: Path, data: bytes) -> None:
    """Write, fsync, rename: after a crash the file is the old one or the new one, never a part."""
    write_atomic(path, [data])
