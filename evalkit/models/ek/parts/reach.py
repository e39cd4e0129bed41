"""Which keys does a query reach?  Plain causal windows, or a causal band whose keys outlive the call.

A reach is called once per executed layer (``slot``) with unrotated q [B, H, L, hd] and k, v [B, K, L, hd], and returns
y [B, H, L, hd].  It is the only part in which a training step, an evaluation window and a banded pass differ.
"""

from __future__ import annotations

from typing import Protocol

import torch

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.parts.kernel import attend
from evalkit.models.ek.parts.rotary import rotary_table, rotate


class Reach(Protocol):
    def __call__(self, slot: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor: ...


class Causal:
    """Every token of the window reaches all tokens before it, and itself."""

    def __init__(self, config: GPTConfig, length: int, device: torch.device) -> None:
        self.cos, self.sin = rotary_table(length, config.rope_dims, config.rope_base, device)

    def __call__(self, slot: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin), v)


class Banded:
    """Every token reaches itself and the ``window - 1`` tokens before it, through the kept keys and values.

    Positions are counted from the oldest kept key, so they stay below 2 * window however long the stream is.
    ``kept`` holds one (k, v) pair per executed layer, each [B, K, <= window - 1, hd], unrotated.
    """

    def __init__(
        self, config: GPTConfig, window: int, kept: list[tuple[torch.Tensor, torch.Tensor]], block: int
    ) -> None:
        self.window, self.kept = window, kept
        past = kept[0][0].shape[2] if kept else 0
        device = kept[0][0].device if kept else torch.device("cpu")
        self.past = past
        self.cos, self.sin = rotary_table(past + block, config.rope_dims, config.rope_base, device)
        query = torch.arange(past, past + block, device=device)[:, None]
        key = torch.arange(past + block, device=device)[None, :]
        self.mask = (key <= query) & (key > query - window)

    def __call__(self, slot: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k = torch.cat((self.kept[slot][0], k), dim=2)
        v = torch.cat((self.kept[slot][1], v), dim=2)
        keep = max(0, k.shape[2] - (self.window - 1))
        self.kept[slot] = (k[:, :, keep:], v[:, :, keep:])
        q, k = rotate(q, self.cos[self.past :], self.sin[self.past :]), rotate(k, self.cos, self.sin)
        return attend(q, k, v, self.mask)
