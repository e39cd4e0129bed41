"""What is the base model?  One forward, used by training, evaluation and test-time training alike.

Shape legend: B windows, L positions, D width, V vocabulary, H query heads, K key/value heads, hd head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from train.config import GPTConfig
from train.parts.attention import Attention, rms_norm
from train.parts.mlp import MLP
from train.parts.reach import Banded, Causal, Reach
from train.parts.smear import Smear


@dataclass(frozen=True)
class BandState:
    """What a banded pass carries between calls: per layer the last keys and values, and the last raw embedding."""

    window: int
    kept: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    before: torch.Tensor | None


class Block(nn.Module):
    """One layer: residual mix with the embedding, attention, MLP, each branch with a per-channel output scale."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_scale = (layer + 1) ** -0.5
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.mix = nn.Parameter(torch.stack((torch.ones(config.width), torch.zeros(config.width))))
        self.attn_scale = nn.Parameter(torch.ones(config.width))
        self.mlp_scale = nn.Parameter(torch.ones(config.width))

    def forward(
        self, x: torch.Tensor, x0: torch.Tensor, first_v: torch.Tensor | None, reach: Reach
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x, x0 [B, L, D] -> (x [B, L, D], this layer's own values)."""
        x = self.mix[0] * x + self.mix[1] * x0
        read, own_v = self.attn(rms_norm(x) * self.norm_scale, first_v, reach)
        x = x + self.attn_scale * read
        return x + self.mlp_scale * self.mlp(rms_norm(x) * self.norm_scale), own_v


class GPT(nn.Module):
    """The base model.  ``forward(ids)`` = ``head(hidden(ids))`` = logits, row i for token i + 1 given tokens 0..i."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config.check()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.smear = Smear(config) if config.smear else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.init_weights()

    def init_weights(self) -> None:
        """Embedding std 0.005, orthogonal inputs, zero outputs: at the start the logits are the embedding's own."""
        nn.init.normal_(self.embed.weight, std=0.005)
        for name, weight in self.named_parameters():
            if name.endswith(("attn.out.weight", "mlp.down.weight")):
                nn.init.zeros_(weight)
            elif name.startswith("blocks.") and name.endswith(".weight"):
                nn.init.orthogonal_(weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, L] -> logits [B, L, V]"""
        return self.head(self.hidden(ids))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, L] -> [B, L, D], the input of :meth:`head`"""
        return self._run(ids, self.embed(ids), None, Causal(self.config, ids.shape[1], ids.device))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., D] -> logits [..., V], softcap included"""
        cap = self.config.softcap
        return cap * torch.tanh(F.linear(hidden, self.embed.weight) / cap)

    def banded(self, ids: torch.Tensor, state: BandState | None, window: int) -> tuple[torch.Tensor, BandState]:
        """One pass with a causal band: int64 [L] continuing ``state`` -> (logits [L, V], new state).

        Each token reaches itself and the ``window - 1`` before it, in every layer, across calls.  Work goes in
        sub-blocks of ``window`` queries against fewer than 2 * window keys.
        """
        rows = []
        for at in range(0, len(ids), window):
            hidden, state = self._band_block(ids[None, at : at + window], state, window)
            rows.append(self.head(hidden)[0])
        if state is None:
            raise ValueError("banded() needs at least one token")
        return torch.cat(rows), state

    def _band_block(self, ids: torch.Tensor, state: BandState | None, window: int) -> tuple[torch.Tensor, BandState]:
        if state is not None and state.window != window:
            raise ValueError(f"the state was made for a band of {state.window} tokens, not {window}")
        raw = self.embed(ids)
        reach = Banded(self.config, window, list(state.kept) if state else self._nothing_kept(raw), ids.shape[1])
        hidden = self._run(ids, raw, state.before if state else None, reach)
        return hidden, BandState(window, tuple(reach.kept), raw[:, -1:])

    def _nothing_kept(self, like: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        empty = like.new_zeros(like.shape[0], self.config.kv_heads, 0, self.config.head_dim)
        return [(empty, empty)] * self.config.layers

    def _run(self, ids: torch.Tensor, raw: torch.Tensor, before: torch.Tensor | None, reach: Reach) -> torch.Tensor:
        """The one forward: raw embeddings [B, L, D] of ids to the final norm's output."""
        x = x0 = rms_norm(raw if self.smear is None else self.smear(raw, ids, before))
        first_v = None
        for block in self.blocks:
            x, own_v = block(x, x0, first_v, reach)
            first_v = own_v if first_v is None else first_v
        return rms_norm(x)
