"""How large a difference may be and still be rounding: measured noise, and a floor from float32.

Three limits, because three things differ.  Same shape: a replay of equal length runs the same arithmetic for the
shared prefix, so an honest scorer repeats itself to the last bits.  Other length: batches take other shapes, so
low-precision scorers move a little, everywhere and without direction.  Mass: a sum over V replays of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evalkit.legality.scorer import Float64

EPS32 = float(np.finfo(np.float32).eps)
LOW = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
SAFETY = 10.0


@dataclass(frozen=True)
class Tolerance:
    """``noise``: the largest difference seen between identical replays, nats."""

    noise: float = 0.0
    precision: str = "float32"
    vocab_size: int = 2

    def same(self, scale: float) -> float:
        """Allowed |difference| in nats between replays of one shape; ``scale``: |score| in nats."""
        return SAFETY * self.noise + 8 * EPS32 * max(1.0, scale)

    def length(self, scale: float) -> float:
        """Allowed |difference| in nats between replays of different lengths."""
        low = 16 * LOW.get(self.precision, 0.0)
        return SAFETY * self.noise + (128 * EPS32 + low) * max(1.0, scale)

    def mass(self, length: int) -> float:
        """Allowed excess of Z over 1 at a stream of ``length`` tokens."""
        floor = 8 * EPS32 * float(np.sqrt(self.vocab_size * np.log2(length + 2)))
        return SAFETY * self.noise + floor + 5 * LOW.get(self.precision, 0.0)

    def mean_mass(self, masses: Float64) -> float:
        """Allowed mean excess of Z over many positions: rounding averages out, a leak does not."""
        spread = float(masses.std() / np.sqrt(max(1, len(masses)))) if len(masses) else 0.0
        return self.noise + 8 * EPS32 * float(np.sqrt(self.vocab_size)) + 5 * spread


def moves(a: Float64, b: Float64) -> Float64:
    """|a - b|, 0 where both are equal (minus infinity included), at most 1e9."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, np.minimum(np.nan_to_num(np.abs(a - b), nan=1e9, posinf=1e9), 1e9))


def looks_like_rounding(moved: Float64, scale: Float64, tolerance: Tolerance) -> bool:
    """Is a change with the stream's length spread over all positions, small, and without direction?

    moved, scale: float64 [n], differences and scores in nats.  A leak is local or has a direction; rounding has
    neither.  More than 2e-3 nats is never called rounding unless the scorer declares a low precision.
    """
    ceiling = max(2e-3, tolerance.length(float(np.abs(scale).max(initial=0.0))))
    if len(moved) < 8 or np.abs(moved).max() > ceiling:
        return False
    everywhere = np.mean(np.abs(moved) > 0.1 * np.abs(moved).max() / SAFETY) >= 0.5
    directed = abs(moved.mean()) > 4 * moved.std() / np.sqrt(len(moved))
    return bool(everywhere and not directed)
