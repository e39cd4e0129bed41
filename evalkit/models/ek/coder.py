"""The entropy coder of symbols: a range coder (``constriction``) with one counted static table per tensor.

Measured on SDClip symbols by the field: brotli-11 wastes 1.5 %, zstd-22 1.8 %, LZMA 5.9 % over the entropy; a range
coder next to nothing.  The table is stored as uint16 frequencies of the symbols lo..hi, so encoder and decoder build
their model from the same integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]


def frequencies(symbols: Int32) -> tuple[int, npt.NDArray[np.uint16]]:
    """(lo, uint16 [hi - lo + 1]): the smallest symbol, and counts scaled into 1..65535 where a symbol occurs."""
    lo = int(symbols.min())
    counts = np.bincount((symbols - lo).ravel())
    scaled = np.rint(counts * (65535 / max(65535, counts.max())))
    table = np.where(counts > 0, np.maximum(scaled, 1), 0).astype(np.uint16)
    return lo, table if len(table) > 1 else np.append(table, np.uint16(1))  # the coder's model needs two symbols


def encode(symbols: Int32, lo: int, table: npt.NDArray[np.uint16]) -> bytes:
    """Symbols of any shape, row-major -> little-endian 32-bit words."""
    coder = _constriction().stream.queue.RangeEncoder()
    coder.encode(np.ascontiguousarray(symbols.ravel() - lo, dtype=np.int32), _model(table))
    return coder.get_compressed().astype("<u4").tobytes()


def decode(words: bytes, count: int, lo: int, table: npt.NDArray[np.uint16]) -> Int32:
    """Inverse of :func:`encode`: int32 [count]."""
    coder = _constriction().stream.queue.RangeDecoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))
    return coder.decode(_model(table), count).astype(np.int32) + lo


def entropy_bytes(symbols: Int32) -> float:
    """Order-0 entropy of the symbols in bytes: what no static table can beat."""
    counts = np.bincount((symbols - symbols.min()).ravel()).astype(np.float64)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def gaussian_bits(bits: int, k: float) -> float:
    """Entropy in bits of a standard normal on the SDClip grid: what a tensor will cost before it exists."""
    r = 2 ** (bits - 1) - 1
    edges = (np.arange(-r, r) + 0.5) * k / r
    cdf = np.array([0.0, *(0.5 * (1 + math.erf(e / math.sqrt(2))) for e in edges), 1.0])
    p = np.diff(cdf)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def _model(table: npt.NDArray[np.uint16]) -> Any:
    weights = table.astype(np.float64)
    return _constriction().stream.model.Categorical(weights / weights.sum(), perfect=False)


def _constriction() -> Any:
    """The package, imported late and untyped: its submodules are made by the native module at run time."""
    import constriction

    return constriction
