"""The smallest stream that still shows a violation: delta debugging on the tokens, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np

from evalkit.legality.probes.ask import ask
from evalkit.legality.probes.lab import Finding, Lab
from evalkit.legality.probes.probe import Probe, first_difference, pack, unpack
from evalkit.legality.scorer import Int64, ScorerFault

FEW = 8
"""Tokens of a sum that is asked again however late it is; a move of a score is, too."""


class Budget:
    """Counts questions; says no when they are spent."""

    def __init__(self, lab: Lab, questions: int) -> None:
        self.lab, self.left = lab, questions

    def spent(self) -> bool:
        return self.left <= 0 or self.lab.late()

    def holds(self, probe: Probe) -> bool:
        """Does the probe still show a violation?  (False when the budget is spent, or at a token that is context only.)"""
        if self.spent() or probe.position < self.lab.first_target:
            return False
        self.left -= 1
        try:
            return ask(self.lab.box, probe, self.lab.tolerance).violated
        except ScorerFault:
            return False


def shrink(lab: Lab, finding: Finding) -> Finding:
    """The finding with a smaller probe where one shows it, and ``confirmed`` when it was seen again on its own."""
    if finding.confirmed:
        return finding
    deadline = lab.deadline
    if len(finding.probe.subset or []) <= FEW:
        lab.deadline = None
    seen = confirm(lab, finding.probe)
    lab.deadline = deadline
    if not seen:
        return finding
    probe = finding.probe
    try:
        if probe.test in ("suffix", "mass") and finding.law != "single-pass" and not lab.order:
            probe = _smaller(lab, probe)
        outcome = ask(lab.box, probe, lab.tolerance) if probe != finding.probe else finding.outcome
    except ScorerFault:
        return replace(finding, confirmed=True)
    return Finding(finding.law, probe, outcome, confirmed=True)


def confirm(lab: Lab, probe: Probe) -> bool:
    """Is the violation (or the fault) seen again?"""
    try:
        return ask(lab.box, probe, lab.tolerance).violated
    except ScorerFault:
        return probe.test == "call"


def _smaller(lab: Lab, probe: Probe) -> Probe:
    cost = 2 if probe.test == "suffix" else len(probe.subset or [0])
    budget = Budget(lab, max(8, lab.effort.shrink // max(1, cost // 2)))
    steps = (_fewer_changes, _cut_tail, _drop_tokens) if probe.test == "suffix" else (_cut_tail, _drop_tokens)
    for step in steps:
        tried = step(lab, probe, budget)
        probe = tried if confirm(lab, tried) else probe
    return probe


def _parts(lab: Lab, probe: Probe) -> tuple[Int64, Int64 | None]:
    other = None if probe.other is None else unpack(probe.other, lab.vocab_size)
    return unpack(probe.tokens, lab.vocab_size), other


def _with(probe: Probe, tokens: Int64, other: Int64 | None, position: int) -> Probe:
    packed = None if other is None else pack(other)
    return msgspec.structs.replace(probe, tokens=pack(tokens), other=packed, position=position)


def _fewer_changes(lab: Lab, probe: Probe, budget: Budget) -> Probe:
    """Put changed tokens back while the score still moves: first all but one block, then ever smaller blocks."""
    tokens, other = _parts(lab, probe)
    if other is None or len(other) != len(tokens):
        return probe

    def make(kept: Int64) -> Probe:
        back = tokens.copy()
        back[kept] = other[kept]
        return _with(probe, tokens, back, probe.position)

    return make(_minimise(np.flatnonzero(tokens != other), lambda kept: budget.holds(make(kept)), budget.spent))


def _cut_tail(lab: Lab, probe: Probe, budget: Budget) -> Probe:
    """End both streams as early as the violation allows."""
    tokens, other = _parts(lab, probe)
    least = probe.position + 1 if other is None else max(probe.position, first_difference(tokens, other)) + 1
    if other is not None and len(other) != len(tokens):
        return probe
    extra = 0
    while least + extra < len(tokens) and not budget.spent():
        stop = least + extra
        tried = _with(probe, tokens[:stop], None if other is None else other[:stop], probe.position)
        if budget.holds(tried):
            return tried
        extra = 2 * extra + 1
    return probe


def _drop_tokens(lab: Lab, probe: Probe, budget: Budget) -> Probe:
    """Leave out tokens before the last change, as many as the violation allows."""
    tokens, other = _parts(lab, probe)
    stop = len(tokens) if other is None else min(len(tokens), len(other), first_difference(tokens, other))
    loose = np.array([i for i in range(stop) if i != probe.position], dtype=np.int64)
    fixed = np.setdiff1d(np.arange(max(len(tokens), 0 if other is None else len(other))), loose)

    def make(kept: Int64) -> Probe:
        index = np.sort(np.concatenate([kept, fixed]))
        position = int(np.searchsorted(index, probe.position))
        shorter = None if other is None else other[index[index < len(other)]]
        return _with(probe, tokens[index[index < len(tokens)]], shorter, position)

    return make(_minimise(loose, lambda kept: budget.holds(make(kept)), budget.spent))


def _minimise(items: Int64, holds: Callable[[Int64], bool], spent: Callable[[], bool]) -> Int64:
    """Drop blocks of items, halving the block, while ``holds`` stays true of what is kept, until the budget is ``spent``."""
    size = len(items)
    while size >= 1 and not spent():
        at = 0
        while at < len(items) and not spent():
            fewer = np.concatenate([items[:at], items[at + size :]])
            if len(fewer) < len(items) and holds(fewer):
                items = fewer
            else:
                at += size
        size //= 2
    return items
