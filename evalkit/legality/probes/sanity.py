"""Does the black box keep to the protocol at all?  Shapes, NaN, identical answers, a fresh state each call."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evalkit.legality.probes.lab import Lab
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.probes.tolerance import Tolerance, moves
from evalkit.legality.scorer import Float64, Int64, ScorerFault

MAX_NOISE = 0.01


def handshake(lab: Lab, tokens: Int64) -> None:
    """Score ``tokens`` and two short streams; measure noise; ScorerFault when no probe would mean anything."""
    facts = lab.box.facts
    lab.tolerance = Tolerance(0.0, facts.precision, facts.vocab_size)
    first = lab.box.score(tokens)
    again = lab.box.score(tokens)
    other = lab.rng.integers(0, facts.vocab_size, len(tokens))
    lab.box.score(other)
    third = lab.box.score(tokens)
    noise, leak = _largest(first, again), _largest(first, third)
    if max(noise, leak) > lab.tolerance.same(10.0):
        _unsteady(lab, tokens, noise, leak)
    _batch(lab, np.stack([tokens, other]))
    _positive(lab, tokens, first)


def _largest(a: Float64, b: Float64) -> float:
    return float(moves(a, b).max(initial=0.0))


def _unsteady(lab: Lab, tokens: Int64, noise: float, leak: float) -> None:
    """Identical calls differ: try a fresh instance for each call, then settle for measured noise, or give up."""
    lab.box.renew()
    answers = [lab.box.score(tokens) for _ in range(3)]
    fresh = max(_largest(answers[0], a) for a in answers[1:])
    if fresh <= lab.tolerance.same(10.0):
        lab.notes.append(
            f"score() did not start from a fresh state: a second call moved by {max(noise, leak):.3g} nats; "
            "the audit made a new scorer for every call"
        )
        return
    lab.tolerance = replace(lab.tolerance, noise=max(fresh, noise))
    lab.notes.append(f"identical calls differ by up to {max(fresh, noise):.3g} nats; limits are ten times that")
    if max(fresh, noise) > MAX_NOISE:
        raise ScorerFault(
            "unsteady",
            f"identical calls differ by {max(fresh, noise):.3g} nats (at most {MAX_NOISE}); fix the seeds",
        )


def _batch(lab: Lab, streams: Int64) -> None:
    if "score_batch" not in lab.box.facts.faces:
        return
    batch = lab.box.ask("score_batch", streams)
    single = np.array([lab.box.score(s) for s in streams])
    moved = _largest(batch, single)
    if moved > lab.tolerance.length(10.0):
        raise ScorerFault("unsteady", f"score_batch() and score() differ by {moved:.3g} nats on the same stream")


def _positive(lab: Lab, tokens: Int64, scores: Float64) -> None:
    """A log-probability above 0 is a probability above 1: a sum over one token that exceeds 1."""
    worst = int(scores.argmax())
    limit = 1.0 + lab.tolerance.mass(len(tokens))
    value = float(np.exp(min(scores[worst], 50.0)))
    if value > limit:
        what = f"token {tokens[worst]} at position {worst} is given probability {value:.6f}"
        probe = Probe(test="mass", tokens=pack(tokens), position=worst, subset=[int(tokens[worst])])
        lab.add("normalised", probe, Outcome(value=value, limit=limit, unit="probability", sentence=what))
