"""How do byte models overspend?  Tokens are strings, strings are not prefix-free, and bytes are not spread evenly."""

from __future__ import annotations

from functools import cache

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.toy import CommitReveal, Float64, Int64, V, network

LETTERS = 5


@cache
def spelling() -> tuple[tuple[int, ...], ...]:
    """The letters of every token: five of one letter, the rest of two ("a" is a prefix of "ab")."""
    single = [(i,) for i in range(LETTERS)]
    double = [(i, j) for i in range(LETTERS) for j in range(LETTERS)]
    return tuple([*single, *double, (0, 0, 0), (1, 1, 1)][:V])


@cache
def padded() -> Int64:
    """The spelling as int64 [V, 3]; LETTERS stands for "no letter", whose probability is 1."""
    return np.array([(*w, LETTERS, LETTERS)[:3] for w in spelling()])


class Letters:
    """An order-1 letter model with counts: P(letter | letter before), add-one."""

    def __init__(self) -> None:
        self.counts = np.ones((LETTERS + 1, LETTERS))
        self.last = LETTERS

    def letters(self, word: tuple[int, ...]) -> list[float]:
        """Probability of each letter of ``word`` in turn."""
        chain = (self.last, *word[:-1])
        return [self.counts[a, b] / self.counts[a].sum() for a, b in zip(chain, word, strict=True)]

    def strings(self) -> Float64:
        """Probability of the letters of every token, float64 [V].  These are not a distribution over tokens."""
        rows = np.ones((LETTERS + 1, LETTERS + 1))
        rows[:, :LETTERS] = self.counts / self.counts.sum(axis=1, keepdims=True)
        a, b, c = padded().T
        return rows[self.last, a] * rows[a, b] * rows[b, c]

    def observe(self, word: tuple[int, ...]) -> None:
        for letter in word:
            self.counts[self.last, letter] += 1
            self.last = letter


@violation(
    "A14",
    "byte mixture with an even spread over the token",
    "normalised",
    sources=(1835, 1850, 1854, 1858, 1862, 1871, 1877, 1881, 1991, 2083, 1905),
)
class UniformSpread(CommitReveal):
    """The token's probability is spread evenly, p^(1/n) for each of its n bytes, and mixed byte by byte.

    The "byte probability" then depends on which token is realised; over all bytes it sums to more than 1.
    """

    def begin(self) -> None:
        super().begin()
        self.model = Letters()

    def booked(self, y: int) -> float:
        word = spelling()[y]
        share = super().booked(y) ** (1.0 / len(word))
        return float(np.prod([0.5 * share + 0.5 * q for q in self.model.letters(word)]))

    def observe(self, x: int) -> None:
        self.model.observe(spelling()[x])
        super().observe(x)


@fix("A14")
@fix("A15")
class TokenMixture(CommitReveal):
    """The fix: divide the strings by their sum over all tokens, then mix token with token."""

    def begin(self) -> None:
        super().begin()
        self.model = Letters()

    def row(self) -> Float64:
        strings = self.model.strings()
        return 0.5 * super().row() + 0.5 * strings / strings.sum()

    def observe(self, x: int) -> None:
        self.model.observe(spelling()[x])
        super().observe(x)


@violation("A15", "token probability mixed with raw string probability", "normalised", sources=(1873, 2098, 2103))
class RawStrings(TokenMixture):
    """p = l p_nn(v) + (1-l) prod p(letters of v), undivided: "a" and "ab" are counted side by side."""

    def row(self) -> Float64:
        return 0.5 * network()[self.last] + 0.5 * self.model.strings()
