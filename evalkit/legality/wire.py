"""Frames over a pipe, between the audit and its cage: :mod:`evalkit.frames` behind a magic word and a length, in time."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any

import numpy.typing as npt

from evalkit.frames import FrameError, decode, encode

MAGIC = b"EVB2"
PREFIX = struct.Struct("<4sQ")
MAX_FRAME = (1 << 31) + (1 << 20)


class WireError(Exception):
    """The other side sent something that is no frame, or closed, or was too late (``late`` is True)."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


def send(
    fd: int, header: dict[str, Any], arrays: list[npt.NDArray[Any]] | None = None, deadline: float | None = None
) -> None:
    """Write one frame.  With a deadline ``fd`` must be non-blocking."""
    try:
        frame = encode(header, {str(i): array for i, array in enumerate(arrays or [])})
    except FrameError as fault:
        raise WireError(str(fault)) from None
    for part in (PREFIX.pack(MAGIC, len(frame)), frame):
        data = memoryview(part)
        while data:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([], [fd], [], left)[1]:
                    raise WireError("the other side does not read", late=True)
            data = data[os.write(fd, data) :]


def receive(
    fd: int, deadline: float | None = None, limit: int = MAX_FRAME
) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """Read one frame of at most ``limit`` bytes before ``deadline`` (time.monotonic)."""
    magic, size = PREFIX.unpack(_exactly(fd, PREFIX.size, deadline))
    if magic != MAGIC or size > limit:
        raise WireError(f"no frame: magic {magic!r}, {size} bytes (at most {limit})")
    try:
        header, arrays = decode(_exactly(fd, size, deadline))
    except FrameError as fault:
        raise WireError(str(fault)) from None
    if not isinstance(header, dict):
        raise WireError("a header that cannot be read: it is no table")
    return header, list(arrays.values())


def _exactly(fd: int, count: int, deadline: float | None) -> bytes:
    chunks, missing = [], count
    while missing:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise WireError("no answer in time", late=True)
        piece = os.read(fd, min(missing, 1 << 20))
        if not piece:
            raise WireError("the other side closed")
        chunks.append(piece)
        missing -= len(piece)
    return b"".join(chunks)
