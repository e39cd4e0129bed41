"""One rank of three: GroupRanks against Solo.  Started by test_processes.py under torchrun."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from evalkit.adapters.learners.ranks import SOLO
from evalkit.harness.reduce import GroupRanks


def main() -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    exact, fast = GroupRanks(rank, size, True), GroupRanks(rank, size, False)
    for n in (0, 1, 2, 3, 7, 8):
        parts = [torch.randn(33, generator=torch.Generator().manual_seed(100 * n + i)) * 10.0**i for i in range(n)]
        asked: list[int] = []

        def compute(i: int, parts: list[torch.Tensor] = parts, asked: list[int] = asked) -> torch.Tensor:
            asked.append(i)
            return parts[i]

        alone = SOLO.sum(n, lambda i, parts=parts: parts[i], torch.zeros(33))
        assert torch.equal(exact.sum(n, compute, torch.zeros(33)), alone)
        assert asked == list(exact.share(n))
        torch.testing.assert_close(fast.sum(n, compute, torch.zeros(33)), alone, rtol=1e-4, atol=1e-4)
        shapes = [(3, i + 1) for i in range(n)]
        found = exact.gather(n, lambda i: torch.full((3, i + 1), float(i)), shapes)
        assert [tuple(t.shape) for t in found] == shapes
        assert all(bool((t == i).all()) for i, t in enumerate(found))
    assert sorted(i for r in range(size) for i in GroupRanks(r, size, True).share(8)) == list(range(8))
    print(f"agreed-{os.environ['RANK']}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
