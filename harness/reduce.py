"""``Ranks`` over torch.distributed: gradients added over ranks so that nobody branches alone.

Every method is one collective, called on every rank in the same order.  Rank 0 and the others hold equal bits after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from evalkit.adapters.learners.ranks import shares
from evalkit.errors import EvalkitError


class GroupRanks:
    """See :class:`evalkit.adapters.learners.ranks.Ranks`.  Counts calls and bytes for the trace."""

    def __init__(self, rank: int, size: int, deterministic: bool, device: str = "cpu") -> None:
        self.rank, self.size, self.deterministic, self._device = rank, size, deterministic, device
        self.calls = self.bytes = 0
        self.seconds = 0.0

    def share(self, n: int) -> range:
        return shares(n, self.size)[self.rank]

    def sum(self, n: int, compute: Callable[[int], Tensor], like: Tensor) -> Tensor:
        if self.deterministic:
            return self._sum_in_order(n, compute, like)
        total = torch.zeros_like(like)
        for part in self.share(n):
            total += _checked(compute(part), like)
        with self._counted(total):
            dist.all_reduce(total)
        return total

    def _sum_in_order(self, n: int, compute: Callable[[int], Tensor], like: Tensor) -> Tensor:
        """Every part travels and is added in part order, so the bits are those of one process."""
        total = torch.zeros_like(like)
        for part in self._all(n, compute, like):
            total += part
        return total

    def _all(self, n: int, compute: Callable[[int], Tensor], like: Tensor) -> list[Tensor]:
        """All n results on every rank, by one all-gather of ceil(n / size) slots a rank."""
        slots = max(len(share) for share in shares(n, self.size))
        mine = like.new_zeros((slots, like.numel()))
        for slot, part in enumerate(self.share(n)):
            mine[slot] = _checked(compute(part), like).reshape(-1)
        gathered = like.new_empty((self.size, slots, like.numel()))
        with self._counted(gathered):
            dist.all_gather(list(gathered.unbind()), mine)
        return [
            gathered[rank, slot].view(like.shape)
            for rank, share in enumerate(shares(n, self.size))
            for slot in range(len(share))
        ]

    def gather(self, n: int, compute: Callable[[int], Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Padded to the largest shape: one all-gather for matrices of different sizes."""
        mine = {part: compute(part) for part in self.share(n)}
        sizes = [torch.Size(shape).numel() for shape in shapes]
        like = torch.zeros(max(sizes, default=0), device=self._device, dtype=torch.float32)

        def padded(part: int) -> Tensor:
            flat = mine[part].reshape(-1).to(like)
            return torch.nn.functional.pad(flat, (0, like.numel() - flat.numel()))

        everyone = self._all(n, padded, like)
        return [flat[:size].view(shape) for flat, size, shape in zip(everyone, sizes, shapes, strict=True)]

    @contextmanager
    def _counted(self, tensor: Tensor) -> Iterator[None]:
        """Calls, bytes and seconds; on a GPU the seconds are those of the launch alone."""
        begin = time.perf_counter()
        yield
        self.calls += 1
        self.bytes += tensor.numel() * tensor.element_size()
        self.seconds += time.perf_counter() - begin


def _checked(part: Tensor, like: Tensor) -> Tensor:
    if part.shape != like.shape or part.dtype != like.dtype:
        raise EvalkitError(
            f"a learner's part is {part.dtype} {tuple(part.shape)}, its sum {like.dtype} {tuple(like.shape)}"
        )
    return part
