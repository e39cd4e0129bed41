"""How is a matrix made orthogonal without an SVD?  A few Newton-Schulz steps on whole stacks of matrices."""

from __future__ import annotations

import torch

Triples = tuple[tuple[float, float, float], ...]

# Polar Express (Amsel et al. 2025), as in modded-nanogpt: one triple per Newton-Schulz step.
POLAR_EXPRESS: Triples = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# Muon's own triple (Jordan 2024), the same in all steps.
QUINTIC: Triples = ((3.4445, -4.7750, 2.0315),) * 5
SAFETY = 1.02  # the Polar Express paper's margin on the norm bound


def orthogonalise(
    u: torch.Tensor, dtype: torch.dtype = torch.float32, method: str = "polar_express"
) -> torch.Tensor:  # fmt: skip
    """Nearest semi-orthogonal matrices of u [n, rows, cols], by five steps in ``dtype`` ("turbo": four).

    "turbo" (Turbo-Muon) scales row i by (sum_j |X X^T|_ij)^-1/2 first; that bounds the norm by 1 and brings singular
    values nearer together, so the first and steepest step is left out.
    """
    wide = u.shape[-2] <= u.shape[-1]
    x = u if wide else u.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-7)
    if method == "turbo":
        x = x * (x @ x.mT).abs().sum(-1, keepdim=True).clamp_min(1e-14).rsqrt()
    x = x.to(dtype)
    for a, b, c in triples(method):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    x = x.to(u.dtype)
    return x if wide else x.mT


def triples(method: str) -> Triples:
    """Coefficients of each step."""
    return {"polar_express": POLAR_EXPRESS, "quintic": QUINTIC, "turbo": POLAR_EXPRESS[1:]}[method]
