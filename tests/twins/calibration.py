"""What does :mod:`evalkit.scoring.calibration` count?  The same, one entry at a time."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.scoring.calibration import EDGES


def calibration_naive(rows: Sequence[Sequence[float]], tokens: Sequence[int]) -> list[tuple[int, float, float, int]]:
    """Per band (entries, expected, variance, hits) over the rows of one stage."""
    bands = [[0, 0.0, 0.0, 0] for _ in range(len(EDGES) + 1)]
    for row, token in zip(rows, tokens, strict=True):
        mass = [0.0] * len(bands)
        for v, p in enumerate(row):
            band = sum(p >= edge for edge in EDGES)
            bands[band][0] += 1
            mass[band] += p
            bands[band][3] += v == token
        for band, m in zip(bands, mass, strict=True):
            band[1] += m
            band[2] += m * max(1.0 - m, 0.0)
    return [(int(n), e, s, int(h)) for n, e, s, h in bands]
