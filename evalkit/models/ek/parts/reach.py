"""Which keys a query reaches: plain causal windows, or a causal band whose keys outlive the call.

A reach is called once per executed layer (``slot``) with unrotated q [B, H, L, hd] and k, v [B, K, L, hd], and returns
y [B, H, L, hd].  It is the only part in which a training step, an evaluation window and a banded pass differ.
"""

from __future__ import annotations

from typing import Protocol

import torch

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.parts.kernel import attend
from evalkit.models.ek.parts.rotary import rotary_table, rotate

TILE = 128
"""Queries at a time on a CPU, each tile against the keys of its own band: 512 queries against 1,023 keys leave half of the
products masked out.  0.86 of the forward's time (512 is 1, 256 0.88, 64 0.84); logits move by 8e-5 at most, in float32."""


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
        self.tile = block
        if device.type == "cpu":  # torch would make numbers of the mask in every layer
            self.tile = TILE
            self.mask = torch.zeros(self.mask.shape).masked_fill_(~self.mask, -torch.inf)

    def __call__(self, slot: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k = torch.cat((self.kept[slot][0], k), dim=2)
        v = torch.cat((self.kept[slot][1], v), dim=2)
        keep = max(0, k.shape[2] - (self.window - 1))
        self.kept[slot] = (k[:, :, keep:], v[:, :, keep:])
        q, k = rotate(q, self.cos[self.past :], self.sin[self.past :]), rotate(k, self.cos, self.sin)
        mask = self.mask if self.mask.dtype == torch.bool else self.mask.to(q.dtype)
        if self.tile >= q.shape[2]:
            return attend(q, k, v, mask)
        tiles = []
        for begin in range(0, q.shape[2], self.tile):
            end = min(begin + self.tile, q.shape[2])
            keys = slice(max(0, self.past + begin - self.window + 1), self.past + end)
            tiles.append(attend(q[:, :, begin:end], k[:, :, keys], v[:, :, keys], mask[begin:end, keys]))
        return torch.cat(tiles, dim=2)
