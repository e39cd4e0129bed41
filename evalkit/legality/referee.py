"""How is a verdict reached on a black box?  Handshake, streams, cuts, forks, ledgers; then the laws, then the rules."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from evalkit.legality import effort as efforts
from evalkit.legality.conclude import conclude
from evalkit.legality.effort import Effort
from evalkit.legality.probes import ahead, declared, latin, ledgers, mass, sanity, strict, suffix, track
from evalkit.legality.probes.lab import Finding, Lab, Scored
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.probes.shrink import shrink
from evalkit.legality.probes.streams import KINDS, Stream, given, textlike
from evalkit.legality.rules import ruleset as find_rules
from evalkit.legality.scorer import Box, Int64, ScorerFault
from evalkit.legality.verdict import Verdict


def audit(
    box: Box,
    *,
    target: str = "",
    ruleset: str = "strict",
    seconds: float = efforts.DEFAULT_SECONDS,
    probes: float | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    tokens: Int64 | None = None,
) -> Verdict:
    """Audit one black box.

    seconds: how long to probe (a plan is made from two timed calls).  probes: how many calls of 128 tokens in place of
    seconds, so that a busy machine asks no less.  effort: one round of exactly this; both are then ignored.
    tokens: int64 [N], real tokens of the scorer's kind; they are probed too, and searched for text known by heart.
    Never raises for what the scorer does; InputError for an unknown ruleset.
    """
    rules, start = find_rules(ruleset), time.monotonic()
    clock = time.monotonic if probes is None else efforts.probe_clock([box])
    lab = Lab(box, np.random.default_rng(seed), effort or efforts.QUICK, clock=clock)
    lab.order = "order" in box.facts.faces and rules["stream-order"].severity == "report"
    verdict = Verdict(target=target, ruleset=ruleset, vocab_size=box.facts.vocab_size, seed=seed)
    verdict.reason = investigate(lab, tokens, None if effort is not None else probes or seconds)
    verdict.track = lab.track
    conclude(lab, rules, verdict)
    verdict.seconds = round(time.monotonic() - start, 3)
    return verdict


def investigate(lab: Lab, tokens: Int64 | None, seconds: float | None) -> str:
    """Ask everything of one black box; findings, confirmed and shrunk, are in ``lab``.

    seconds: plan rounds for so long by ``lab.clock``; None: one round of ``lab.effort``.  Returns "" or why it ended early.
    """
    start, reason = lab.clock(), ""
    try:
        _handshake(lab)
        _declarations(lab, tokens)
        if seconds is None:
            _round(lab, tokens)
        else:
            _rounds(lab, tokens, start + seconds)
        _how_far(lab)
        lab.track = _track(lab)
    except ScorerFault as fault:
        reason = f"{fault.kind}: {fault}"
        _keep_fault(lab, fault)
    lab.deadline = None if seconds is None else lab.clock() + 0.25 * seconds
    lab.findings = [_shrunk(lab, f) for f in lab.findings]
    return reason


def _handshake(lab: Lab) -> None:
    tokens = textlike(lab.rng, lab.vocab_size, lab.bos, 64).tokens
    sanity.handshake(lab, tokens)
    lab.first_target = mass.first_target(lab, tokens)


def _declarations(lab: Lab, tokens: Int64 | None) -> None:
    """Everything that is asked once: bytes, bookings, builds, borders, text known by heart."""
    ledgers.check_bytes(lab)
    ledgers.check_coverage(lab, [kind(lab.rng, lab.vocab_size, lab.bos, lab.effort.length).tokens for kind in KINDS])
    strict.check(lab, [kind(lab.rng, lab.vocab_size, lab.bos, lab.effort.length).tokens for kind in KINDS])
    if lab.effort.long_length:
        strict.check(lab, [textlike(lab.rng, lab.vocab_size, lab.bos, strict.LONG).tokens])
    declared.check_build(lab)
    declared.check_isolation(lab)
    lab.recalled = declared.check_recall(lab, tokens)


def _rounds(lab: Lab, tokens: Int64 | None, deadline: float) -> None:
    """Rounds planned from measured speed, until the time is used or enough was asked."""
    lab.deadline = deadline
    while not lab.late():
        left = deadline - lab.clock()
        lab.effort = efforts.plan(efforts.measure(lab.box, lab.rng, lab.clock), lab.vocab_size, left)
        _round(lab, tokens)
        enough = lab.full_forks >= efforts.ENOUGH_FORKS and len(lab.cuts) >= efforts.ENOUGH_CUTS
        used_up = deadline - lab.clock() < 0.3 * left
        if enough or used_up or lab.found("causal", "suffix") or lab.found("normalised", "mass"):
            break


def _round(lab: Lab, tokens: Int64 | None) -> None:
    """One ordinary stream, a Latin design, the long stream (forked where no ordinary one reaches), the other streams."""
    effort = lab.effort
    first, *others = list(enumerate(_streams(lab, tokens)))
    _ordinary(lab, *first)
    latin.sweep(lab)
    if effort.long_length:
        long = textlike(lab.rng, lab.vocab_size, lab.bos, effort.long_length)
        _both_laws(lab, long, effort.long_cuts, effort.long_forks, effort.screens // 4, beyond=effort.length)
    for i, stream in others:
        _ordinary(lab, i, stream)
    if lab.order:
        _stream_order(lab)


def _ordinary(lab: Lab, i: int, stream: Stream) -> None:
    effort = lab.effort
    _both_laws(lab, stream, *(effort.share(n, i) for n in (effort.cuts, effort.forks, effort.screens)))


def _stream_order(lab: Lab) -> None:
    """Judged in the declared order: say so, and say what stream order would have shown."""
    stream = textlike(lab.rng, lab.vocab_size, lab.bos, lab.effort.length)
    apart = Lab(lab.box, lab.rng, lab.effort, lab.deadline, lab.clock, lab.tolerance)
    suffix.sweep(apart, Scored(stream, lab.box.score(stream.tokens)), 12)
    seen = "scores of earlier tokens move with later ones" if apart.found("causal") else "no dependence was seen"
    lab.notes.append(f"judged in the declared processing order; in stream order {seen}")


def _how_far(lab: Lab) -> None:
    if lab.found("causal", "suffix") and not lab.order:
        ahead.whole_stream(lab)


def _streams(lab: Lab, tokens: Int64 | None) -> list[Stream]:
    """Every kind in turn; the caller's own tokens in place of one in three."""
    out = []
    for i in range(lab.effort.streams):
        if tokens is not None and len(tokens) > 8 and i % 3 == 0:
            out.append(given(lab.rng, tokens, lab.effort.length))
        else:
            out.append(KINDS[i % len(KINDS)](lab.rng, lab.vocab_size, lab.bos, lab.effort.length))
    return out


def _both_laws(lab: Lab, stream: Stream, cuts: int, forks: int, screens: int, beyond: int = 0) -> None:
    """Suffix replays first: their changed scores tell the forks where learning lands."""
    if lab.late() or (lab.found("causal", "suffix") and lab.found("normalised", "mass")):
        return
    order = np.asarray(lab.box.ask("order", stream.tokens), dtype=np.int64) if lab.order else None
    if order is not None and not np.array_equal(np.sort(order), np.arange(len(stream))):
        raise ScorerFault("shape", f"order() is not a permutation of the {len(stream)} positions")
    scored = Scored(stream, lab.box.score(stream.tokens), order)
    suffix.sweep(lab, scored, cuts)
    mass.sweep(lab, scored, forks, screens, beyond)


def _track(lab: Lab) -> dict[str, Any]:
    """Fixed or adaptive, on a stream of its own."""
    length = max(lab.effort.long_length, lab.effort.length)
    stream = textlike(lab.rng, lab.vocab_size, lab.bos, length)
    return track.detect(lab, Scored(stream, lab.box.score(stream.tokens)))


def _keep_fault(lab: Lab, fault: ScorerFault) -> None:
    """The call that failed, as evidence that can be asked again."""
    last = lab.box.meter.last
    if (
        isinstance(last, np.ndarray)
        and last.ndim == 1
        and len(last)
        and fault.kind not in ("load", "exited", "timeout")
    ):
        outcome = Outcome(value=1.0, limit=0.0, unit="faults", sentence=str(fault))
        lab.add("protocol", Probe(test="call", tokens=pack(last.astype(np.int64))), outcome)


def _shrunk(lab: Lab, finding: Finding) -> Finding:
    try:
        return shrink(lab, finding)
    except ScorerFault:
        return finding
