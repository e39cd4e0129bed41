"""The text of block number n: shuffled blocks of one shard, a new phase and order per epoch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.shard import UInt16 as Tokens


class Loader(Protocol):
    """Batches by number: a batch is a function of the block numbers alone, so resuming needs no loader state."""

    @property
    def block_len(self) -> int:
        """Tokens of a block; a row is ``seq_len`` of them and one target more."""
        ...

    @property
    def per_epoch(self) -> int: ...

    def batch(self, first: int, count: int, seq_len: int) -> npt.NDArray[np.int64]:
        """Blocks first..first+count-1 of the endless sequence -> int64 [count * block_len / seq_len, seq_len + 1]."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Shuffled blocks of ``block_len`` tokens, each with the one target beyond it; a new phase and order per epoch.

    Blocks are cut into rows of the current sequence length, so a length change in mid-run repeats no text.
    """

    tokens: Tokens
    block_len: int
    seed: int

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            raise InputError(
                f"the training text has {len(self.tokens)} tokens, one block needs {2 * self.block_len}; "
                "give more text or lower run.seq_lens"
            )

    @property
    def per_epoch(self) -> int:
        """Blocks in an epoch; one is given up to the random phase."""
        return (len(self.tokens) - 1) // self.block_len - 1

    def batch(self, first: int, count: int, seq_len: int) -> npt.NDArray[np.int64]:
        """Blocks first..first+count-1 of the endless sequence -> int64 [rows, seq_len + 1]."""
        rows = []
        for number in range(first, first + count):
            epoch, index = divmod(number, self.per_epoch)
            phase, order = epoch_order(self.seed, epoch, self.per_epoch, self.block_len)
            at = phase + int(order[index]) * self.block_len
            block = self.tokens[at : at + self.block_len + 1].astype(np.int64)
            rows += [block[i : i + seq_len + 1] for i in range(0, self.block_len, seq_len)]
        return np.stack(rows)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, blocks: int, block_len: int) -> tuple[int, npt.NDArray[np.int64]]:
    """(phase, permutation [blocks]) of one epoch."""
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(block_len)), rng.permutation(blocks)
