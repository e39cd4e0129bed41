"""The tokens left of each token, within its document: what the hashed n-grams are made of."""

from __future__ import annotations

import torch

NOTHING = -1
"""In place of a token that is not there: before the stream, or beyond the document's BOS."""


def neighbours(ids: torch.Tensor, past: torch.Tensor | None, reach: int, bos_id: int) -> list[torch.Tensor]:
    """ids int64 [B, L], past [B, <= reach] the tokens before them -> reach tensors [B, L]: the token 1, 2, ... back.

    A token sees no further left than its document's BOS, so packed documents do not mix.
    """
    length = ids.shape[1]
    row = ids.new_full((ids.shape[0], reach), NOTHING)
    if past is not None and past.shape[1]:
        row[:, -past.shape[1] :] = past[:, -reach:]
    row = torch.cat((row, ids), dim=1)
    closed = torch.zeros_like(ids, dtype=torch.bool)
    found = []
    for back in range(1, reach + 1):
        closed = closed | (row[:, reach - back + 1 : reach - back + 1 + length] == bos_id)
        left = row[:, reach - back : reach - back + length]
        found.append(torch.where(closed, NOTHING, left))
    return found
