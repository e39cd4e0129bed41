"""Rotary embedding: on the first dims of a head, half-split, float32 angles."""

from __future__ import annotations

import torch


def rotary_table(length: int, dims: int, base: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (cos, sin), float32 [length, dims / 2], for positions 0..length-1."""
    rate = base ** (-torch.arange(0, dims, 2, dtype=torch.float32, device=device) / dims)
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * rate
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first 2 * cos.shape[-1] dims of x [B, H, L, hd]; the other dims pass."""
    half = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), dim=-1)
