"""Which work is dropped when the time budget is short: named work, in the order that the recipe gives.

Before each chunk is booked the guard forecasts from its own clock: seconds so far, and targets booked so far.  When the
rest will not fit, the next name on the list goes out of force, from the observe of that chunk on, for good.  What it
gains shows in the next chunks before another name goes.  When the list is used up and the time is over, the run stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalkit.errors import InputError, nearest
from evalkit.scoring.guard import Deadline

SETTLE = 3
"""Chunks after each cut before the next is considered: their pace is what the forecast then rests on."""


class Shedding(Deadline):
    """Policy ``shed``.  ``order``: ``NAME`` (that learner learns no more) or ``NAME.WORK`` (it does less of it)."""

    policy = "shed"

    def __init__(self, limit: float, order: Sequence[str], **more: Any) -> None:
        super().__init__(limit, **more)
        self.order = tuple(order)
        self._total = self._marked = 0
        self._mark_time = 0.0
        self._chunks = 0

    def check(self, learners: Sequence[Any]) -> None:
        """InputError when a name is not a learner of this run, or a learner cannot do less of what is named."""
        names = [learner.name for learner in learners]
        for entry in self.order:
            owner, dot, work = entry.partition(".")
            if owner not in names:
                raise InputError(
                    f"shed '{entry}': only learners can be shed, and none is called '{owner}'{_known(owner, names)}"
                )
            able = [x.sheds for x in learners if x.name == owner]
            if dot and any(work not in works for works in able):
                offers = sorted({w for works in able for w in works})
                raise InputError(f"shed '{entry}': {owner} cannot do less of '{work}'{_known(work, offers)}")

    def begin(self, booked: int, total: int) -> None:
        super().begin(booked, total)
        self._total, self._marked, self._mark_time, self._chunks = total, booked, 0.0, 0

    def decide(self, next_target: int) -> tuple[str, ...]:
        """At most one more name a chunk, and none until the pace after the last cut is known."""
        self._chunks += 1
        booked, spent = next_target - 1, self.spent
        left = [name for name in self.order if name not in self._in_force]
        if self._chunks < SETTLE or not left or booked <= self._marked:
            return self._in_force
        pace = (spent - self._mark_time) / (booked - self._marked)
        if spent + pace * (self._total - booked) <= self.limit:
            return self._in_force
        self._marked, self._mark_time, self._chunks = booked, spent, 0
        return (*self._in_force, left[0])


def _known(name: str, names: Sequence[str]) -> str:
    return nearest(name, names) if names else "; there is none"
