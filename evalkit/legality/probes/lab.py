"""The state of one audit: the box, the tolerances, the clock, and what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from evalkit.legality.effort import Clock, Effort
from evalkit.legality.probes.lengths import Fitted, Lengths
from evalkit.legality.probes.probe import Outcome, Probe
from evalkit.legality.probes.streams import Stream
from evalkit.legality.probes.taste import Taste
from evalkit.legality.probes.tolerance import Tolerance
from evalkit.legality.scorer import Box, Float64, Int64

ENOUGH_ROWS = 64


@dataclass(frozen=True)
class Finding:
    """A law or a ledger broken by one probe."""

    law: str
    probe: Probe
    outcome: Outcome
    confirmed: bool = False
    """Seen again when asked on its own."""


@dataclass
class Fork:
    """One sum over the vocabulary: stream, position, stratum, Z, and whether all tokens were asked."""

    stream: str
    length: int
    position: int
    stratum: str
    mass: float
    full: bool


@dataclass
class Cut:
    """One replay with another suffix: where it parts, of what kind, the largest move before it and where."""

    stream: str
    length: int
    cut: int
    kind: str
    moved: float
    position: int
    tested: int


@dataclass
class Lab:
    """One audit in progress."""

    box: Box
    rng: np.random.Generator
    effort: Effort
    deadline: float | None = None
    """Reading of ``clock`` after which nothing new is asked; None: never."""
    clock: Clock = time.monotonic
    """Seconds, or probes (:func:`evalkit.legality.effort.probe_clock`)."""
    tolerance: Tolerance = field(default_factory=Tolerance)
    order: bool = False
    """Probe in the declared processing order."""
    findings: list[Finding] = field(default_factory=list)
    forks: list[Fork] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns: list[float] = field(default_factory=list)
    """Estimates of Z at the free columns of Latin designs."""
    contexts: set[int] = field(default_factory=set)
    """Tokens behind which Z was estimated that way."""
    contexts_of: int = 0
    """Size of the vocabulary that the designs were made of (a toy world's is its own)."""
    screens: int = 0
    """Positions at which Z was estimated from a few tokens."""
    withheld: bool = False
    """The engine's own rows with the target withheld may stand for sums over the vocabulary."""
    strict_rows: int = 0
    strict_updates: int = 0
    """Whole rows looked at with the target withheld, and learners' updates watched (engine scorers)."""
    recalled: int = 0
    """Tokens of the caller's that were searched for text known by heart."""
    track: dict[str, Any] = field(default_factory=dict)
    """Track A or B: see reach.py."""
    first_target: int = 0
    """1 when token 0 is context only."""
    lengths: Lengths = field(default_factory=Lengths)
    """Streams that the scorer takes."""
    taste: Taste = field(default_factory=Taste)
    """What the scorer likes behind which token, as far as it was asked."""
    unit: str = "seconds"
    """What ``clock`` counts: seconds or probes."""
    suffices: float = 0.0
    """Units of ``clock`` that would suffice for the least power, by the measured pace."""
    tell: Callable[[str], None] | None = None
    """Hears which family of probes is under way."""

    def __post_init__(self) -> None:
        self.box = Fitted(self.box, self)

    def say(self, family: str) -> None:
        if self.tell is not None:
            self.tell(family)

    @property
    def vocab_size(self) -> int:
        return self.box.facts.vocab_size

    @property
    def bos(self) -> int:
        """The document separator: declared, or 1 as in the field's tokenizers."""
        return self.box.facts.bos_id if self.box.facts.bos_id is not None else min(1, self.vocab_size - 1)

    def late(self) -> bool:
        """Is the time for probing over?"""
        return self.deadline is not None and self.clock() > self.deadline

    def found(self, law: str, test: str | None = None) -> bool:
        """Is there a finding under this law (by this test)?"""
        return any(f.law == law and test in (None, f.probe.test) for f in self.findings)

    @property
    def summed(self) -> bool:
        """Was normalisation tested: by sums, or by enough of the engine's own rows?"""
        return self.full_forks > 0 or (self.withheld and self.strict_rows >= ENOUGH_ROWS)

    @property
    def full_forks(self) -> int:
        """Sums over the whole vocabulary so far, those on the short streams of Latin designs left out."""
        return sum(f.full and f.stratum != "latin" for f in self.forks)

    def add(self, law: str, probe: Probe, outcome: Outcome) -> None:
        self.findings.append(Finding(law, probe, outcome))

    def absorb(self, other: Lab, world: str) -> None:
        """Add what another lab saw; its probes are marked with the world they belong to."""
        for f in other.findings:
            probe = msgspec.structs.replace(f.probe, world=world)
            self.findings.append(Finding(f.law, probe, f.outcome, f.confirmed))
        self.forks += other.forks
        self.cuts += other.cuts
        self.notes += [f"{world}: {note}" for note in other.notes]
        self.strict_rows += other.strict_rows
        self.strict_updates += other.strict_updates
        self.screens += other.screens
        self.columns += other.columns
        self.contexts |= other.contexts
        self.contexts_of = max(self.contexts_of, other.contexts_of)


@dataclass
class Scored:
    """A probe stream with its scores and, in a declared order, the times at which positions are booked."""

    stream: Stream
    base: Float64
    order: Int64 | None = None
    changed: list[tuple[int, Float64]] = field(default_factory=list)

    def booked_before(self, cut: int) -> Int64 | slice:
        """Positions booked before the ``cut``-th booking."""
        return slice(0, cut) if self.order is None else self.order[:cut]

    def booked_after(self, cut: int) -> Int64:
        """Positions booked from the ``cut``-th booking on."""
        return np.arange(cut, len(self.stream)) if self.order is None else self.order[cut:]
