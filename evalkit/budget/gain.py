"""The gain of a whole run, foretold from the documents of a short one, with its interval."""

from __future__ import annotations

import math

import numpy as np

from evalkit.budget.diary import Measured
from evalkit.units import LN2

DRAWS = 1000


def whole_gain(run: Measured, base: Measured, targets: int, seed: int = 0) -> tuple[float, float, float]:
    """(gain, low, high) in BPB expected of a run of ``targets``, 95 %: documents of this run, and those of that one, vary.

    Adapters gain more the more they have read.  A document's gain is taken to fall with the logarithm of its position,
    gain(t) = a + b ln t with b <= 0, which is carried on to the longer run: its mean over 0..T is a + b (ln T - 1).  Carried on
    even where b could be chance: a test for it first kept the gains of small samples flat, and runs gained up to a sixth more
    than the far end of the interval.
    """
    size = np.array(run.bytes, np.float64)
    bits = (np.array(run.nats[-1]) - np.array(base.nats[-1])) / LN2
    ends = np.cumsum(run.doc_targets)
    x = np.log(np.maximum(ends - np.array(run.doc_targets) / 2.0, 1.0))
    keep = size > 0
    size, bits, x = size[keep], bits[keep], x[keep]
    if len(size) < 2:
        gain = float(bits.sum() / size.sum()) if len(size) else 0.0
        return gain, gain, gain
    rng = np.random.default_rng(seed)
    fresh = max(2, round(len(size) * targets / max(1, run.targets)))
    mean = math.log(targets) - 1.0 if targets > run.targets else float((x * size).sum() / size.sum())
    line = _falling(x, bits, size)
    residual = bits - (line[0] + line[1] * x) * size
    draws = np.empty(DRAWS)
    for i in range(DRAWS):
        pick = rng.integers(0, len(size), len(size))
        a, b = _falling(x[pick], bits[pick], size[pick])
        other = rng.integers(0, len(size), fresh)
        draws[i] = a + b * mean + residual[other].sum() / size[other].sum()
    low, high = np.quantile(draws, [0.025, 0.975])
    gain, wide = line[0] + line[1] * mean, few_documents(len(size))
    return gain, float(gain - wide * (gain - low)), float(gain + wide * (high - gain))


def few_documents(n: int) -> float:
    """How much wider a 95 % interval of n >= 2 documents is than the percentiles of their resamples: a resample's variance
    is (n - 1) / n of the sample's, and Student's quantile (here by its expansion in 1 / n) stands where the normal one would.
    """
    z, v = 1.959964, n - 1
    student = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)
    return student / z * math.sqrt(n / v)


def _falling(x: np.ndarray, bits: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """:func:`_line`, flat where it rises: what an adapter has read is not unlearned."""
    a, b = _line(x, bits, size)
    return (a, b) if b <= 0.0 else (float(bits.sum() / size.sum()), 0.0)


def _line(x: np.ndarray, bits: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """(a, b) of bits = (a + b x) size, weighted by size."""
    total = size.sum()
    centre = (x * size).sum() / total
    spread = ((x - centre) ** 2 * size).sum()
    slope = float(((x - centre) * bits).sum() / spread) if spread > 0 else 0.0
    return float(bits.sum() / total - slope * centre), slope
