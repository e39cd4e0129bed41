"""How does a gradient matrix become a step of equal size in all its directions?  Newton-Schulz orthogonalisation.

Each step applies an odd polynomial a x + b x^3 + c x^5 to the singular values, in matrix products only.
Quintic: Jordan et al. 2024 (Muon).  Polar Express: Amsel, Persson, Musco and Gower 2025, one triple per step.
"""

from __future__ import annotations

from torch import Tensor

Triple = tuple[float, float, float]

QUINTIC: Triple = (3.4445, -4.7750, 2.0315)
"""Steep at 0 and not convergent: singular values end between about 0.7 and 1.2."""

POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SAFETY = 1.02
"""Polar Express bounds the largest singular value by the Frobenius norm times this."""


def coefficients(steps: int, polar: bool) -> tuple[Triple, ...]:
    """One triple per step; after its five tuned steps Polar Express repeats the last."""
    if not polar:
        return (QUINTIC,) * steps
    return tuple(POLAR_EXPRESS[min(i, len(POLAR_EXPRESS) - 1)] for i in range(steps))


def orthogonalise(g: Tensor, steps: int = 5, polar: bool = False) -> Tensor:
    """g float32 [n, rows, cols], n matrices of one shape at once -> as large, singular values near 1 (0 stays 0)."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    margin = SAFETY if polar else 1.0
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * margin + 1e-7)
    for a, b, c in coefficients(steps, polar):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x
