"""One probe asked by itself: shrinking and ``--reproduce`` use the same door."""

from __future__ import annotations

import numpy as np

from evalkit.errors import InputError
from evalkit.legality.probes.declared import build_outcome, isolation_outcome, recall_outcome
from evalkit.legality.probes.ledgers import bpb_outcome, bytes_outcome, coverage_outcomes
from evalkit.legality.probes.probe import Outcome, Probe, mass_outcome, suffix_outcome, unpack
from evalkit.legality.probes.sanity import memory_outcome
from evalkit.legality.probes.strict import strict_outcome
from evalkit.legality.probes.tolerance import Tolerance
from evalkit.legality.scorer import Box, Int64


def ask(box: Box, probe: Probe, tolerance: Tolerance) -> Outcome:
    """Ask one question; InputError when it is not a question (positions outside, unequal prefixes)."""
    tokens = unpack(probe.tokens, box.facts.vocab_size)
    other = None if probe.other is None else unpack(probe.other, box.facts.vocab_size)
    if not 0 <= probe.position < len(tokens):
        raise InputError(f"the probe's position {probe.position} is outside its {len(tokens)} tokens")
    if probe.test == "mass":
        return mass_outcome(box, tokens, probe.position, _subset(box, probe), tolerance)
    if probe.test == "suffix" and other is not None:
        _shared_past(box, tokens, other, probe)
        return suffix_outcome(box, tokens, other, probe.position, tolerance)
    if probe.test == "document" and other is not None:
        return isolation_outcome(box, tokens, other, probe.position, tolerance)
    if probe.test == "build" and other is not None:
        _needs(box, "build", probe)
        return build_outcome(box, tokens, other)
    if probe.test == "strict":
        _needs(box, "strict", probe)
        return strict_outcome(box, tokens, probe.position)
    if probe.test == "memory":
        return memory_outcome(box, tokens, tolerance)
    if probe.test == "recall":
        return recall_outcome(box, tokens, probe.position, probe.count)
    if probe.test == "call":
        box.score(tokens)
        return Outcome(value=0.0, limit=0.0, unit="faults", sentence="score() answered this time")
    return _ledger(box, probe, tokens)


def _ledger(box: Box, probe: Probe, tokens: Int64) -> Outcome:
    for face in {"ledger": ("ledger",), "bytes": ("byte_counts",), "bpb": ("bpb", "encode")}.get(probe.test, ()):
        _needs(box, face, probe)
    if probe.test == "ledger":
        outcomes = coverage_outcomes(box, tokens)
        return max(outcomes.values(), key=lambda o: (o.violated, o.value))
    if probe.test == "bytes":
        return bytes_outcome(box, tokens, probe.text)
    if probe.test == "bpb" and probe.text is not None:
        return bpb_outcome(box, probe.text)
    raise InputError(
        f"--reproduce: there is no complete probe of test '{probe.test}'; copy the command from the evidence"
    )


def _needs(box: Box, face: str, probe: Probe) -> None:
    if face not in box.facts.faces:
        raise InputError(f"a probe of test '{probe.test}' asks the scorer's {face}(), which this one does not have")


def _subset(box: Box, probe: Probe) -> Int64:
    subset = np.unique(np.array(probe.subset or [], dtype=np.int64))
    if not len(subset) or subset[0] < 0 or subset[-1] >= box.facts.vocab_size:
        raise InputError(f"a mass probe needs a subset of tokens of 0..{box.facts.vocab_size - 1}; got {probe.subset}")
    return subset


def _shared_past(box: Box, tokens: Int64, other: Int64, probe: Probe) -> None:
    """What is booked up to the position must be equal in both streams, or the question is unfair."""
    n = probe.position + 1
    if not probe.order:
        fair = len(other) >= n and np.array_equal(tokens[:n], other[:n])
    else:
        orders = [np.asarray(box.ask("order", x), dtype=np.int64) for x in (tokens, other)]
        until = int(np.flatnonzero(orders[0] == probe.position)[0]) + 1
        past = orders[0][:until]
        fair = np.array_equal(past, orders[1][:until]) and np.array_equal(tokens[past], other[past])
    if not fair:
        raise InputError(f"the two streams of the probe part before position {probe.position} is booked")
