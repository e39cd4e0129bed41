"""The handshake with a black box: shapes, NaN, identical answers, a fresh state in each call."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evalkit.legality.probes.lab import Finding, Lab
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.probes.tolerance import Tolerance, moves
from evalkit.legality.scorer import Box, Float64, Int64, ScorerFault

MAX_NOISE = 0.01
LONG = 384
"""Tokens of the longer stream that is asked twice."""
TWICE = 6
"""New streams that are asked twice to tell memory from noise."""
CLEAR = 6.0
"""Standard errors by which the second call must be cheaper on the mean; noise reaches that once in a thousand."""


def handshake(lab: Lab, tokens: Int64) -> None:
    """Score ``tokens`` and a longer stream again and after others; ScorerFault when no probe would mean anything.

    Answers that differ are noise, or memory: see :func:`remembers`.
    """
    facts = lab.box.facts
    lab.tolerance = Tolerance(0.0, facts.precision, facts.vocab_size)
    first = lab.box.score(tokens)
    other = lab.rng.integers(0, facts.vocab_size, len(tokens))
    noise = leak = 0.0
    for stream in (tokens, lab.rng.integers(0, facts.vocab_size, lab.lengths.within(LONG))):
        once = lab.box.score(stream) if stream is not tokens else first
        noise = max(noise, _largest(once, lab.box.score(stream)))
        lab.box.score(other)
        leak = max(leak, _largest(once, lab.box.score(stream)))
    if max(noise, leak) > lab.tolerance.same(10.0):
        _unsteady(lab, tokens, noise, leak)
    _batch(lab, np.stack([tokens, other]))
    _positive(lab, tokens, first)


def _largest(a: Float64, b: Float64) -> float:
    return float(moves(a, b).max(initial=0.0))


def _unsteady(lab: Lab, tokens: Int64, noise: float, leak: float) -> None:
    """Identical calls differ: memory that pays is a finding; then a fresh instance per call, measured noise, or give up."""
    remembers(lab)
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


def remembers(lab: Lab) -> None:
    """New streams, each scored twice: a scorer that remembers books every second call cheaper, a noisy one does not."""
    gains, streams = [], []
    for length in (lab.lengths.within(LONG), lab.lengths.within(64)):
        streams = [lab.rng.integers(0, lab.vocab_size, length) for _ in range(TWICE)]
        gains = [memory_outcome(lab.box, s, lab.tolerance).value for s in streams]
        error = float(np.std(gains, ddof=1)) / TWICE**0.5
        if min(gains) > lab.tolerance.same(10.0) and float(np.mean(gains)) > CLEAR * error:
            probe = Probe(test="memory", tokens=pack(lab.rng.integers(0, lab.vocab_size, length)))
            what = (
                f"a stream of {length} tokens costs {np.mean(gains):.3g} nats less in the second call "
                f"({TWICE} of {TWICE} new streams): it is scored again by a scorer that has learned it"
            )
            outcome = Outcome(value=float(np.mean(gains)), limit=CLEAR * error, unit="nats", sentence=what)
            lab.findings.append(Finding("single-pass", probe, outcome, confirmed=True))
            break


def memory_outcome(box: Box, tokens: Int64, tolerance: Tolerance) -> Outcome:
    """Nats by which the second call of one stream is cheaper than the first (ask a stream that is new to the scorer)."""
    first, second = box.score(tokens), box.score(tokens)
    gain = float(np.sum(np.clip(second, -1e3, None) - np.clip(first, -1e3, None)))
    limit = tolerance.same(10.0) * len(tokens)
    return Outcome(value=gain, limit=limit, unit="nats", sentence=f"the second call costs {gain:.3g} nats less")


def elsewhere(lab: Lab, tokens: Int64) -> None:
    """The same stream in a fresh process: scores that differ there are no function of the stream."""
    moved = _largest(lab.box.score(tokens), lab.box.elsewhere(tokens))
    if moved <= lab.tolerance.same(10.0):
        return
    lab.notes.append(f"a fresh process books the same stream otherwise, by up to {moved:.3g} nats")
    lab.tolerance = replace(lab.tolerance, noise=max(lab.tolerance.noise, moved))
    if moved > MAX_NOISE and not lab.findings:
        raise ScorerFault(
            "unsteady", f"a fresh process books the same stream otherwise by {moved:.3g} nats; fix the seeds"
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
