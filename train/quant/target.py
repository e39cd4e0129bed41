"""Which k fills a byte budget: bisect one factor on both k, on round-to-nearest sizes, then quantise once for good."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.errors import BudgetError
from evalkit.models.ek import coder
from evalkit.models.ek.grid import round_to_grid
from evalkit.train.quant.names import bits_and_k, is_grid
from evalkit.train.recipe import Export

Weights = dict[str, npt.NDArray[np.float32]]
LEAST_K = 4.0
SAMPLE = 1 << 18
ROUNDS = 4
"""Corrections of the real size; GPTQ moves the entropy by a percent or two."""


def scaled(export: Export, factor: float) -> Export:
    """The same export with both k times ``factor``."""
    return msgspec.structs.replace(export, matrix_k=export.matrix_k * factor, embed_k=export.embed_k * factor)


def nearest_bytes(weights: Weights, export: Export) -> float:
    """Entropy of the rounded matrices in bytes, from at most SAMPLE weights of each: what moves when k does."""
    total = 0.0
    for name, weight in weights.items():
        if is_grid(name, weight.shape):
            rows = weight[:: max(1, weight.size // SAMPLE)]
            total += (
                coder.entropy_bytes(round_to_grid(rows, *bits_and_k(name, export)).symbols) * len(weight) / len(rows)
            )
    return total


def fit(
    weights: Weights, export: Export, target: int, write: Callable[[Export], int], tolerance: float = 0.002
) -> tuple[Export, int]:
    """Find k so that ``write(export)``, the real size in bytes, lies in (1 - tolerance) * target .. target.

    ``write`` quantises and writes the file; it is called at most ROUNDS + 1 times, and the last file that it wrote is
    the answer.  A model that is smaller at k = 4 stays there.  Raises BudgetError when no k fits.
    """
    least = LEAST_K / min(export.matrix_k, export.embed_k)
    fitted = scaled(export, least)
    size = write(fitted)
    for _ in range(ROUNDS):
        finest = fitted.matrix_k <= export.matrix_k * least * 1.001
        if size <= target and (finest or size >= (1 - tolerance) * target):
            return fitted, size
        # What is no payload, and what GPTQ adds, stays nearly the same from one k to the next.
        rest = size - nearest_bytes(weights, fitted)
        fitted = scaled(export, _bisect(weights, export, target * (1 - tolerance / 2) - rest, least))
        size = write(fitted)
    if size > target:
        raise BudgetError(f"the artifact has {size:,} bytes after {ROUNDS + 1} attempts, {target:,} are allowed")
    return fitted, size


def _bisect(weights: Weights, export: Export, payload: float, least: float) -> float:
    """The smallest factor whose nearest-rounding payload is at most ``payload`` bytes; raises BudgetError."""
    low, high = least, 64.0
    if nearest_bytes(weights, scaled(export, high)) > payload:
        raise BudgetError(
            f"{payload:,.0f} bytes are left for the weights, too few at any k; take a smaller model or fewer pieces"
        )
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if nearest_bytes(weights, scaled(export, middle)) <= payload else (middle, high)
    return high
