"""Whether a gain is real: paired bootstrap by document, in bits per byte."""

from __future__ import annotations

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.units import LN2

RESAMPLES = 2000


def paired_interval(delta_nats: Float64, size_bytes: Float64, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of sum(delta_nats) / ln 2 / sum(bytes) over documents resampled with replacement.

    delta_nats, size_bytes: float64 [D], one entry per document.  None below two documents with bytes: there is
    nothing to resample.  Efron, "Bootstrap methods" (1979).
    """
    keep = size_bytes > 0
    delta, size = delta_nats[keep], size_bytes[keep]
    if len(delta) < 2:
        return None
    rng = np.random.default_rng(seed)
    rates = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        pick = rng.integers(0, len(delta), len(delta))
        rates[i] = delta[pick].sum() / size[pick].sum()
    low, high = np.quantile(rates / LN2, [0.025, 0.975])
    return float(low), float(high)
