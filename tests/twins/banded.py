"""What should a banded pass give?  The slow twin of ``GPT.banded``: the whole stream at once, a dense band mask."""

from __future__ import annotations

import torch

from evalkit.models.ek.model import GPT
from evalkit.models.ek.parts.reach import Banded


def banded_naive(model: GPT, ids: torch.Tensor, window: int) -> torch.Tensor:
    """int64 [L] -> logits [L, V]; L x L scores, every position counted from the start of the stream."""
    raw = model.embed(ids[None])
    reach = Banded(model.config, window, model.nothing_kept(raw), len(ids))
    return model.head(model._run(ids[None], raw, None, reach))[0]
