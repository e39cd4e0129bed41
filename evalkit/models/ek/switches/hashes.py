"""Hashed rows for the n-gram that a token ends: BigramHash, skip-gram hash, EngramLite.

All add to the raw embedding and are off by default: BigramHash paid at 1,024 tokens and not from 4,096 on (PR #1218),
skip-grams in no record, EngramLite was negative at 16 MB (PR #1205, #1369).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.switches.neighbours import NOTHING, neighbours

BIGRAM = (36313, 27191)
SKIPGRAM = (44021, 31337)
# EngramLite: per head one prime for each of the tokens t, t - 1, t - 2.
ENGRAM = ((36313, 27191, 51647), (48611, 39119, 60251))


class PairHash(nn.Module):
    """x + s * P E[(a t XOR b t') mod (rows - 1)] with t' one or two tokens back; row rows - 1 where t' is missing.

    The table starts at zero and P orthogonal: with both at zero neither would have a gradient.
    """

    def __init__(self, buckets: int, dim: int, width: int, back: int, primes: tuple[int, int], bos_id: int) -> None:
        super().__init__()
        self.buckets, self.back, self.primes, self.bos_id = buckets, back, primes, bos_id
        self.table = nn.Embedding(buckets, dim)
        self.proj = nn.Linear(dim, width, bias=False)
        self.scale = nn.Parameter(torch.full((1,), 0.05))

    def rows(self, ids: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
        """int64 [B, L] rows of the table."""
        left = neighbours(ids, past, self.back, self.bos_id)[-1]
        mixed = (self.primes[0] * ids) ^ (self.primes[1] * left)
        return torch.where(left == NOTHING, self.buckets - 1, mixed % (self.buckets - 1))

    def forward(self, x: torch.Tensor, ids: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
        return x + self.scale * self.proj(self.table(self.rows(ids, past)))


class Engram(nn.Module):
    """x + sigmoid(w . x[:g]) * P [E_1 .. E_4]: two hashes each of the last two and the last three tokens."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.buckets, self.bos_id, self.gate_dims = config.engram_buckets, config.bos_id, config.gate_dims
        self.table = nn.Embedding(4 * config.engram_buckets, config.engram_dim)
        self.proj = nn.Linear(4 * config.engram_dim, config.width, bias=False)
        self.gate = nn.Parameter(torch.zeros(config.gate_dims))

    def rows(self, ids: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
        """int64 [B, L, 4]: each order and head has a part of the table of its own."""
        one, two = neighbours(ids, past, 2, self.bos_id)
        found = []
        for part, (order, primes) in enumerate((o, p) for o in (2, 3) for p in ENGRAM):
            mixed = (primes[0] * ids) ^ (primes[1] * one)
            mixed = mixed ^ (primes[2] * two) if order == 3 else mixed
            missing = (one if order == 2 else two) == NOTHING
            row = torch.where(missing, self.buckets - 1, mixed % (self.buckets - 1))
            found.append(row + part * self.buckets)
        return torch.stack(found, dim=-1)

    def forward(self, x: torch.Tensor, ids: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
        read = self.proj(self.table(self.rows(ids, past)).flatten(-2))
        opening = torch.sigmoid(F.linear(x[..., : self.gate_dims], self.gate[None]))
        return x + opening * read


def hash_parts(config: GPTConfig) -> dict[str, nn.Module]:
    """The hashed parts that the config asks for, by the name that their parameters carry."""
    found: dict[str, nn.Module] = {}
    if config.bigram_buckets:
        found["bigram"] = PairHash(
            config.bigram_buckets, config.bigram_dim, config.width, 1, BIGRAM, config.bos_id
        )  # fmt: skip
    if config.skipgram_buckets:
        found["skipgram"] = PairHash(
            config.skipgram_buckets, config.skipgram_dim, config.width, 2, SKIPGRAM, config.bos_id
        )
    if config.engram_buckets:
        found["engram"] = Engram(config)
    return found
