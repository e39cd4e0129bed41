"""The processes that train together: torchrun's; gloo on CPUs, NCCL on GPUs; one process is the case of world 1."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from evalkit.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process's number and how many there are.  Every method is a collective: all ranks call it, in one order."""

    rank: int = 0
    world: int = 1

    def share(self, count: int) -> tuple[int, int]:
        """(first, how many) of ``count`` equal things that are this rank's; raises InputError when they do not divide."""
        if count % self.world:
            raise InputError(
                f"{count} blocks of a batch do not divide over {self.world} ranks; make run.tokens_per_step a multiple of "
                "ranks * run.accumulate * the longest sequence"
            )
        each = count // self.world
        return self.rank * each, each

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, through one flat buffer per dtype."""
        if self.world == 1:
            return
        by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
        for t in tensors:
            by_dtype.setdefault(t.dtype, []).append(t)
        for group in by_dtype.values():
            flat = torch.cat([t.flatten() for t in group])
            dist.all_reduce(flat)
            flat /= self.world
            for t, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
                t.copy_(part.view_as(t))

    def same(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by rank 0's."""
        if self.world > 1:
            for t in tensors:
                dist.broadcast(t, 0)

    def shared(self, stack: torch.Tensor, work: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """work(stack [n, ...]) of the same shape, each rank doing n / world of it; the same bits on all ranks."""
        if self.world == 1:
            return work(stack)
        each = -(-len(stack) // self.world)
        padded = torch.cat((stack, stack.new_zeros(each * self.world - len(stack), *stack.shape[1:])))
        mine = work(padded[self.rank * each : (self.rank + 1) * each]).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(parts, mine)
        return torch.cat(parts)[: len(stack)]

    def agree(self, value: float, device: torch.device) -> float:
        """Rank 0's value, on all: clocks differ, and a step count that differs is a dead lock."""
        if self.world == 1:
            return value
        cell = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(cell, 0)
        return float(cell)

    def total(self, value: float, device: torch.device) -> float:
        """fsum over the ranks, in rank order."""
        if self.world == 1:
            return value
        cells = [torch.zeros(1, dtype=torch.float64, device=device) for _ in range(self.world)]
        dist.all_gather(cells, torch.tensor([value], dtype=torch.float64, device=device))
        return math.fsum(float(c) for c in cells)

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the process group; nothing when there is none."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


ALONE = Ranks()


def join(device: torch.device) -> tuple[Ranks, torch.device]:
    """Read torchrun's environment; without it this process is alone.  A rank on CUDA takes the GPU of its local number."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE, device
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"local rank {local} has no GPU, torch sees {torch.cuda.device_count()}; start torchrun with "
                "--nproc-per-node at most that"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world)
    return Ranks(rank, world), device
