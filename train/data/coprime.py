"""Many shards mixed without loader state: coprime strides within a shard, weighted draws between shards.

Source: PR #1060.  In an epoch, block j of shard s is (start_s + j * stride_s) mod blocks_s with gcd(stride_s, blocks_s)
= 1, so each block comes once.  Between shards: in each round ``mix`` distinct shards give one block each, drawn with
weight remaining^alpha.  alpha falls from 0.9 to 0.5 and mix grows from 8 to 32 over the epoch, so that late rounds do
not run dry shard by shard.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evalkit.errors import EvalkitError, InputError
from evalkit.stream.shard import UInt16 as Tokens

Int64 = npt.NDArray[np.int64]
ALPHA = (0.9, 0.5)
MIX = (8, 32)


@dataclass(frozen=True)
class Coprime:
    """Blocks of ``block_len`` tokens from one or many shards; a Loader.  Same seed, same shards: same batches."""

    shards: tuple[Tokens, ...]
    block_len: int
    seed: int

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            longest = max((len(s) for s in self.shards), default=0)
            raise InputError(
                f"the longest of {len(self.shards)} training shards has {longest} tokens, one block needs "
                f"{2 * self.block_len}; give more text or lower run.seq_lens"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks of each shard; one is given up to the random phase."""
        return tuple(max(0, (len(s) - 1) // self.block_len - 1) for s in self.shards)

    @property
    def per_epoch(self) -> int:
        return sum(self.counts)

    def places(self, first: int, count: int) -> tuple[Int64, Int64]:
        """(shard, first token) of blocks first..first+count-1: int64 [count] each."""
        total, shard, start = self.per_epoch, np.empty(count, np.int64), np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, index = divmod(first + done, total)
            take = min(count - done, total - index)
            plan = epoch_plan(self.counts, self.block_len, self.seed, epoch)
            shard[done : done + take], start[done : done + take] = plan.part(index, index + take)
            done += take
        return shard, start

    def batch(self, first: int, count: int, seq_len: int) -> Int64:
        """Blocks first..first+count-1 of the endless sequence -> int64 [count * block_len / seq_len, seq_len + 1]."""
        shard, start = self.places(first, count)
        rows = self.block_len // seq_len
        out = np.empty((count * rows, seq_len + 1), np.int64)
        starts = (start[:, None] + np.arange(rows) * seq_len).ravel()
        compiled_gather()(self.shards, np.repeat(shard, rows), starts, out)
        return out


def compiled_gather():
    """The compiled gather; raises EvalkitError where the package was installed without it."""
    try:
        from evalkit.train.data import _gather  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise EvalkitError("the compiled part train.data._gather is missing; install the package again") from None
    return _gather.gather


class EpochPlan:
    """The order of one epoch, drawn as far as it was asked for: a run of ten minutes never sees most of 16 GB."""

    def __init__(self, counts: tuple[int, ...], block_len: int, seed: int, epoch: int) -> None:
        rng = np.random.default_rng((seed, epoch, len(counts)))
        self.counts, self.block_len = np.array(counts, np.int64), block_len
        self.phase = rng.integers(block_len, size=len(counts))
        self.first = np.array([int(rng.integers(max(1, n))) for n in counts], np.int64)
        self.stride = np.array([coprime_stride(n, rng) if n else 1 for n in counts], np.int64)
        self.given = np.zeros(len(counts), np.int64)
        self.rounds, self.lock = _rounds(counts, rng), threading.Lock()
        self.shard, self.start, self.drawn = np.empty(0, np.int64), np.empty(0, np.int64), 0

    def part(self, lo: int, hi: int) -> tuple[Int64, Int64]:
        """(shard, first token) of blocks lo..hi-1 of the epoch."""
        with self.lock:
            while self.drawn < hi:
                self._draw()
            return self.shard[lo:hi], self.start[lo:hi]

    def _draw(self) -> None:
        """One round more; the arrays double when full."""
        chosen = next(self.rounds)
        end = self.drawn + len(chosen)
        if end > len(self.shard):
            room = np.empty(max(1024, end, len(self.shard)), np.int64)
            self.shard, self.start = np.concatenate((self.shard, room)), np.concatenate((self.start, room))
        block = (self.first[chosen] + self.given[chosen] * self.stride[chosen]) % self.counts[chosen]
        self.shard[self.drawn : end] = chosen
        self.start[self.drawn : end] = self.phase[chosen] + block * self.block_len
        self.given[chosen] += 1
        self.drawn = end


epoch_plan = lru_cache(maxsize=2)(EpochPlan)


def coprime_stride(blocks: int, rng: np.random.Generator) -> int:
    """A stride in 1..blocks with gcd(stride, blocks) = 1."""
    while math.gcd(stride := int(rng.integers(1, blocks + 1)), blocks) != 1:
        pass
    return stride


def _rounds(counts: tuple[int, ...], rng: np.random.Generator) -> Iterator[Int64]:
    """The shards of each round: the ``mix`` first of an exponential race with rates remaining^alpha."""
    remaining = np.array(counts, np.float64)
    total, left = remaining.sum(), int(remaining.sum())
    while left:
        f = 1 - left / total
        mix = min(round(MIX[0] + f * (MIX[1] - MIX[0])), int((remaining > 0).sum()))
        rate = remaining ** (ALPHA[0] + f * (ALPHA[1] - ALPHA[0]))
        with np.errstate(divide="ignore"):
            arrival = rng.exponential(size=len(counts)) / rate
        chosen = np.argsort(arrival, kind="stable")[:mix]
        remaining[chosen] -= 1
        left -= mix
        yield chosen
