"""Nats into bits per byte: sums first, one division at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable

LN2 = math.log(2.0)


def total_nats(parts: Iterable[float]) -> float:
    """Sum nats independently of their order: exactly rounded, see ``math.fsum``."""
    return math.fsum(parts)


def bits_per_byte(nats: float, size_bytes: int) -> float:
    """Return (nats / ln 2) / bytes.  Never called per batch."""
    if size_bytes <= 0:
        raise ValueError(f"bits per byte needs a positive byte count, got {size_bytes}")
    return nats / LN2 / size_bytes
