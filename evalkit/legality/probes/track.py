"""Track A or B: whether a scorer is fixed or adapts, measured by whether old material still moves a score.

A passage is scored twice, after two unrelated beginnings.  If its last quarter is booked alike, nothing older than
three quarters of the stream is remembered: track A, a fixed predictor, as far as this length can tell.  A fixed
predictor with a longer context than the probe stream cannot be told from one that learns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evalkit.legality.probes.lab import Lab, Scored
from evalkit.legality.probes.tolerance import moves
from evalkit.legality.scorer import Int64


def detect(lab: Lab, scored: Scored) -> dict[str, Any]:
    """``{"name": "A" | "B", "memory_tokens": n, "stream_tokens": T}``: how far back a change still moved a score."""
    tokens, length = scored.stream.tokens, len(scored.stream)
    reach = 0
    for start in (0, length // 4):
        other = _beginning(lab, tokens, start, max(start + 1, length // 4 + start))
        moved = moves(lab.box.score(other), scored.base) > lab.tolerance.same(10.0)
        behind = np.flatnonzero(moved[length // 4 + start :])
        reach = max(reach, int(behind[-1]) + 1 if len(behind) else 0)
    adaptive = reach >= length // 2
    return {"name": "B" if adaptive else "A", "memory_tokens": reach, "stream_tokens": length}


def _beginning(lab: Lab, tokens: Int64, start: int, stop: int) -> Int64:
    other = tokens.copy()
    other[start:stop] = lab.rng.integers(0, lab.vocab_size, stop - start)
    if start == 0:
        other[0] = tokens[0]
    return other
