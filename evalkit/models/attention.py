"""Banded attention: one pass over a band of the past, shared by models that offer ``banded``.

Shape legend: H query heads, G key/value heads, L new positions, P past positions, D head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Rotate = Callable[[Tensor, Tensor], Tensor]
"""(x [heads, n, D], positions int64 [n]) -> x rotated; keys are cached unrotated so that positions stay small."""


def band_mask(n_queries: int, n_keys: int, window: int, device: torch.device) -> Tensor:
    """bool [Q, K], True where allowed: query i sits at key index K-Q+i and sees itself and window-1 before."""
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    key = torch.arange(n_keys, device=device)[None, :]
    return (key <= query) & (key > query - window)


def banded_attention(
    q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor] | None, window: int, rotate: Rotate
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Causal attention over a band of ``window`` tokens, keys and values of earlier calls included.

    q [H, L, D], k and v [G, L, D], all unrotated; past: (k, v) [G, P, D] with P <= window-1.
    Returns (y [H, L, D], new past).  Works in pieces of ``window`` queries against at most 2*window-1 keys, so
    the work is linear in L.
    """
    if past is not None:
        k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
    n_past, length = k.size(1) - q.size(1), q.size(1)
    pieces = []
    for begin in range(0, length, window):
        end = min(begin + window, length)
        first = max(0, n_past + begin - (window - 1))
        keys, values = k[:, first : n_past + end], v[:, first : n_past + end]
        positions = torch.arange(keys.size(1), device=q.device)
        queries = rotate(q[:, begin:end], positions[-(end - begin) :])
        mask = band_mask(end - begin, keys.size(1), window, q.device)
        y = F.scaled_dot_product_attention(
            queries[None],
            rotate(keys, positions)[None],
            values[None],
            attn_mask=mask,
            enable_gqa=q.size(0) != k.size(0),
        )
        pieces.append(y[0])
    keep = max(0, k.size(1) - (window - 1))
    return torch.cat(pieces, dim=1), (k[:, keep:].detach(), v[:, keep:].detach())
