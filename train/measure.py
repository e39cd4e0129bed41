"""The model's score on held-out training text: disjoint windows, every target, true bytes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from evalkit.train import tokenizer
from evalkit.train.data import Corpus
from evalkit.train.ranks import ALONE, Ranks
from evalkit.units import bits_per_byte


@torch.no_grad()
def nats_of(
    model: torch.nn.Module,
    tokens: np.ndarray,
    seq_len: int,
    device: torch.device,
    rows: int = 16,
    ranks: Ranks = ALONE,
) -> float:
    """Total nats of tokens[1:] in disjoint windows of ``seq_len``, the short last one included; float32 model.

    With several ranks each scores its part of the batches, and all get the total.
    """
    ids = torch.from_numpy(tokens.astype(np.int64)).to(device)
    whole = (len(ids) - 1) // seq_len
    windows = [ids[i * seq_len : (i + 1) * seq_len + 1] for i in range(whole)]
    batches = [torch.stack(windows[i : i + rows]) for i in range(0, whole, rows)]
    if (len(ids) - 1) % seq_len:
        batches.append(ids[None, whole * seq_len :])
    parts = []
    for batch in batches[ranks.rank :: ranks.world]:
        nll = F.cross_entropy(model(batch[:, :-1]).float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        parts += nll.double().tolist()
    return ranks.total(math.fsum(parts), device)


def val_bpb(
    model: torch.nn.Module,
    corpus: Corpus,
    limit: int,
    seq_len: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> float:
    """BPB on the first whole held-out documents that fit in ``limit`` tokens (all of them when 0 or larger)."""
    tokens, size = held_out(corpus, limit)
    return bits_per_byte(nats_of(model, tokens, seq_len, device, ranks=ranks), size)


def held_out(corpus: Corpus, limit: int) -> tuple[np.ndarray, int]:
    """(tokens, true bytes) of the first held-out documents within ``limit`` tokens; at least one document."""
    if not 0 < limit < len(corpus.val):
        return corpus.val, corpus.val_bytes
    starts = np.flatnonzero(corpus.val == tokenizer.BOS)
    fitting = starts[(starts <= limit) & (starts > 0)]
    end = int(fitting[-1] if len(fitting) else (starts[1] if len(starts) > 1 else len(corpus.val)))
    processor = tokenizer.load(corpus.tokenizer_model)
    pieces = np.split(corpus.val[:end], starts[(starts > 0) & (starts < end)])
    size = sum(len(tokenizer.decode(processor, piece.tolist()).encode("utf-8")) for piece in pieces)
    return corpus.val[:end], size
