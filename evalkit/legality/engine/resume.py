"""Whether an adapter goes on from its snapshot with the same bits, which a killed run relies on."""

from __future__ import annotations

import itertools

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.legality.engine.setup import Nats, Setup, assemble, replay
from evalkit.scoring.loop import Loop
from evalkit.stream import Stream


def resumed(setup: Setup, stream: Stream, after: int) -> Float64:
    """Score a stream, but throw everything away after chunk ``after`` and go on from its snapshot; nats [S+1, n]."""
    run, kept = assemble(setup, stream), Nats()
    try:
        Loop.of(run, run.sentinel(), scores=kept).run(itertools.islice(run.chunks(), after + 1), [])
        parts = run.forward.snapshot(), run.stack.snapshot(), [learner.snapshot() for learner in run.learners]
        lo = run.ledger.next_target
    finally:
        run.detach()
    run = assemble(setup, stream, first_target=lo)
    try:
        run.forward.restore(parts[0])
        run.stack.restore(parts[1], np.ascontiguousarray(stream.tokens[1:lo], dtype=np.int32))
        for learner, state in zip(run.learners, parts[2], strict=True):
            learner.restore(state)
        Loop.of(run, run.sentinel(), scores=kept).run(itertools.islice(run.chunks(), after + 1, None), [])
    finally:
        run.detach()
    return kept.nats()


def worst_after_resume(setup: Setup, stream: Stream) -> float:
    """Largest difference in nats between a run and one resumed in its middle; 0.0 when the bits are the same."""
    chunks = sum(1 for _ in setup.plan.chunks(stream.n_targets + 1, stream.doc_start, setup.chunked()))
    if chunks < 2:
        return 0.0
    return float(np.abs(replay(setup, stream) - resumed(setup, stream, (chunks - 1) // 2)).max())
