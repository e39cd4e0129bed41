"""Which tensors become grids, and at how many bits: named 2-D weights; everything else stays float16."""

from __future__ import annotations

from evalkit.train.recipe import Export

DAMP = 0.01
"""Share of the Hessian's mean diagonal, as in the GPTQ paper."""
SMALL = ("unet.",)
"""Gates that are matrices by shape only."""


def is_grid(name: str, shape: tuple[int, ...]) -> bool:
    """Matrices named ``.weight``; gains, gates and scales are small and stay float16."""
    return len(shape) == 2 and name.endswith(".weight") and not name.startswith(SMALL)


def bits_and_k(name: str, export: Export) -> tuple[int, float]:
    """(bits, SDClip's k) of one tensor; tables whose rows are looked up have the embedding's."""
    table = name in ("embed.weight", "lm_head.weight") or name.endswith(".table.weight")
    return (export.embed_bits, export.embed_k) if table else (export.matrix_bits, export.matrix_k)


def damping(name: str, export: Export) -> float:
    """GPTQ's damping of one tensor: the tied embedding is also looked up, which its Hessian does not know."""
    return export.embed_damp if name == "embed.weight" else DAMP
