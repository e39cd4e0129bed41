"""Does an engine scorer book what it would with the target withheld?  (Tests T4, T5, T6, asked through ``strict``.)"""

from __future__ import annotations

import numpy as np

from evalkit.legality.probes.lab import Lab
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.scorer import Box, Int64, ScorerFault
from evalkit.legality.verdict import LAWS

SENTENCES = {
    "normalised": "the row of target {target} after stage '{stage}' does not sum to 1, or has an entry below 0",
    "causal": "stage '{stage}' books another probability for target {target} than its row with the target withheld",
    "score-first": "'{stage}' changes its state around target {target} before its score is booked",
}
LONG = 2049
"""Tokens of one longer stream: beyond warm-ups, and with room for what happens once in a thousand targets."""
Breach = tuple[str, int, Outcome]


def strict_replay(box: Box, tokens: Int64) -> tuple[int, int, list[Breach]]:
    """(rows looked at, updates watched, breaches as (law, target, outcome)) of one stream."""
    answer = box.ask("strict", tokens)
    try:
        counts, table = (np.asarray(part) for part in answer)
        rows, updates = (int(n) for n in counts)
        breaches = [_breach(box, *row) for row in table.reshape(-1, 5).tolist()]
    except (TypeError, ValueError, IndexError, KeyError) as fault:
        raise ScorerFault("shape", f"strict() must return counts [2] and breaches [n, 5] ({fault})") from None
    return rows, updates, breaches


def _breach(box: Box, law: float, target: float, stage: float, value: float, limit: float) -> Breach:
    name, stages = LAWS[int(law)], box.facts.stages
    who = stages[int(stage)] if 0 <= stage < len(stages) else "a learner"
    sentence = SENTENCES[name].format(target=int(target), stage=who)
    return (
        name,
        int(target),
        Outcome(value=abs(value - 1) if name == "normalised" else value, limit=0.0, unit="", sentence=sentence),
    )


def check(lab: Lab, streams: list[Int64]) -> None:
    """Replay streams with the target withheld; the first breach of each law is a finding."""
    if "strict" not in lab.box.facts.faces:
        return
    for tokens in streams:
        if lab.late():
            break
        rows, updates, breaches = strict_replay(lab.box, tokens)
        lab.strict_rows += rows
        lab.strict_updates += updates
        for law, target, outcome in breaches:
            if not lab.found(law):
                lab.add(law, Probe(test="strict", tokens=pack(tokens[: target + 1]), position=target), outcome)


def strict_outcome(box: Box, tokens: Int64, position: int) -> Outcome:
    """The breach at one target, or a clean outcome."""
    for _, target, outcome in strict_replay(box, tokens)[2]:
        if target == position:
            return outcome
    return Outcome(value=0.0, limit=0.0, unit="", sentence=f"target {position} is booked as its withheld row says")
