"""What does one target see while training?  The slow twin of ``ttt_windows``: target by target, from the definition."""

from __future__ import annotations


def context_of_target(target: int, before: int, n: int, seq_len: int, overlap: int = 0) -> tuple[int, int]:
    """(first input, last input) of the window that trains ``target``, as positions of the text."""
    step = seq_len - overlap
    segment = (target - before) // step
    last_target = min(before + (segment + 1) * step, before + n) - 1
    return max(0, last_target - seq_len), last_target - 1
