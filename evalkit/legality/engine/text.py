"""A real setup probed on real text: slices replayed with the target withheld, and with other futures.

A whole sum over a real vocabulary costs a forward pass a token, so here the rows with the target withheld stand for
it: the engine computes them without the target, and the black box on the toy model checks that claim on sums.
"""

from __future__ import annotations

import numpy as np

from evalkit.legality.probes import declared, sanity, strict, suffix
from evalkit.legality.probes.lab import Lab, Scored
from evalkit.legality.probes.shrink import shrink
from evalkit.legality.probes.streams import Stream
from evalkit.legality.scorer import Int64, ScorerFault


def slices(tokens: Int64, length: int, count: int, rng: np.random.Generator) -> list[Stream]:
    """``count`` slices of ``length`` tokens: the beginning of the text, then random places."""
    last = max(0, len(tokens) - length)
    starts = [0, *rng.integers(0, last + 1, max(0, count - 1)).tolist()][:count]
    return [_plain(tokens[s : s + length], f"text at {s}") for s in dict.fromkeys(starts)]


def heads(tokens: Int64, bos: int, length: int, count: int, rng: np.random.Generator) -> list[Stream]:
    """``count`` streams of ``length`` tokens from the beginnings of documents, 16 to 128 tokens of each, one behind another.

    Short documents are for learners that begin afresh in each: a chunk holds many.
    """
    starts = np.union1d([0], np.flatnonzero(tokens == bos))
    found = []
    for i in range(count):
        parts: list[Int64] = []
        while sum(len(p) for p in parts) < length:
            start = int(rng.choice(starts))
            following = starts[starts > start]
            end = int(following[0]) if len(following) else len(tokens)
            parts.append(tokens[start : min(end, start + int(rng.integers(16, 129)))])
        found.append(_plain(np.concatenate(parts)[:length], f"beginnings {i}"))
    return found


def _plain(tokens: Int64, name: str) -> Stream:
    """A stream that copies nothing on purpose: the latest earlier place with the same two tokens counts as its source."""
    copied, seen = np.full(len(tokens), -1), dict[tuple[int, int], int]()
    for t in range(2, len(tokens)):
        pair = (int(tokens[t - 2]), int(tokens[t - 1]))
        copied[t] = seen.get(pair, -1)
        seen[pair] = t
    return Stream(name, tokens, copied, np.zeros(0, dtype=np.int64))


def probe_text(lab: Lab, streams: list[Stream], cuts: int, deadline: float) -> str:
    """Strict replays and suffix replays of real slices until ``deadline`` of ``lab.clock``; "" or why it ended early."""
    lab.deadline, reason = deadline, ""
    try:
        sanity.handshake(lab, streams[0].tokens[:64])
        lab.first_target = 1
        strict.check(lab, [s.tokens for s in streams])
        declared.check_isolation(lab)
        for i, stream in enumerate(streams):
            if lab.late() or lab.found("causal", "suffix"):
                break
            scored = Scored(stream, lab.box.score(stream.tokens))
            suffix.sweep(lab, scored, cuts // len(streams) + (i < cuts % len(streams)))
    except ScorerFault as fault:
        reason = f"{fault.kind}: {fault}"
    lab.deadline = lab.clock() + max(5.0, deadline - lab.clock())
    lab.findings = [shrink(lab, f) for f in lab.findings]
    return reason


def merge(into: Lab, other: Lab, world: str) -> None:
    """Add what another lab saw; its probes are marked with the world they belong to."""
    import msgspec

    from evalkit.legality.probes.lab import Finding

    for f in other.findings:
        probe = msgspec.structs.replace(f.probe, world=world)
        into.findings.append(Finding(f.law, probe, f.outcome, f.confirmed))
    into.forks += other.forks
    into.cuts += other.cuts
    into.notes += [f"{world}: {note}" for note in other.notes]
    into.strict_rows += other.strict_rows
    into.strict_updates += other.strict_updates
    into.screens += other.screens
    into.columns += other.columns
    into.contexts |= other.contexts
    into.contexts_of = max(into.contexts_of, other.contexts_of)
