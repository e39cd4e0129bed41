"""Whether an engine scorer books what it would with the target withheld, asked through ``strict``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from evalkit.legality.probes.lab import Lab
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.scorer import Box, Int64, ScorerFault

LONG = 2049
"""Tokens of one longer stream: beyond warm-ups, and with room for what happens once in a thousand targets."""
MOST = 1000
"""Breaches handed on from one replay."""


class Breach(msgspec.Struct, frozen=True):
    """One target at which the strict path disagrees; ``value``: by how much, 0 would be right."""

    law: Literal["causal", "normalised", "score-first"]
    target: int
    value: float
    sentence: Annotated[str, msgspec.Meta(max_length=1000)]

    @property
    def outcome(self) -> Outcome:
        return Outcome(value=self.value, limit=0.0, unit="", sentence=self.sentence)


class Replay(msgspec.Struct):
    """What a replay with the target withheld saw; its JSON is the answer of ``strict``."""

    rows: int = 0
    """Whole rows looked at."""
    updates: int = 0
    """Updates of learners watched."""
    breaches: list[Breach] = msgspec.field(default_factory=list)

    def breach(self, law: Literal["causal", "normalised", "score-first"], target: int, value: float, what: str) -> None:
        if len(self.breaches) < MOST:
            self.breaches.append(Breach(law, target, value if value < 1e300 else 1e300, what))  # NaN is no JSON


def strict_replay(box: Box, tokens: Int64) -> Replay:
    """ScorerFault when the answer is no replay."""
    try:
        seen = msgspec.json.decode(box.ask("strict", tokens), type=Replay)
    except (msgspec.DecodeError, TypeError, ValueError) as fault:
        raise ScorerFault("shape", f"strict() must return the JSON of a replay ({fault})") from None
    if wrong := [b.target for b in seen.breaches if not 0 < b.target < len(tokens)]:
        raise ScorerFault("shape", f"strict() names target {wrong[0]} in a stream of {len(tokens)} tokens")
    return seen


def check(lab: Lab, streams: list[Int64]) -> None:
    """Replay streams with the target withheld; the first breach of each law is a finding."""
    if "strict" not in lab.box.facts.faces:
        return
    for tokens in streams:
        if lab.late():
            break
        seen = strict_replay(lab.box, tokens)
        lab.strict_rows += seen.rows
        lab.strict_updates += seen.updates
        for breach in seen.breaches:
            if not lab.found(breach.law):
                start = pack(tokens[: breach.target + 1])
                lab.add(breach.law, Probe(test="strict", tokens=start, position=breach.target), breach.outcome)


def strict_outcome(box: Box, tokens: Int64, position: int) -> Outcome:
    """The breach at one target, or a clean outcome."""
    clean = Outcome(value=0.0, limit=0.0, unit="", sentence=f"target {position} is booked as its withheld row says")
    return next((b.outcome for b in strict_replay(box, tokens).breaches if b.target == position), clean)
