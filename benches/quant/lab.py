"""What else could the grid be?  Steps by the largest weight or by k, one for each row or each group of a row.

For measuring only: the artifact holds one step per row.  A group of 64 costs 0.25 bit per weight for its float16 step
before it saves anything, and the entropy coder takes most of what finer steps would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evalkit.models.ek import coder
from evalkit.models.ek.grid import largest, sdclip
from evalkit.train.quant.gptq import solve
from evalkit.train.quant.names import DAMP

Float = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Rule:
    """``k`` 0 takes the largest weight for R (no clipping); ``group`` 0 is one step per row."""

    bits: int
    k: float = 0.0
    group: int = 0
    gptq: bool = False

    @property
    def name(self) -> str:
        scale = f"k {self.k:g}" if self.k else "largest"
        place = f"group {self.group}" if self.group else "row"
        return f"int{self.bits} {scale} per {place} {'gptq' if self.gptq else 'nearest'}"


@dataclass(frozen=True)
class Rounded:
    """symbols int32 [rows, cols] and their steps float16 [rows, groups]."""

    symbols: npt.NDArray[np.int32]
    step: npt.NDArray[np.float16]

    @property
    def steps(self) -> npt.NDArray[np.float64]:
        """Float64 [rows, cols]."""
        return np.repeat(self.step.astype(np.float64), self.symbols.shape[1] // self.step.shape[1], axis=1)

    def dequantise(self) -> npt.NDArray[np.float32]:
        return (self.symbols * self.steps).astype(np.float32)

    @property
    def coded_bytes(self) -> int:
        """Range-coded symbols with their table, and two bytes per step."""
        lo, table = coder.frequencies(self.symbols)
        return len(coder.encode(self.symbols, lo, table)) + 2 * len(table) + 2 * self.step.size


def quantise(
    weight: npt.NDArray[np.float32], rule: Rule, hessian: npt.NDArray[np.float64] | None, damp: float = DAMP
) -> Rounded:
    """Quantise [rows, cols] by ``rule``; ``hessian`` [cols, cols] is needed where the rule says GPTQ."""
    rows, cols = weight.shape
    group = rule.group if rule.group and cols % rule.group == 0 else cols
    flat = weight.reshape(-1, group)
    step = (sdclip(flat, rule.bits, rule.k) if rule.k else absmax(flat, rule.bits)).reshape(rows, -1)
    wide, r = np.repeat(step.astype(np.float64), group, axis=1), largest(rule.bits)
    if rule.gptq and hessian is not None:
        return Rounded(solve(weight, hessian, wide, r, damp), step)
    return Rounded(np.clip(np.rint(weight / wide), -r, r).astype(np.int32), step)


def absmax(weight: Float, bits: int) -> npt.NDArray[np.float16]:
    """Step of each row: its largest magnitude / R, in float16 and never 0."""
    step = (np.abs(weight).max(axis=1) / largest(bits)).astype(np.float16)
    return np.maximum(step, np.finfo(np.float16).smallest_subnormal)
