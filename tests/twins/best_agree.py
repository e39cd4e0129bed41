"""What does ``best_agree`` compute?  Contexts as tuples in dicts: the twin the tests trust.

The kernel tells word contexts apart by 51 bits of their hash; here they are what they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.adapters.experts.hints import BestAgreeSettings
from tests.twins.hint_calibration import Hint, NaiveFollowers, NaiveTilt
from tests.twins.tilt import NaiveOrders

WORD_TOKENS = 32
INSIDE, START, CONTROL = 0, 1, 2


class NaiveWords:
    """Followers of the tokens since the start of the n-th last word, those inside a word apart from those at its start."""

    def __init__(self, words: Sequence[int], roles: np.ndarray, reset_at: int, first_token: int) -> None:
        self.words, self.roles, self.reset_at = words, roles, reset_at
        self.seen = [first_token]
        self.after: dict[tuple, NaiveFollowers] = {}

    def hints(self) -> list[Hint | None]:
        """For each context: how the word goes on, how the next one starts."""
        out: list[Hint | None] = []
        for words in self.words:
            context = self._context(words)
            for role in (INSIDE, START):
                found = self.after.get((words, role, context)) if context else None
                out.append(None if found is None else found.hint())
        return out

    def add(self, token: int) -> None:
        role = int(self.roles[token])
        for words in self.words:
            context = self._context(words)
            if not context or role == CONTROL:
                continue
            if (words, role, context) in self.after:
                self.after[words, role, context].follow(token)
            else:
                self.after[words, role, context] = NaiveFollowers(token)
        self.seen.append(token)
        if token == self.reset_at:
            self.after.clear()

    def _context(self, words: int) -> tuple[int, ...]:
        for n in range(1, min(WORD_TOKENS, len(self.seen)) + 1):
            words -= self.roles[self.seen[-n]] != INSIDE
            if words == 0:
                return tuple(self.seen[-n:])
        return ()


class NaiveBestAgree:
    """The twin of ``best_agree``."""

    def __init__(self, settings: BestAgreeSettings, roles: np.ndarray, bos: int, first_token: int) -> None:
        s = settings
        n = len(s.orders)
        self.orders = NaiveOrders(s.orders, [0.0] * n, [1] * n, first_token) if s.orders else None
        self.stream = NaiveWords(s.words, roles, -1, first_token)
        self.document = NaiveWords(s.document_words, roles, bos, first_token)
        kinds = ["any"] * bool(s.orders) + ["inside", "start"] * (len(s.words) + len(s.document_words))
        self.tilt = NaiveTilt(kinds, s.theta)

    def hints(self) -> list[Hint | None]:
        token = [self.orders.hint()] if self.orders else []
        return token + self.stream.hints() + self.document.hints()

    def row(self, p: Float64, start_mass: float = 0.5) -> Float64:
        return self.tilt.row(self.hints(), p, start_mass)

    def observe(self, token: int) -> None:
        self.tilt.learn(token)
        if self.orders:
            self.orders.add(token)
        self.stream.add(token)
        self.document.add(token)
