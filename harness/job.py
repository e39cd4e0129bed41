"""This process in the job: rank, device, threads, process groups, heartbeat.

Two groups: the default one for gradients (NCCL on GPUs, gloo on CPUs), whose collectives time out, and a gloo group for
messages, which waits as long as it must, because hearts are watched separately (:mod:`evalkit.harness.pulse`).
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from evalkit import _native
from evalkit.adapters.learners.ranks import SOLO
from evalkit.errors import InputError
from evalkit.harness.meet import Meeting
from evalkit.harness.pulse import Pulse
from evalkit.harness.wire import Peer
from evalkit.machine import usable_cpus

FOREVER = timedelta(days=30)


class Job:
    """One rank's view.  ``peers``: the lines to the others, on rank 0; the line to rank 0, elsewhere."""

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        *,
        deterministic: bool = True,
        hang_seconds: float = 30.0,
        stuck_seconds: float = 900.0,
        collective_seconds: float = 600.0,
    ) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.deterministic = deterministic
        self.device = choose_device(device, self.local_rank)
        self.threads = threads or threads_per_rank(self.local_size)
        self.backend = "gloo" if self.device == "cpu" or device == self.device else "cpu:gloo,cuda:nccl"
        timeout = timedelta(seconds=collective_seconds)
        meeting = Meeting(_store(), self.rank, self.size, timeout) if self.size > 1 else None
        self.pulse = Pulse(
            meeting.store if meeting else None, self.rank, self.size, hang_seconds, stuck_seconds
        ).start()
        self._control: Any = None
        self._ranks: Any = None
        self.peers: dict[int, Peer] = {}
        if meeting is not None:
            self._join(meeting.store, timeout)
            meeting.over()
        torch.set_num_threads(self.threads)
        _native.keep_large_blocks()

    def _join(self, store: Any, timeout: timedelta) -> None:
        if self.device != "cpu":
            torch.cuda.set_device(self.device)
        dist.init_process_group(self.backend, store=store, rank=self.rank, world_size=self.size, timeout=timeout)
        agreed = torch.tensor([self.threads])
        dist.broadcast(agreed, src=0)  # the last bits of a matmul may depend on it, so all ranks take rank 0's
        self.threads = int(agreed[0])
        self._control = dist.new_group(backend="gloo", timeout=FOREVER)
        others = range(1, self.size) if self.rank == 0 else (0,)
        self.peers = {rank: Peer(rank, self._control) for rank in others}

    def describe(self) -> str:
        """One line for rank 0 to print: ranks, device, backend, threads."""
        kind = "CPU" if self.device == "cpu" else torch.cuda.get_device_name(self.device)
        group = {"gloo": "gloo", "cpu:gloo,cuda:nccl": "NCCL for gradients, gloo for scalars"}[self.backend]
        return f"{self.size} ranks on {kind}, {self.threads} threads each, {group}"

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Rank 0's content, on every rank; all ranks call it."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def ranks(self) -> Any:
        """What learners get to share their steps with; SOLO in a job of one rank."""
        from evalkit.harness.reduce import GroupRanks

        if self.size == 1:
            return SOLO
        if self._ranks is None:
            self._ranks = GroupRanks(self.rank, self.size, self.deterministic, self.device)
        return self._ranks

    def traffic(self) -> dict[str, float]:
        """Bytes over this rank's lines; calls, bytes and seconds (waiting included) of the learners' collectives."""
        lines = sum(peer.bytes_in + peer.bytes_out for peer in self.peers.values())
        r = self._ranks
        calls, size, seconds = (r.calls, r.bytes, r.seconds) if r is not None else (0, 0, 0.0)
        return {
            "line_bytes": lines,
            "collectives": calls,
            "collective_bytes": size,
            "collective_seconds": round(seconds, 6),
        }

    def close(self) -> None:
        """Leave the job in good order; after this no rank is missed."""
        self.pulse.stop()
        if dist.is_initialized():
            dist.destroy_process_group()


def choose_device(wanted: str, local_rank: int) -> str:
    """'auto': this rank's GPU where there are any, else the CPU; 'cuda:1': all ranks share that one (over gloo).

    InputError when a GPU is asked for and not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and count == 0):
        return "cpu"
    if wanted.startswith("cuda:") and wanted[5:].isdigit() and int(wanted[5:]) < count:
        return wanted
    if wanted not in ("auto", "cuda"):
        raise InputError(f"--device {wanted}: not available here ({count} GPUs found); use auto, cpu or cuda")
    if local_rank >= count:
        raise InputError(
            f"rank {local_rank} of this node has no GPU: {count} found; use --nproc {max(count, 1)}, or --device cpu"
        )
    return f"cuda:{local_rank}"


def threads_per_rank(local_size: int) -> int:
    """CPUs of this process shared by the ranks of this node, at least one."""
    cpus = usable_cpus()
    return max(1, cpus // local_size)


def _store() -> Any:
    """The store that torchrun made; it may be that of an earlier attempt, see :mod:`evalkit.harness.meet`."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://")))
    return store
