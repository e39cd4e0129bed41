"""What the device says of itself, so that scoring need not import torch."""

from __future__ import annotations


def threads() -> int:
    """CPU threads that torch computes with."""
    import torch

    return torch.get_num_threads()


def device_name(device: str) -> str | None:
    """The GPU's name; None on a CPU."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def device_kind(device: str) -> str:
    """ "cpu", or "cuda" and the GPU's name: what decides the bits of a forward, whichever index it has."""
    name = device_name(device)
    return device if name is None else f"cuda {name}"


def device_peak_bytes(device: str) -> int | None:
    """Most device memory that torch held so far; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
