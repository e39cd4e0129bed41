"""How far a scorer reaches: ahead, once a score is known to depend on later tokens, and back.

Ahead: to the end of a chunk, of a window, of a document, or of the whole stream?  When the first scores move with the last
tokens, of a stream and of one twice as long, nothing could be booked before everything was read: that is not one pass
from left to right.

Back (track A or B): a passage is scored twice, after two unrelated beginnings.  If its last quarter is booked alike, nothing
older than three quarters of the stream is remembered: track A, a fixed predictor, as far as this length can tell.  A fixed
predictor with a longer context than the probe stream cannot be told from one that learns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evalkit.legality.probes.lab import Lab, Scored
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.probes.streams import Stream, textlike
from evalkit.legality.probes.tolerance import moves
from evalkit.legality.scorer import Float64, Int64


def whole_stream(lab: Lab) -> None:
    """Find a pair of streams, equal but for the last eighth, whose first quarters are scored otherwise."""
    proofs = [_far(lab, length) for length in _lengths(lab)]
    if proofs[0] is None or proofs[1] is None:
        return
    stream, other, position, moved = proofs[1]
    length = len(stream)
    what = (
        f"token {position} of {length} moves by {moved:.3g} nats with the last eighth: all is read before it is booked"
    )
    probe = Probe(test="suffix", tokens=pack(stream.tokens), other=pack(other), position=position)
    limit = lab.tolerance.same(10.0)
    lab.add("single-pass", probe, Outcome(value=moved, limit=limit, unit="nats", sentence=what))


def _lengths(lab: Lab) -> tuple[int, int]:
    """One length and twice that, as far as the scorer takes it."""
    longer = lab.lengths.within(2 * lab.effort.length)
    return max(8, longer // 2), longer


def _far(lab: Lab, length: int) -> tuple[Stream, Int64, int, float] | None:
    for _ in range(3):
        stream = textlike(lab.rng, lab.vocab_size, lab.bos, length)
        base = lab.box.score(stream.tokens)
        other = stream.tokens.copy()
        tail = slice(length - length // 8, length)
        other[tail] = lab.rng.permutation(np.resize(stream.tokens[: length // 2], length // 8))
        moved = _first_quarter(base, lab.box.score(other))
        if moved.max(initial=0.0) > lab.tolerance.same(10.0):
            return stream, other, int(moved.argmax()), float(moved.max())
    return None


def _first_quarter(a: Float64, b: Float64) -> Float64:
    n = len(a) // 4
    return moves(a[:n], b[:n])


def track(lab: Lab, scored: Scored) -> dict[str, Any]:
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
