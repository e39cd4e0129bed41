"""LQER: a low-rank correction of the largest rounding errors (#1851: rank 4, three tensors, about 12 KB).

E = W - Wq is cut to its first ``rank`` singular pairs; both factors are stored as int8 with one float16 step per pair.

One pair on the tied embedding pays (benches/results/quantise.json, "ladder"): GPTQ moves the error out of the head's
sight, most of it into one direction, and looking a row up reads that direction all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evalkit.models.ek.grid import Grid

Float32 = npt.NDArray[np.float32]
LARGEST_RANK = 64


@dataclass(frozen=True)
class Corrected:
    """A grid and what is added to it."""

    grid: Grid
    correction: Correction

    def dequantise(self) -> Float32:
        """Float32 [rows, cols]"""
        return self.grid.dequantise() + self.correction.dense()


@dataclass(frozen=True)
class Correction:
    """left int8 [rows, rank], right int8 [rank, cols], step float16 [2, rank]; adds (left * step) @ (step * right)."""

    left: npt.NDArray[np.int8]
    right: npt.NDArray[np.int8]
    step: npt.NDArray[np.float16]

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def dense(self) -> Float32:
        """Float32 [rows, cols]; pair by pair in float64, so that no matrix product decides the last bit."""
        total = np.zeros((len(self.left), self.right.shape[1]))
        for r, (a, b) in enumerate(self.step.astype(np.float64).T):
            total += (a * self.left[:, r])[:, None] * (b * self.right[r])
        return total.astype(np.float32)

    @property
    def bytes(self) -> int:
        return self.left.size + self.right.size + 2 * self.step.size

    def pack(self) -> bytes:
        """uint16 rank | float16 steps | left | right, little-endian, row-major."""
        numbers = np.array([self.rank], "<u2").tobytes() + self.step.astype("<f2").tobytes()
        return numbers + np.ascontiguousarray(self.left).tobytes() + np.ascontiguousarray(self.right).tobytes()


def unpack(data: memoryview, rows: int, cols: int) -> tuple[Correction, int]:
    """Inverse of :meth:`Correction.pack`: (correction, bytes read).  Raises ValueError when ``data`` does not hold it."""
    rank = int.from_bytes(data[:2], "little")
    size = packed_bytes(rows, cols, rank)
    if not 1 <= rank <= LARGEST_RANK or len(data) < size:
        raise ValueError(f"a correction of rank {rank} needs {size} bytes of {len(data)}, and rank 1 to {LARGEST_RANK}")
    at = 2 + 4 * rank
    step = np.frombuffer(data[2:at], "<f2").reshape(2, rank).astype(np.float16)
    factors = np.frombuffer(data[at:size], np.int8)
    left, right = factors[: rows * rank].reshape(rows, rank), factors[rows * rank :].reshape(rank, cols)
    return Correction(left, right, step), size


def packed_bytes(rows: int, cols: int, rank: int) -> int:
    return 2 + 4 * rank + rank * (rows + cols)


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
