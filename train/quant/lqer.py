"""What if the largest rounding errors get a low-rank correction?  LQER (#1851: rank 4, three tensors, about 12 KB).

E = W - Wq is cut to its first ``rank`` singular pairs; both factors are stored as int8 with one float16 step per pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Correction:
    """left int8 [rows, rank], right int8 [rank, cols], step float16 [2, rank]; adds (left * step) @ (step * right)."""

    left: npt.NDArray[np.int8]
    right: npt.NDArray[np.int8]
    step: npt.NDArray[np.float16]

    def dense(self) -> Float32:
        """Float32 [rows, cols]"""
        a, b = self.step.astype(np.float32)
        return (self.left * a) @ (self.right * b[:, None])

    @property
    def bytes(self) -> int:
        return self.left.size + self.right.size + 2 * self.step.size


def correction(error: npt.NDArray[np.floating], rank: int) -> Correction:
    """The best rank-``rank`` part of ``error`` [rows, cols], both factors in int8."""
    u, s, v = np.linalg.svd(error.astype(np.float64), full_matrices=False)
    left, right = u[:, :rank] * np.sqrt(s[:rank]), np.sqrt(s[:rank])[:, None] * v[:rank]
    a, b = _step(left.T), _step(right)
    return Correction(_round(left.T, a).T, _round(right, b), np.stack((a, b)))


def largest_errors(errors: dict[str, npt.NDArray[np.floating]], count: int) -> list[str]:
    """Names of the ``count`` tensors with the largest Frobenius error, largest first."""
    return sorted(errors, key=lambda name: -float(np.linalg.norm(errors[name])))[:count]


def _step(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    step = (np.abs(rows).max(axis=1) / 127).astype(np.float16)
    return np.maximum(step, np.finfo(np.float16).smallest_subnormal)


def _round(rows: npt.NDArray[np.float64], step: npt.NDArray[np.float16]) -> npt.NDArray[np.int8]:
    return np.clip(np.rint(rows / step.astype(np.float64)[:, None]), -127, 127).astype(np.int8)
