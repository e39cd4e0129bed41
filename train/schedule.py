"""How large is the step at progress f?  One function for the step clock and the wall clock."""

from __future__ import annotations


def progress(step: int, steps: int, elapsed: float, seconds: float) -> float:
    """f in 0..1: the further of step / steps and elapsed / seconds (0 seconds: steps alone, which is deterministic)."""
    by_clock = elapsed / seconds if seconds > 0 else 0.0
    return min(1.0, max(step / steps, by_clock))


def lr_multiplier(f: float, warmdown: float, floor: float) -> float:
    """1 until 1 - warmdown, then a line to 0 at f = 1, never below ``floor`` (since PR #1394)."""
    if warmdown <= 0 or f < 1 - warmdown:
        return 1.0
    return max((1 - f) / warmdown, floor)


def ramp(step: int, steps: int, start: float, end: float) -> float:
    """A line from ``start`` at step 0 to ``end`` at ``steps``, constant after; for momentum and LR warm-up."""
    return end if step >= steps else start + (end - start) * step / steps
