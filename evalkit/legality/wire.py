"""Frames between two processes: JSON and raw bytes, every length checked, nothing executed.

A frame is ``b"EVB1"``, uint32 header length, uint64 payload length, the header (JSON), the payload.  The header's
``parts`` list names the dtype and shape of each array in the payload, in order.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"EVB1"
PREFIX = struct.Struct("<4sIQ")
MAX_HEADER = 1 << 20
MAX_PAYLOAD = 1 << 31
DTYPES = {"<i8", "<f8", "|u1"}


class WireError(Exception):
    """The other side sent something that is no frame, or closed, or was too late (``late`` is True)."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


def send(
    fd: int, header: dict[str, Any], arrays: list[npt.NDArray[Any]] | None = None, deadline: float | None = None
) -> None:
    """Write one frame.  Arrays must be int64, float64 or uint8.  With a deadline ``fd`` must be non-blocking."""
    parts, payload = [], b""
    for array in arrays or []:
        flat = np.ascontiguousarray(array)
        if flat.dtype.str not in DTYPES:
            raise WireError(f"dtype {flat.dtype.str} does not travel")
        parts.append({"dtype": flat.dtype.str, "shape": list(flat.shape)})
        payload += flat.tobytes()
    text = json.dumps({**header, "parts": parts}).encode()
    data = memoryview(PREFIX.pack(MAGIC, len(text), len(payload)) + text + payload)
    while data:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [fd], [], left)[1]:
                raise WireError("the other side does not read", late=True)
        data = data[os.write(fd, data) :]


def receive(
    fd: int, deadline: float | None = None, limit: int = MAX_PAYLOAD
) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """Read one frame before ``deadline`` (time.monotonic), with a payload of at most ``limit`` bytes."""
    magic, n_header, n_payload = PREFIX.unpack(_exactly(fd, PREFIX.size, deadline))
    if magic != MAGIC or n_header > MAX_HEADER or n_payload > limit:
        raise WireError(f"no frame: magic {magic!r}, header {n_header}, payload {n_payload} bytes (at most {limit})")
    try:
        header = json.loads(_exactly(fd, n_header, deadline))
        parts = [(part["dtype"], tuple(int(n) for n in part["shape"])) for part in header["parts"]]
    except (ValueError, KeyError, TypeError) as fault:
        raise WireError(f"a header that cannot be read: {fault}") from None
    return header, _split(_exactly(fd, n_payload, deadline), parts)


def _split(payload: bytes, parts: list[tuple[str, tuple[int, ...]]]) -> list[npt.NDArray[Any]]:
    arrays, at = [], 0
    for dtype, shape in parts:
        if dtype not in DTYPES or any(n < 0 for n in shape):
            raise WireError(f"an array of dtype {dtype!r} and shape {shape}")
        count = int(np.prod(shape, dtype=object)) if shape else 1
        size = count * np.dtype(dtype).itemsize
        if at + size > len(payload):
            raise WireError(f"an array of {size} bytes in a payload of {len(payload) - at}")
        arrays.append(np.frombuffer(payload, dtype, count, at).reshape(shape).copy())
        at += size
    if at != len(payload):
        raise WireError(f"{len(payload) - at} bytes too many in the payload")
    return arrays


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
