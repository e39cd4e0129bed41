"""Scores of single targets: ``scores.f64``, little-endian float64 [targets, stages], row by row."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.errors import InputError


class ScoreFile:
    """Grows chunk by chunk, before the journal line of the chunk; a longer tail than the journal knows is cut."""

    def __init__(self, path: Path, stages: int, targets: int) -> None:
        """Open for targets already booked; InputError when the file holds fewer than the journal says."""
        self.path, self.stages = path, stages
        size = targets * stages * 8
        held = path.stat().st_size if path.exists() else 0
        if held < size:
            raise InputError(f"{path}: {held} bytes, the journal needs {size}; start again with another --out")
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, nats: Float64) -> None:
        """nats float64 [S+1, n]."""
        self._file.write(np.ascontiguousarray(nats.T, dtype="<f8").tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_scores(path: Path, stages: int) -> Float64:
    """Memory map [targets, stages]; InputError when the length is not whole rows."""
    size = path.stat().st_size
    if size % (8 * stages):
        raise InputError(f"{path}: {size} bytes are not whole rows of {stages} float64")
    return (
        np.memmap(path, dtype="<f8", mode="r", shape=(size // (8 * stages), stages)) if size else np.empty((0, stages))
    )
