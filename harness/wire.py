"""Messages between ranks: small ones, rank 0 to each other rank and back, over a gloo group of their own.

A message is a kind, a few plain values and some arrays; nothing in it is executed.  On the line: int64 length, then a frame
(:mod:`evalkit.frames`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from evalkit import frames
from evalkit.adapters.base import Rows, Side, named
from evalkit.errors import EvalkitError
from evalkit.models.rows import Answer, Question

MAX_MESSAGE = 1 << 36
UNDER_WAY = 1 << 20
"""Bytes that may wait on one line for their receiver: some hundred units; a message that is longer is waited for."""


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


def encode(message: Message) -> bytearray:
    """The frame, each array copied once."""
    return frames.encode((message.kind, message.values), message.arrays)


def decode(frame: bytes | bytearray | memoryview) -> Message:
    """Inverse of :func:`encode`; EvalkitError on a frame whose lengths do not add up."""
    (kind, values), arrays = frames.decode(frame)
    return Message(kind, values, arrays)


def pack_answer(answer: Answer) -> dict[str, np.ndarray]:
    """An answer as arrays; the candidates' ids stay with who asked."""
    side, rows = answer.side, answer.rows
    named = {"entropy": side.entropy, "top_id": side.top_id, "top_p": side.top_p}
    if rows is not None:
        named |= {"weights": rows.weights, "factors": rows.factors}
    if answer.probed:
        named["probed"] = np.stack(list(answer.probed.values()))
    masses = {f"mass/{name}": array for name, array in side.masses.items()}
    return {"logp": answer.logp, **masses, **{k: v for k, v in named.items() if v is not None}}


def unpack_answer(arrays: dict[str, np.ndarray], question: Question) -> Answer:
    """Inverse of :func:`pack_answer`, for the targets that ``question`` asked about."""
    masses = {k.removeprefix("mass/"): v for k, v in arrays.items() if k.startswith("mass/")}
    side = Side(arrays.get("entropy"), arrays.get("top_id"), arrays.get("top_p"), masses)
    rows = Rows(arrays["weights"], arrays["factors"]) if "weights" in arrays else None
    probed = dict(zip(question.probes, arrays["probed"], strict=True)) if question.probes else {}
    return Answer(question.lo, named(question.cands, side), arrays["logp"], side, rows, probed)


class Peer:
    """The line to one other rank.  One thread sends, one thread (it may be the same) receives.

    A gloo send waits for its receive; here it does so behind the caller's back, so that rank 0 can hand a unit to a rank
    that still computes another and goes on, and no rank needs a thread that only takes messages off the line.  (With such
    a thread the loop took 1.04 times as long: 2 ranks on 2 cores, batches of 1,024 tokens, median of 5 interleaved pairs.)
    """

    def __init__(self, rank: int, group: Any) -> None:
        self.rank, self._group = rank, group
        self._sending = deque[tuple[Any, torch.Tensor]]()
        """Sends under way, and what they read."""
        self.bytes_out = self.bytes_in = 0

    def send(self, kind: str, arrays: dict[str, np.ndarray] | None = None, **values: Any) -> None:
        """Waits only when many bytes are under way.  Raises Lost when the other side is seen to be gone."""
        frame = torch.frombuffer(encode(Message(kind, values, arrays or {})), dtype=torch.uint8)
        for tensor in (torch.tensor([len(frame)], dtype=torch.int64), frame):
            with self._named():
                self._sending.append((dist.isend(tensor, self.rank, group=self._group), tensor))
        self.bytes_out += len(frame)
        self._settle(UNDER_WAY)

    def flush(self) -> None:
        """Wait until the other side has everything."""
        self._settle(0)

    def _settle(self, most: int) -> None:
        while sum(tensor.numel() for _, tensor in self._sending) > most:
            work, _ = self._sending.popleft()
            with self._named():
                work.wait()

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
        return decode(frame.numpy().data)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turns the transport's RuntimeError into Lost, which names the rank."""
        try:
            yield
        except RuntimeError as fault:
            raise Lost(self.rank, f"rank {self.rank} closed the connection") from fault
