"""The guard: may the run go on, and with how much work?  Decided from clocks and booked scores alone, never from the text ahead.

The loop asks ``may_start`` before a chunk, ``decide`` when a chunk is scored and not yet booked, and ``follow`` with what
the journal then says, so that a resumed run sheds the same work from the same chunk on.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any


class Guard:
    """No limit but a request to stop.  ``stopping``: True once the process was asked to end (SIGTERM)."""

    policy = "none"
    limit: Any = None
    """Seconds; None when there is no limit."""

    def __init__(
        self, stopping: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.stopped: str | None = None
        """Why the run stopped early: "signal" or "budget"; None when it did not."""
        self._stopping, self._clock = stopping, clock
        self._began = clock()
        self._in_force: tuple[str, ...] = ()
        self._applied: list[dict[str, Any]] = []

    def begin(self, booked: int, total: int) -> None:
        """The clock starts; ``booked`` of ``total`` targets are in the journal already."""
        self._began = self._clock()

    def check(self, learners: Sequence[Any]) -> None:
        """Raise InputError when the policy names work that this run has not."""

    @property
    def spent(self) -> float:
        """Seconds since :meth:`begin`."""
        return self._clock() - self._began

    def may_start(self) -> bool:
        """Before a chunk that is not booked yet."""
        if self._stopping():
            self.stopped = "signal"
        elif self.limit is not None and self._too_late():
            self.stopped = "budget"
        return self.stopped is None

    def _too_late(self) -> bool:
        return False

    def decide(self, next_target: int) -> tuple[str, ...]:
        """Work to leave out from now on, all of it; called when targets before ``next_target`` are scored."""
        return self._in_force

    def follow(self, shed: tuple[str, ...], next_target: int, learners: Sequence[Any]) -> None:
        """Put into force what was decided, now or by the process that the journal tells of."""
        for name in shed[len(self._in_force) :]:
            owner, _, work = name.partition(".")
            said = [learner.shed(work) for learner in learners if work and learner.name == owner]
            self._applied.append({"work": name, "from_target": next_target, "change": "; ".join(said) or "left out"})
        self._in_force = shed

    def report(self) -> dict[str, Any]:
        """What run.json says under ``budget``."""
        return {
            "seconds": self.limit,
            "policy": self.policy,
            "spent": round(self.spent, 6),
            "shed": list(self._applied),
            "stopped": self.stopped,
        }


class Deadline(Guard):
    """Policy ``stop``: no chunk starts that would not be done after ``limit`` seconds of scoring.

    A chunk is taken to last as long as the longest of the three before it; the first starts if the limit has not passed.
    """

    policy = "stop"

    def __init__(self, limit: float, **more: Any) -> None:
        super().__init__(**more)
        self.limit: float = limit
        self._starts: deque[float] = deque(maxlen=4)

    def begin(self, booked: int, total: int) -> None:
        super().begin(booked, total)
        self._starts.clear()

    def _too_late(self) -> bool:
        now = self.spent
        self._starts.append(now)
        longest = max((b - a for a, b in itertools.pairwise(self._starts)), default=0.0)
        return now + longest > self.limit or now >= self.limit
