"""One pass over rows of logits: the arithmetic of csrc/core/rows.cpp in numpy, one operation at a time.  Same bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LANES = 16
SHIFT = float.fromhex("0x1.8p52")
LOG2E = float.fromhex("0x1.71547652b82fep+0")
LN2, LN2_HIGH, LN2_LOW = (
    float.fromhex(x) for x in ("0x1.62e42fefa39efp-1", "0x1.62e42fefa3800p-1", "0x1.ef35793c76730p-45")
)
EIGHT = [
    float.fromhex("0x1.fffffffffe062p-2"),
    float.fromhex("0x1.5555555554f96p-3"),
    float.fromhex("0x1.55555565c7e0ep-5"),
    float.fromhex("0x1.111111170bc08p-7"),
    float.fromhex("0x1.6c166bde96885p-10"),
    float.fromhex("0x1.a019c36bc053cp-13"),
    float.fromhex("0x1.a136bf03ec612p-16"),
    float.fromhex("0x1.72ad458027fbcp-19"),
]
TEN = [
    float.fromhex("0x1.0000000000001p-1"),
    float.fromhex("0x1.5555555555556p-3"),
    float.fromhex("0x1.5555555553d63p-5"),
    float.fromhex("0x1.11111111109b3p-7"),
    float.fromhex("0x1.6c16c1788bd90p-10"),
    float.fromhex("0x1.a01a01a7c41d5p-13"),
    float.fromhex("0x1.a019b90d2ae7ap-16"),
    float.fromhex("0x1.71de0dae63bb3p-19"),
    float.fromhex("0x1.289185613a3d6p-22"),
    float.fromhex("0x1.af38a9b0ec855p-26"),
]


def _scale(y: Float64, shifted: Float64) -> Float64:
    """y 2^k, with k in the low bits of ``shifted``: added to the exponent of y."""
    return (y.view(np.uint64) + (shifted.view(np.uint64) << np.uint64(52))).view(np.float64)


def exp_term(x: Float64) -> Float64:
    """e^x of sums, -700 <= x <= 0."""
    c = EIGHT
    shifted = x * LOG2E + SHIFT
    r = x - (shifted - SHIFT) * LN2
    r2 = r * r
    r4 = r2 * r2
    low = (c[0] + c[1] * r) + (c[2] + c[3] * r) * r2
    high = (c[4] + c[5] * r) + (c[6] + c[7] * r) * r2
    return _scale(1.0 + (r + r2 * (low + high * r4)), shifted)


def exp_values(x: Float64) -> Float64:
    """e^x of single values."""
    c = TEN
    x = np.where(x < -708.0, -708.0, x)
    x = np.where(x > 709.0, 709.0, x)
    shifted = x * LOG2E + SHIFT
    k = shifted - SHIFT
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    low = (c[0] + c[1] * r) + (c[2] + c[3] * r) * r2
    high = ((c[4] + c[5] * r) + (c[6] + c[7] * r) * r2) + (c[8] + c[9] * r) * r4
    return _scale(1.0 + (r + r2 * (low + high * r4)), shifted)


def lanes(terms: Float64) -> float:
    """Sixteen running sums by column, then lane after lane."""
    sums = [0.0] * LANES
    for v, term in enumerate(terms.tolist()):
        sums[v % LANES] += term
    total = sums[0]
    for other in sums[1:]:
        total += other
    return total


class NaiveRow:
    """The numbers of one row float32 [V]."""

    def __init__(self, x: Float32) -> None:
        best = x.max()
        least = np.float32(best + np.float32(-87.0))
        self.top = int(np.flatnonzero(x == best)[0])
        self.d = np.maximum(x, least).astype(np.float64) - float(best)
        self.terms = exp_term(self.d)
        self.total = lanes(self.terms)
        self.lse = float(best) + math.log(self.total)
        self.entropy = math.log(self.total) - lanes(self.terms * self.d) / self.total
        self.weights = self.terms.astype(np.float32)
        self.factor = 1.0 / lanes(self.weights.astype(np.float64))

    def mass(self, group: npt.NDArray[np.bool_]) -> float:
        return lanes(np.where(group, self.terms, 0.0)) / self.total

    def powers(self, exponents: Sequence[float]) -> list[float]:
        """log of sum p^a."""
        return [math.log(lanes(exp_term(self.d * a))) - a * math.log(self.total) for a in exponents]


def probabilities(x: Float32, lse: float, floor: float) -> Float64:
    return np.maximum(exp_values(x.astype(np.float64) - lse), floor)
