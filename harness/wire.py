"""How do ranks talk?  Small messages, rank 0 to each other rank and back, over a gloo group of their own.

A message is a kind, a few plain values and some arrays; nothing in it is executed.  Frame: int64 length, then
``uint32 head length | msgpack head | arrays, one after the other``.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist

from evalkit.errors import EvalkitError

MAX_MESSAGE = 1 << 36
_DTYPES = ("<f8", "<i4", "<i8", "|u1", "|b1")


@dataclass(frozen=True)
class Message:
    """``kind`` says what is asked or answered; ``values`` are JSON-like; arrays are C-ordered numpy."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class Lost(EvalkitError):
    """The connection to a rank broke."""

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank


def encode(message: Message) -> bytes:
    table = []
    for name, array in message.arrays.items():
        if array.dtype.str not in _DTYPES:
            raise EvalkitError(f"array '{name}' of message '{message.kind}' is {array.dtype}, the wire takes {_DTYPES}")
        table.append((name, array.dtype.str, array.shape))
    head = msgspec.msgpack.encode((message.kind, message.values, table))
    parts = [struct.pack("<I", len(head)), head, *(np.ascontiguousarray(a).tobytes() for a in message.arrays.values())]
    return b"".join(parts)


def decode(frame: bytes | memoryview) -> Message:
    """Inverse of :func:`encode`; EvalkitError on a frame whose lengths do not add up."""
    frame = memoryview(frame)
    (size,) = struct.unpack_from("<I", frame)
    kind, values, table = msgspec.msgpack.decode(frame[4 : 4 + size])
    arrays, at = dict[str, np.ndarray](), 4 + size
    for name, dtype, shape in table:
        count = int(np.prod(shape, dtype=np.int64))
        end = at + count * np.dtype(dtype).itemsize
        if dtype not in _DTYPES or end > len(frame):
            raise EvalkitError(f"a message of {len(frame)} bytes claims an array '{name}' that ends at {end}")
        # bytes(): a view would begin anywhere, and the kernels read doubles where doubles may stand
        arrays[name] = np.frombuffer(bytes(frame[at:end]), dtype=dtype).reshape(shape)
        at = end
    return Message(kind, values, arrays)


class Peer:
    """The line to one other rank.  Any thread may send; one thread receives."""

    def __init__(self, rank: int, group: Any) -> None:
        self.rank, self._group = rank, group
        self._sending = threading.Lock()
        self.bytes_out = self.bytes_in = 0

    def send(self, kind: str, arrays: dict[str, np.ndarray] | None = None, **values: Any) -> None:
        """Raises Lost when the other side is gone."""
        frame = torch.frombuffer(bytearray(encode(Message(kind, values, arrays or {}))), dtype=torch.uint8)
        with self._sending, self._named():
            dist.send(torch.tensor([len(frame)], dtype=torch.int64), self.rank, group=self._group)
            dist.send(frame, self.rank, group=self._group)
        self.bytes_out += len(frame)

    def receive(self) -> Message:
        """Blocks until a message is here.  Raises Lost when the other side is gone."""
        size = torch.zeros(1, dtype=torch.int64)
        with self._named():
            dist.recv(size, self.rank, group=self._group)
            length = int(size[0])
            if not 4 <= length <= MAX_MESSAGE:
                raise Lost(self.rank, f"rank {self.rank} announced a message of {length} bytes")
            frame = torch.empty(length, dtype=torch.uint8)
            dist.recv(frame, self.rank, group=self._group)
        self.bytes_in += length
        return decode(frame.numpy().tobytes())

    def _named(self) -> _Named:
        return _Named(self.rank)


class _Named:
    """Turns the transport's RuntimeError into Lost, which names the rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, fault: BaseException | None, trace: Any) -> None:
        if isinstance(fault, RuntimeError):
            raise Lost(self.rank, f"rank {self.rank} closed the connection") from fault


def listen(peer: Peer, deliver: Callable[[Message | Lost], bool]) -> threading.Thread:
    """A thread that receives until ``deliver`` returns False or the line breaks (then Lost is delivered)."""

    def run() -> None:
        while True:
            try:
                message: Message | Lost = peer.receive()
            except Lost as gone:
                message = gone
            if not deliver(message) or isinstance(message, Lost):
                return

    thread = threading.Thread(target=run, name=f"listen-{peer.rank}", daemon=True)
    thread.start()
    return thread
