"""Which window each target belongs to, decided without looking ahead.

Plans cut windows from the length alone, except ``document``, whose windows end where documents do; there the place of
the next BOS is not known before it is decoded, so the walk follows the documents as they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evalkit.errors import InputError
from evalkit.legality.engine.setup import Setup, lanes_of


@dataclass(frozen=True)
class Step:
    """Target ``t``.  ``start``: first token to feed when a window begins (-1: feed token t-1 only).

    ``learn``: a chunk (with lanes a piece of a document) began with this target, so learners have seen all targets before
    it.  ``document``: with lanes, a document began with it, whose state is fresh.
    """

    t: int
    start: int
    learn: bool
    document: bool = False


def walk(setup: Setup, n_targets: int, tokens: list[int]) -> Iterator[Step]:
    """Steps of targets 1..n_targets.  ``tokens`` grows with what is known: index t-1 is there when step t is taken."""
    if setup.plan.name == "document":
        yield from _documents(setup, n_targets, tokens)
        return
    alone = np.zeros(1, dtype=np.int64)
    for chunk in setup.plan.chunks(n_targets + 1, alone, setup.chunked()):
        for window in chunk.windows:
            carried = setup.plan.carries and window.skip == 0 and window.lo > 1
            for t in range(window.lo, window.hi):
                begins = t == window.lo and not carried
                yield Step(t, window.start if begins else -1, learn=t == chunk.lo and t > 1)


def _documents(setup: Setup, n_targets: int, tokens: list[int]) -> Iterator[Step]:
    """Plan ``document``: windows slide inside each document, and lanes learn from each piece of a window.

    No other learners: their chunks would need the next border.
    """
    if not all(lanes_of(learner) for learner in setup.learners):
        raise InputError("plan document cannot be certified with learners: where a chunk ends depends on the next BOS")
    seq_len, stride = setup.plan.seq_len, setup.plan.stride  # pyright: ignore[reportAttributeAccessIssue]
    piece = min((learner.settings.chunk or n_targets for learner in setup.learners), default=n_targets)
    start, window, lo = 0, 0, 1
    for t in range(1, n_targets + 1):
        if tokens[t - 1] == setup.tokenizer.bos_id and t > 1:
            start = t - 1
        at = t - 1 - start
        if at == 0:
            window, lo = start, t
            yield Step(t, window, learn=False, document=True)
        elif at >= seq_len and (at - seq_len) % stride == 0:
            window, lo = t - 1 + stride - seq_len, t
            yield Step(t, window, learn=setup.lanes > 0)
        elif (t - lo) % piece == 0:
            yield Step(t, window, learn=True)
        else:
            yield Step(t, -1, learn=False)
