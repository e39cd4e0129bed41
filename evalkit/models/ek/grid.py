"""A quantised matrix: integers in -R..R and one float16 step per row; R = 2^(bits - 1) - 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Grid:
    """symbols int32 [rows, cols] in -R..R, scale float16 [rows]; the weight is symbols * scale, in float32."""

    symbols: npt.NDArray[np.int32]
    scale: npt.NDArray[np.float16]
    bits: int

    def dequantise(self) -> npt.NDArray[np.float32]:
        with np.errstate(invalid="ignore"):  # 0 * inf: the reader reports it
            return self.symbols.astype(np.float32) * self.scale.astype(np.float32)[:, None]


def largest(bits: int) -> int:
    """R, the largest symbol of a symmetric grid."""
    return 2 ** (bits - 1) - 1


def sdclip(weight: Float, bits: int, k: float) -> npt.NDArray[np.float16]:
    """Step of each row: k * std(row) / R, rounded to float16 *before* any symbol is, so that decoding is exact.

    k is rate control, not clipping: entropy per weight falls by one bit when k doubles (PR #1394).
    """
    step = np.maximum(k * weight.astype(np.float64).std(axis=1), 1e-10) / largest(bits)
    smallest = np.finfo(np.float16).smallest_subnormal
    return np.maximum(step.astype(np.float16), smallest)


def round_to_grid(weight: Float, bits: int, k: float) -> Grid:
    """Round to nearest on the SDClip grid; the baseline that GPTQ is measured against."""
    scale = sdclip(weight, bits, k)
    r = largest(bits)
    symbols = np.clip(np.rint(weight.astype(np.float64) / scale.astype(np.float64)[:, None]), -r, r)
    return Grid(symbols.astype(np.int32), scale, bits)
