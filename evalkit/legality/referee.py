"""The referee of black boxes: handshake, streams, cuts, forks, ledgers; then the laws, then the rules."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evalkit.legality import effort as efforts
from evalkit.legality.conclude import conclude
from evalkit.legality.effort import Clock, Effort
from evalkit.legality.probes import declared, latin, ledgers, lengths, mass, reach, sanity, strict, suffix
from evalkit.legality.probes.lab import Finding, Lab, Scored
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.probes.shrink import shrink
from evalkit.legality.probes.streams import KINDS, Stream, given, textlike
from evalkit.legality.probes.taste import grown
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
    clock: Clock | None = None,
    spent: float = 0.0,
    tell: Callable[[str], None] | None = None,
) -> Verdict:
    """Audit one black box.

    seconds: how long the audit may take, with its verdict; one call may exceed it.  A small first set of every family
    of probes is asked in any case.  probes: how many calls of 128 tokens in place of seconds, so that a busy machine
    asks no less.  effort: one round of exactly this; both are then ignored.
    tokens: int64 [N], real tokens of the scorer's kind; they are probed too, and searched for text known by heart.
    clock: what counts the seconds (default: time.monotonic).  spent: seconds that are gone already, for loading.
    tell: hears the name of each family of probes as it begins.
    Never raises for what the scorer does; InputError for an unknown ruleset.
    """
    rules, start = find_rules(ruleset), time.monotonic()
    clock = efforts.probe_clock([box]) if probes is not None else clock or time.monotonic
    lab = Lab(box, np.random.default_rng(seed), effort or efforts.QUICK, clock=clock, tell=tell)
    lab.unit = "seconds" if probes is None else "probes"
    lab.order = "order" in box.facts.faces and rules["stream-order"].severity == "report"
    verdict = Verdict(target=target, ruleset=ruleset, vocab_size=box.facts.vocab_size, seed=seed)
    verdict.reason = investigate(lab, tokens, None if effort is not None else probes or seconds - spent)
    verdict.track = lab.track
    conclude(lab, rules, verdict)
    verdict.seconds = round(time.monotonic() - start, 3)
    return verdict


def investigate(lab: Lab, tokens: Int64 | None, seconds: float | None) -> str:
    """Ask everything of one black box; findings, confirmed and shrunk, are in ``lab``.

    seconds: plan rounds for so long by ``lab.clock``; None: one round of ``lab.effort``.  Returns "" or why it ended early.
    """
    start, reason = lab.clock(), ""

    def until(share: float) -> None:
        lab.deadline = None if seconds is None else start + share * seconds

    try:
        _handshake(lab)
        _first_set(lab)
        until(efforts.PROBING)
        _declarations(lab, tokens)
        _round(lab, tokens) if seconds is None else _rounds(lab, tokens, start + efforts.PROBING * seconds)
    except ScorerFault as fault:
        reason = _ended(lab, fault)
    until(0.5 * (efforts.PROBING + efforts.SHRINKING))
    try:
        _how_far(lab)
    except ScorerFault as fault:
        reason = reason or _ended(lab, fault)
    until(efforts.SHRINKING)
    lab.say("the counter-example")
    lab.findings = [_shrunk(lab, f) for f in lab.findings]
    lab.deadline = None
    return reason


def _ended(lab: Lab, fault: ScorerFault) -> str:
    """Why the probing ended: "" when only its time was over."""
    if fault.kind == "time":
        return ""
    _keep_fault(lab, fault)
    return f"{fault.kind}: {fault}"


def _handshake(lab: Lab) -> None:
    lab.say("lengths and noise")
    lab.lengths = lengths.find(lab)
    lab.lengths = lengths.longest(lab, efforts.LENGTHS[-1])
    lab.effort = _fitting(lab, lab.effort)
    tokens = textlike(lab.rng, lab.vocab_size, lab.bos, lab.lengths.within(64)).tokens
    sanity.handshake(lab, tokens)
    lab.first_target = mass.first_target(lab, tokens)


def _first_set(lab: Lab) -> None:
    """A little of every family, whatever the clock says: a slow machine gets a thinner verdict, not another one."""
    lab.say("first probes")
    stream = textlike(lab.rng, lab.vocab_size, lab.bos, lab.effort.length)
    scored = _scored(lab, stream)
    suffix.sweep(lab, scored, 5)
    if lab.vocab_size > efforts.SMALL_VOCABULARY:
        mass.sweep(lab, scored, 0, 1)
    lab.track = reach.track(lab, scored)
    sanity.elsewhere(lab, stream.tokens)


def _fitting(lab: Lab, effort: Effort) -> Effort:
    """The effort with streams that the scorer takes."""
    within = lab.lengths.within
    latin_length = within(effort.latin_length) if effort.latin_length else 0
    long_length = within(effort.long_length) if effort.long_length else 0
    return replace(effort, length=within(effort.length), long_length=long_length, latin_length=latin_length)


def _declarations(lab: Lab, tokens: Int64 | None) -> None:
    """Everything that is asked once: bytes, bookings, builds, borders, text known by heart."""
    lab.say("bytes, bookings and declarations")
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
    pace = efforts.measure(lab.box, lab.rng, lab.clock)
    lab.suffices = efforts.suffices(pace, lab.vocab_size)
    wanted = max(efforts.plan(pace, lab.vocab_size, deadline - lab.clock()).long_length, *efforts.LENGTHS)
    lab.lengths = lengths.longest(lab, wanted)
    while not lab.late():
        left = deadline - lab.clock()
        lab.effort = _fitting(lab, efforts.plan(pace, lab.vocab_size, left))
        _round(lab, tokens)
        enough = lab.full_forks >= efforts.ENOUGH_FORKS and len(lab.cuts) >= efforts.ENOUGH_CUTS
        used_up = deadline - lab.clock() < 0.3 * left
        if enough or used_up or (lab.found("causal", "suffix") or lab.found("normalised", "mass")):
            break


def _round(lab: Lab, tokens: Int64 | None) -> None:
    """By yield: one ordinary stream, a Latin design, the scorer's own ground, the long stream, the other streams."""
    effort = lab.effort
    first, *others = list(enumerate(_streams(lab, tokens)))
    lab.say("suffixes and sums")
    _ordinary(lab, *first)
    lab.say("a Latin design")
    latin.sweep(lab)
    lab.say("the scorer's own ground")
    for i in range(effort.own):
        if lab.late() or (lab.found("causal", "suffix") and lab.found("normalised", "mass")):
            break
        own = grown(lab, effort.length, surprises=i % 2 == 1, documents=1 + i // 2)
        _both_laws(lab, own, effort.own_cuts // effort.own, effort.own_forks // effort.own, 0)
    if effort.long_length:
        lab.say("long streams")
        long = textlike(lab.rng, lab.vocab_size, lab.bos, effort.long_length)
        _both_laws(lab, long, effort.long_cuts, effort.long_forks, effort.screens // 4, beyond=effort.length)
        lab.track = reach.track(lab, Scored(long, lab.box.score(long.tokens)))
    lab.say("suffixes and sums")
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
        reach.whole_stream(lab)


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
    scored = _scored(lab, stream)
    suffix.sweep(lab, scored, cuts)
    mass.sweep(lab, scored, forks, screens, beyond)


def _scored(lab: Lab, stream: Stream) -> Scored:
    """The stream's scores, with the declared order where the scorer is judged in it."""
    order = np.asarray(lab.box.ask("order", stream.tokens), dtype=np.int64) if lab.order else None
    if order is not None and not np.array_equal(np.sort(order), np.arange(len(stream))):
        raise ScorerFault("shape", f"order() is not a permutation of the {len(stream)} positions")
    scored = Scored(stream, lab.box.score(stream.tokens), order)
    lab.taste.stream(stream.tokens, scored.base)
    return scored


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
