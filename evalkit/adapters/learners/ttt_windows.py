"""Which booked tokens make one training sequence?  Windows over a chunk, with context from before it.

``text`` is what a learner holds: ``before`` booked tokens of context, then the chunk's targets.  Every target has a loss
in exactly one window; a window's inputs end just before its last target and reach back ``seq_len`` tokens when the text
goes back so far, so that all windows but the stream's first have one length and run in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evalkit.plan import Window

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.adapters.learners.ttt_clock import Booked

Int64 = npt.NDArray[np.int64]


def training_windows(before: int, n: int, seq_len: int, overlap: int = 0) -> list[Window]:
    """Windows over text positions [before, before + n), ``before`` >= 1; each takes seq_len - overlap new targets.

    ``overlap`` inputs at the front of a full window are context without loss (0 <= overlap < seq_len).
    """
    end, step = before + n, seq_len - overlap
    edges = ((lo, min(lo + step, end)) for lo in range(before, end, step))
    return [Window(max(0, hi - 1 - seq_len), lo, hi) for lo, hi in edges]


def same_length(windows: Sequence[Window], tokens: int) -> Iterator[list[Window]]:
    """Batches of windows of one length, at most ``tokens`` input tokens each (at least one window)."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda w: -w.length):
        if batch and (window.length != batch[0].length or (len(batch) + 1) * window.length > tokens):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def batch_nats(model: Any, booked: Booked, windows: Sequence[Window]) -> Tensor:
    """Sum of nats over the windows' targets, a scalar tensor that carries gradients.  Windows have one length."""
    import torch
    import torch.nn.functional as F

    ids, of = (np.stack([x[w.start : w.hi - 1] for w in windows]) for x in (booked.text, booked.owners))
    inputs, owners = torch.from_numpy(ids).to(model.device), torch.from_numpy(of).to(model.device)
    targets = torch.from_numpy(np.stack([booked.text[w.start + 1 : w.hi] for w in windows])).to(model.device)
    for row, window in zip(targets, windows, strict=True):
        row[: window.skip] = -100
    logits = model.logits(inputs, owners).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
