"""The codec: a range coder (``constriction``) that turns rows into a bitstream and back, one row per target."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64, Int32
from evalkit.errors import InputError, NoError
from evalkit.legality.certificate.stepper import Stepper
from evalkit.legality.certificate.walk import walk
from evalkit.legality.engine.setup import Setup

BLOCK = 512
"""Targets between two checks of what was decoded."""
Progress = Callable[[int], None]


def encode(
    setup: Setup, first_token: int, targets: Int32, progress: Progress = lambda done: None
) -> tuple[bytes, Float64]:
    """targets int32 [n] (tokens 1..n of the stream) -> the bitstream and the strict path's nats, float64 [n]."""
    coder, stepper = _constriction().stream.queue.RangeEncoder(), Stepper(setup, first_token)
    try:
        for step in walk(setup, len(targets), stepper.tokens):
            row = stepper.row(step)
            token = int(targets[step.t - 1])
            coder.encode(token, _model(row))
            stepper.book(token, row)
            progress(step.t)
    finally:
        stepper.close()
    return np.asarray(coder.get_compressed()).astype("<u4").tobytes(), np.array(stepper.nats)


def decode(
    setup: Setup,
    first_token: int,
    bitstream: bytes,
    n_targets: int,
    checks: list[int],
    progress: Progress = lambda done: None,
) -> tuple[Int32, Float64]:
    """The targets again, int32 [n], and the strict nats, float64 [n].  NoError as soon as a block of them fails its check."""
    if len(bitstream) % 4:
        raise InputError(f"the bitstream has {len(bitstream)} bytes, not a multiple of 4: it is truncated")
    words = np.frombuffer(bitstream, "<u4").astype(np.uint32)
    coder, stepper = _constriction().stream.queue.RangeDecoder(words), Stepper(setup, first_token)
    try:
        for step in walk(setup, n_targets, stepper.tokens):
            row = stepper.row(step)
            stepper.book(_next(coder, row, step.t), row)
            if step.t % BLOCK == 0 or step.t == n_targets:
                _check(stepper.tokens, step.t, checks)
            progress(step.t)
    finally:
        stepper.close()
    return np.array(stepper.tokens[1:], dtype=np.int32), np.array(stepper.nats)


def block_checks(targets: Int32) -> list[int]:
    """crc32 of every block of targets: 32 bits of side information per 512 targets."""
    return [zlib.crc32(targets[lo : lo + BLOCK].astype("<u4").tobytes()) for lo in range(0, len(targets), BLOCK)]


def _check(tokens: list[int], t: int, checks: list[int]) -> None:
    index = (t - 1) // BLOCK
    block = np.array(tokens[1 + index * BLOCK : t + 1], dtype="<u4")
    if index >= len(checks) or zlib.crc32(block.tobytes()) != checks[index]:
        raise NoError(
            f"the decoder parts from the encoder within targets {1 + index * BLOCK}..{t}: bitstream, artifact or the machine's "
            "arithmetic is not the encoder's; nothing was written"
        )


def _next(coder: Any, row: Float64, t: int) -> int:
    try:
        return int(coder.decode(_model(row)))
    except (AssertionError, ValueError, RuntimeError):
        raise NoError(f"the bitstream has no valid symbol at target {t}: it is damaged; nothing was written") from None


def _model(row: Float64) -> Any:
    """Fixed-point probabilities of 24 bits, each at least 2^-24, from float64: the same on both sides."""
    return _constriction().stream.model.Categorical(np.ascontiguousarray(row), perfect=False)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise InputError("a certificate needs the range coder: pip install 'evalkit[torch]'") from None
    return constriction
