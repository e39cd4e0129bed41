"""``Ranks``: how a learner trains on several processes without knowing them; it asks for its share and for sums.

A training step is cut into parts (micro-batches) by the receipt and the settings alone, never by the number of
processes.  Each process computes the gradient sums of its share, and ``sum`` gives every process the same total:

    flat = self.ranks.sum(len(parts), lambda i: self.gradient(parts[i]), like=self.zeros)

A learner holds ``ranks = SOLO`` as a class attribute; the harness replaces it before ``attach`` when there are several.
This module knows no process group: the version over torch.distributed is harness/reduce.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Ranks(Protocol):
    """The same calls in the same order on every rank: each method is one collective (``share`` is none)."""

    rank: int
    size: int
    deterministic: bool
    """True: sums are added part by part in part order, so their bits do not depend on ``size``."""

    def share(self, n: int) -> range:
        """Indices of the parts that this rank computes: contiguous, in rank order, sizes differ by at most one."""
        ...

    def sum(self, n: int, compute: Callable[[int], Tensor], like: Tensor) -> Tensor:
        """Sum over parts 0..n-1 of ``compute(i)``, each of the shape and dtype of ``like``; equal bits on every rank.

        ``compute`` returns a sum over its tokens, not a mean: divide by the step's token count afterwards, so that a
        rank with fewer tokens, or none, weighs what it should.  ``compute`` may reuse its result's memory.
        """
        ...

    def gather(self, n: int, compute: Callable[[int], Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Every rank gets all n results, computed once each (Newton-Schulz of one matrix per part, say)."""
        ...


class Solo:
    """One process: every part is ours."""

    rank, size, deterministic = 0, 1, True

    def share(self, n: int) -> range:
        return range(n)

    def sum(self, n: int, compute: Callable[[int], Tensor], like: Tensor) -> Tensor:
        total = like.clone().zero_()
        for part in range(n):
            total += compute(part)
        return total

    def gather(self, n: int, compute: Callable[[int], Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        return [compute(part).clone() for part in range(n)]


SOLO: Any = Solo()


def shares(n: int, size: int) -> list[range]:
    """n parts over ``size`` ranks: contiguous, in rank order, sizes differ by at most one."""
    edges = [n * rank // size for rank in range(size + 1)]
    return [range(edges[rank], edges[rank + 1]) for rank in range(size)]
