"""Does an adapter go on from its snapshot with the same bits?  (What a killed run relies on.)"""

from __future__ import annotations

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.legality.engine.setup import Assembly, Setup, assemble, chunks_of, replay
from evalkit.plan import Chunk
from evalkit.stream import Stream


def resumed(setup: Setup, stream: Stream, after: int) -> Float64:
    """Score a stream, but throw everything away after chunk ``after`` and go on from its snapshot; nats [S+1, n]."""
    chunks = chunks_of(setup, stream)
    head, tail = chunks[: after + 1], chunks[after + 1 :]
    first = assemble(setup, stream)
    try:
        first.loop.run(head, [])
        parts = _snapshots(first)
    finally:
        first.detach()
    return np.concatenate((first.nats(), _go_on(setup, stream, tail, parts)), axis=1)


def _snapshots(made: Assembly) -> tuple[bytes, bytes, list[bytes]]:
    loop = made.loop
    return loop.forward.snapshot(), loop.stack.snapshot(), [learner.snapshot() for learner in loop.learners]


def _go_on(setup: Setup, stream: Stream, chunks: list[Chunk], parts: tuple[bytes, bytes, list[bytes]]) -> Float64:
    lo = chunks[0].lo
    made = assemble(setup, stream, first_target=lo)
    try:
        made.loop.forward.restore(parts[0])
        made.loop.stack.restore(parts[1], np.ascontiguousarray(stream.tokens[1:lo], dtype=np.int32))
        for learner, state in zip(made.loop.learners, parts[2], strict=True):
            learner.restore(state)
        made.loop.run(chunks, [])
    finally:
        made.detach()
    return made.nats()


def worst_after_resume(setup: Setup, stream: Stream) -> float:
    """Largest difference in nats between a run and one resumed in its middle; 0.0 when the bits are the same."""
    chunks = chunks_of(setup, stream)
    if len(chunks) < 2:
        return 0.0
    return float(np.abs(replay(setup, stream) - resumed(setup, stream, (len(chunks) - 1) // 2)).max())
