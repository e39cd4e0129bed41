"""What does ``match`` compute?  The last place of every min_length tokens in a dict: the twin the tests trust."""

from __future__ import annotations

from evalkit.adapters.base import Float64
from evalkit.adapters.experts.hints import LENGTHS, MISSES, RUNS, MatchSettings, match_theta
from tests.twins.hint_calibration import Hint, NaiveTilt


class NaiveMatch:
    """A pointer ``at`` into the text seen so far, 0 when there is no match."""

    def __init__(self, settings: MatchSettings, first_token: int) -> None:
        self.settings = settings
        self.seen = [first_token]
        self.last: dict[tuple[int, ...], int] = {}
        self.at = self.length = self.run = 0
        self.misses: list[int] = []

    def hint(self) -> Hint | None:
        """Looks for a match; asking twice changes nothing."""
        found = self.last.get(self._key())
        if found is not None and (self.at == 0 or self.length < self.settings.min_length):
            if self.at != found:
                self.misses = []
            self.at, self.run, self.length = found, 0, self._common(found)
        return Hint(self.seen[self.at], self._bucket()) if self.at > 0 else None

    def add(self, token: int) -> None:
        self.hint()
        if self.at > 0:
            hit = self.seen[self.at] == token
            self.at += 1
            self.misses = [*self.misses, 0 if hit else 1][-8:]
            self.length = min(self.length + 1, 65535) if hit else 0
            self.run = min(self.run + 1, 65535) if hit else 0
            if not hit and sum(self.misses) > self.settings.misses:
                self.at, self.misses = 0, []
        if len(self.seen) >= self.settings.min_length:
            self.last[self._key()] = len(self.seen)
        self.seen.append(token)

    def _key(self) -> tuple[int, ...]:
        n = self.settings.min_length
        return tuple(self.seen[-n:]) if len(self.seen) >= n else ()

    def _common(self, end: int) -> int:
        n = 0
        while n < min(end, self.settings.max_length) and self.seen[end - 1 - n] == self.seen[-1 - n]:
            n += 1
        return n

    def _bucket(self) -> int:
        length = self.length if self.length < 16 else 16 + min((self.length - 16) // 4, LENGTHS - 17)
        run = self.run if self.run < 4 else 4 + min(self.run // 8, RUNS - 5)
        return (length * MISSES + min(sum(self.misses), MISSES - 1)) * RUNS + run


class NaiveMatchExpert:
    """The twin of ``match``."""

    def __init__(self, settings: MatchSettings, first_token: int) -> None:
        self.match = NaiveMatch(settings, first_token)
        self.tilt = NaiveTilt(["any"], [match_theta()])

    def hints(self) -> list[Hint | None]:
        return [self.match.hint()]

    def row(self, p: Float64, start_mass: float = 0.5) -> Float64:
        return self.tilt.row(self.hints(), p, start_mass)

    def observe(self, token: int) -> None:
        self.tilt.learn(token)
        self.match.add(token)
