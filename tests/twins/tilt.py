"""What does ``tilt`` compute?  Every order in a dict of its own, eagerly: the twin the tests trust."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.adapters.base import Float64
from evalkit.adapters.experts.hints import TiltSettings, count_theta
from tests.twins.hint_calibration import Hint, NaiveFollowers, NaiveTilt


class NaiveOrders:
    """The followers of every context of the given orders; the highest that passes its gates makes the hint."""

    def __init__(self, orders: Sequence[int], shares: Sequence[float], counts: Sequence[int], first_token: int) -> None:
        self.orders, self.shares, self.counts = orders, shares, counts
        self.seen = [first_token]
        self.after: dict[tuple[int, ...], NaiveFollowers] = {}

    def hint(self) -> Hint | None:
        for k in reversed(range(len(self.orders))):
            found = self.after.get(self._context(self.orders[k]))
            if found is None:
                continue
            _, top, total = found.top
            if total >= self.counts[k] and top >= self.shares[k] * total:
                return found.hint(k)
        return None

    def add(self, token: int) -> None:
        for order in self.orders:
            if len(self.seen) < order - 1:
                continue
            key = self._context(order)
            if key in self.after:
                self.after[key].follow(token)
            else:
                self.after[key] = NaiveFollowers(token)
        self.seen.append(token)

    def _context(self, order: int) -> tuple[int, ...]:
        return (order, *self.seen[max(0, len(self.seen) - order + 1) :])


class NaiveTiltExpert:
    """The twin of ``tilt``."""

    def __init__(self, settings: TiltSettings, first_token: int) -> None:
        s = settings
        self.orders = NaiveOrders(s.orders, s.shares, s.counts, first_token)
        self.tilt = NaiveTilt(["any"], [count_theta(len(s.orders))], -1.0 if s.beta is None else s.beta)

    def hints(self) -> list[Hint | None]:
        return [self.orders.hint()]

    def row(self, p: Float64, start_mass: float = 0.5) -> Float64:
        return self.tilt.row(self.hints(), p, start_mass)

    def observe(self, token: int) -> None:
        self.tilt.learn(token)
        self.orders.add(token)
