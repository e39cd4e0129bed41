"""How do stages work at once, each on a later part of the stream than the one behind it?

Stage s may work on part i when it has done part i - 1 and the stage in front has done part i.  What each stage sees, and
in which order, does not depend on who does it or when: the bits are those of one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

Stage = Callable[[int], None]
"""Do part i, with the interpreter's lock released for most of it."""


def in_line(stages: Sequence[Stage], parts: int, threads: int, pool: Executor) -> None:
    """Every stage over parts 0..parts-1, by the caller and ``threads`` - 1 workers of ``pool``.

    The first exception is raised once nobody works any more; what was not begun then is left undone.
    """
    done, taken, faults = [0] * len(stages), [False] * len(stages), list[BaseException]()
    turn = threading.Condition()

    def ready() -> int | None:
        """The last stage that can work: what is nearly through goes first, so that little waits between stages."""
        for s in reversed(range(len(stages))):
            if not taken[s] and done[s] < parts and (s == 0 or done[s - 1] > done[s]):
                return s
        return None

    def take() -> int | None:
        """A stage to work on, waiting for one; None when there is nothing more to do."""
        with turn:
            while not faults and done[-1] < parts:
                if (s := ready()) is not None:
                    taken[s] = True
                    return s
                turn.wait()
            return None

    def work() -> None:
        try:
            while (s := take()) is not None:
                stages[s](done[s])
                with turn:
                    done[s] += 1
                    taken[s] = False
                    turn.notify_all()
        except BaseException as fault:  # a stop, too: the others must hear of it
            with turn:
                faults.append(fault)
                turn.notify_all()

    helpers = [pool.submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        helper.result()
    if faults:
        raise faults[0]
