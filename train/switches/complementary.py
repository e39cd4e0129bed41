"""Complementary training: targets that a count table predicts weigh less.  Off: it pays only with an n-gram expert."""

from __future__ import annotations

import numpy as np
import torch

from evalkit.stream.shard import UInt16 as Tokens


def bigram_probabilities(tokens: Tokens, vocab_size: int) -> torch.Tensor:
    """float16 [V, V]: p(next | token) counted on *training* tokens, at most the first 2^26.

    Complementary training (PR #803) weighs a target by 1 - alpha * p: what a count table predicts at evaluation, the
    model need not learn.  Only pays with an n-gram expert at evaluation; the PR's own figure came from a mixer that was
    not normalised.
    """
    ids = np.asarray(tokens[: 1 << 26], dtype=np.int64)
    counts = np.bincount(ids[:-1] * vocab_size + ids[1:], minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    table = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(table.astype(np.float16))
