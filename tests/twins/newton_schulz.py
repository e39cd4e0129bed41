"""What does Newton-Schulz do to singular values?  The slow twin: one matrix, float64, by its decomposition."""

from __future__ import annotations

import numpy as np

from evalkit.adapters.learners.optim import SAFETY, coefficients


def orthogonalise_by_svd(g: np.ndarray, steps: int = 5, polar: bool = False) -> np.ndarray:
    """g [rows, cols] -> U f(S) V^T with f the composed polynomial, in float64."""
    u, s, vt = np.linalg.svd(np.asarray(g, dtype=np.float64), full_matrices=False)
    s = s / (np.linalg.norm(g) * (SAFETY if polar else 1.0) + 1e-7)
    for a, b, c in coefficients(steps, polar):
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vt
