"""Frames: plain values and named arrays in one block of bytes, as ranks and the audit's cage exchange them.

``uint32 length of the head | head (msgpack) | arrays, one after the other``.  The head holds the values, and name, dtype and
shape of every array.  Nothing in a frame is executed, and every length in it is checked before it is used.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.errors import EvalkitError

DTYPES = ("<f8", "<f4", "<i4", "<i8", "|u1", "|b1")
LENGTH = struct.Struct("<I")

Arrays = dict[str, npt.NDArray[Any]]
Table = list[tuple[str, str, list[int]]]


class FrameError(EvalkitError):
    """Bytes that are no frame, or an array that does not travel."""


def encode(values: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> bytearray:
    """The frame, each array copied once.  ``values``: None, numbers, str, bytes, lists and dicts of those."""
    for name, array in arrays.items():
        if array.dtype.str not in DTYPES:
            raise FrameError(f"array '{name}' is {array.dtype}, the wire takes {DTYPES}")
    head = msgspec.msgpack.encode((values, [(name, a.dtype.str, a.shape) for name, a in arrays.items()]))
    frame = bytearray(LENGTH.size + len(head) + sum(a.nbytes for a in arrays.values()))
    LENGTH.pack_into(frame, 0, len(head))
    at = LENGTH.size + len(head)
    frame[LENGTH.size : at] = head
    for array in arrays.values():
        frame[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        at += array.nbytes
    return frame


def decode(frame: bytes | bytearray | memoryview) -> tuple[Any, Arrays]:
    """Inverse of :func:`encode`, arrays copied; FrameError on anything whose lengths do not add up."""
    frame = memoryview(frame)
    try:
        (size,) = LENGTH.unpack_from(frame)
        values, table = msgspec.msgpack.decode(frame[LENGTH.size : LENGTH.size + size], type=tuple[Any, Table])
    except (struct.error, msgspec.MsgspecError, RecursionError, UnicodeError) as fault:
        raise FrameError(f"a head that cannot be read: {fault}") from None
    arrays, at = Arrays(), LENGTH.size + size
    for name, dtype, shape in table:
        if dtype not in DTYPES or min(shape, default=0) < 0:
            raise FrameError(f"an array of dtype {dtype!r} and shape {shape}")
        end = at + math.prod(shape) * np.dtype(dtype).itemsize
        if end > len(frame):
            raise FrameError(f"a message of {len(frame)} bytes claims an array '{name}' that ends at {end}")
        # a copy: a view would begin anywhere, and the kernels read doubles where doubles may stand
        arrays[name] = np.frombuffer(bytearray(frame[at:end]), dtype=dtype).reshape(shape)
        at = end
    if at != len(frame):
        raise FrameError(f"a message of {len(frame)} bytes holds {len(frame) - at} that belong to no array")
    return values, arrays
