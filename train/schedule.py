"""The size of the step at progress f: one function for the step clock and the wall clock."""

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


def momentum_at(step: int, f: float, steps: int, rise: int, fall: int, start: float, end: float) -> float:
    """Up from ``start`` to ``end`` in the first ``rise`` steps, and back in the last ``fall`` (0: never back)."""
    left = (1 - f) * steps
    if fall and left < fall:
        return start + (end - start) * left / fall
    return ramp(step, rise, start, end)


def decay_taper(f: float, end: float) -> float:
    """1 until f = 0.7, then a line to ``end`` at f = 1 (PR #1729); 1 throughout when ``end`` is 1."""
    return 1.0 if f < 0.7 or end == 1.0 else 1 + (end - 1) * (f - 0.7) / 0.3
