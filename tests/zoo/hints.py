"""Which hints, masks and pseudo-experts look at the target?  Word gates, exempt truncation, entropy experts."""

from __future__ import annotations

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.hashed import ExactPair
from tests.zoo.oracle import cached_rows
from tests.zoo.toy import BOS, CommitReveal, Float64, Int64, Toy, V, network, softmax

BOOST = 1.5
WORD_START = np.arange(V) % 3 == 0


def tilt(row: Float64, hint: int, boost: float = BOOST) -> Float64:
    """p(v) e^{b [v = hint]} / (1 + p(hint)(e^b - 1)): one token up, the rest down, the sum stays 1."""
    tilted = row.copy()
    tilted[hint] *= np.exp(boost)
    return tilted / (1.0 + row[hint] * np.expm1(boost))


@violation(
    "A10",
    "hint gated on the class of the target (first best_agree)",
    "normalised",
    sources=(1145, 1302, 1420, 1437, 1967, 2018, 2118, 2140),
)
class WordGate(CommitReveal):
    """The hint for x_t is given only when *x_t itself* starts no word: the gate tells the coder one bit of x_t.

    The tilt is correctly normalised, and the first published form of best_agree did this.
    """

    def begin(self) -> None:
        super().begin()
        self.successor: dict[int, int] = {}

    def booked(self, y: int) -> float:
        return self.gated(y)[y]

    def gated(self, y: int) -> Float64:
        hint = self.successor.get(self.last, -1)
        fires = hint >= 0 and not WORD_START[y] and y != BOS
        return tilt(self.row(), hint) if fires else self.row()

    def observe(self, x: int) -> None:
        self.successor[self.last] = x
        super().observe(x)


@fix("A10")
class PrefixGate(WordGate):
    """The fix: the gate asks x_{t-1} and the hint, never x_t."""

    def gated(self, y: int) -> Float64:
        hint = self.successor.get(self.last, -1)
        fires = hint >= 0 and self.last < V and not WORD_START[self.last] and not WORD_START[hint]
        return tilt(self.row(), hint) if fires else self.row()


@violation("A11", "truncation that spares the target", "normalised", sources=(1055,))
class ExemptTruncation(CommitReveal):
    """Mask every v below beta times the largest, *except the target*, then renormalise."""

    def booked(self, y: int) -> float:
        row = self.row()
        kept = row >= 0.1 * row.max()
        kept[y] = True
        return row[y] / row[kept].sum()


@fix("A11")
class PaidTruncation(CommitReveal):
    """The fix: mask without an exemption, and keep a little mass for what was masked."""

    def row(self) -> Float64:
        row = super().row()
        kept = np.where(row >= 0.1 * row.max(), row, 0.0)
        return 0.9 * kept / kept.sum() + 0.1 * row


@violation("A12", "entropy as an expert (first Hedge mixer)", "normalised", sources=(688, 700, 880, 995))
class EntropyExpert(Toy):
    """A Hedge mixture in which one "expert" books exp(-H(row)) for whatever token occurs.

    Its sum over the vocabulary is V e^{-H}; the first published Hedge mixer had it.
    """

    def score(self, tokens: Int64) -> Float64:
        nn, cache = cached_rows(tokens)
        at = np.arange(len(tokens)), tokens
        experts = np.log([nn[at], cache[at], self.third(nn)])
        evidence = np.cumsum(experts, axis=1) - experts
        return np.log((softmax(evidence.T) * np.exp(experts.T)).sum(axis=1))

    def third(self, nn: Float64) -> Float64:
        return np.exp((nn * np.log(nn)).sum(axis=1))


@fix("A12")
class VectorExperts(EntropyExpert):
    """The fix: every expert must hand in a whole row; the third is the uniform one."""

    def third(self, nn: Float64) -> Float64:
        return np.full(len(nn), 1.0 / V)


@violation("A16", "online bias on the target alone", "normalised", sources=(959, 241))
class TargetOnlyBias(ExactPair):
    """An online bias multiplies the target's probability, min(1, p(y) e^{b_y}), and nothing is renormalised."""

    def begin(self) -> None:
        super().begin()
        self.bias = np.zeros(V)

    def booked(self, y: int) -> float:
        return self.biased()[y]

    def observe(self, x: int) -> None:
        self.bias[x] += 0.01 * min(1.0 / self.booked(x), 10.0)
        self.bias *= 0.999
        super().observe(x)

    def biased(self) -> Float64:
        return np.minimum(1.0, network()[self.last] * np.exp(self.bias))


@fix("A16")
class RenormalisedBias(TargetOnlyBias):
    """The fix: the bias is a vector on the logits, and the row is divided by its sum."""

    def biased(self) -> Float64:
        row = network()[self.last] * np.exp(self.bias)
        return row / row.sum()
