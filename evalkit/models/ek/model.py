"""The base model: one forward, used by training, evaluation and test-time training alike.

Shape legend: B windows, L positions, D width, V vocabulary, H query heads, K key/value heads, hd head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.config import GPTConfig, skips
from evalkit.models.ek.parts.attention import rms_norm
from evalkit.models.ek.parts.block import Block, Pass
from evalkit.models.ek.parts.reach import Banded, Causal, Reach
from evalkit.models.ek.parts.smear import Smear
from evalkit.models.ek.parts.unet import Skips
from evalkit.models.ek.switches import Switches


@dataclass(frozen=True)
class BandState:
    """What a banded pass carries between calls.

    Per executed layer the last keys and values, and of the last tokens the raw embedding (one) and the ids (two).
    """

    window: int
    kept: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    before: torch.Tensor | None
    ids: torch.Tensor | None = None


class GPT(nn.Module):
    """The base model.  ``forward(ids)`` = ``head(hidden(ids))`` = logits, row i for token i + 1 given tokens 0..i."""

    looping: bool
    """Whether layers are replayed: from the start, unless a training run turns it on later."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config.check()
        self.looping = config.loop_passes > 1
        self.order_once, self.order_looped = config.order(looping=False), config.order()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.smear = Smear(config) if config.smear else None
        self.switches = Switches(config)
        for name, part in self.switches.parts.items():
            self.add_module(name, part)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.unet = Skips(skips(config), config.width) if config.unet else None
        self.lm_head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Embedding std 0.005, orthogonal inputs, zero outputs: at the start the logits are the embedding's own."""
        nn.init.normal_(self.embed.weight, std=0.005)
        for name, weight in self.named_parameters():
            if name.endswith(("attn.out.weight", "mlp.down.weight")):
                nn.init.zeros_(weight)
            elif name.startswith("blocks.") and name.endswith(".weight"):
                nn.init.orthogonal_(weight)
        self.switches.init_weights()
        if self.lm_head is not None:
            nn.init.normal_(self.lm_head.weight, std=0.005)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, L] -> logits [B, L, V]"""
        return self.head(self.hidden(ids))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, L] -> [B, L, D], the input of :meth:`head`"""
        return self._run(ids, self.embed(ids), None, Causal(self.config, ids.shape[1], ids.device))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., D] -> logits [..., V], softcap included where the config has one"""
        cap = self.config.softcap
        logits = F.linear(hidden, self.embed.weight if self.lm_head is None else self.lm_head.weight)
        if not self.config.cap_logits:
            return logits
        if logits.requires_grad:
            return cap * torch.tanh(logits / cap)
        return logits.div_(cap).tanh_().mul_(cap)

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
        return (rows[0] if len(rows) == 1 else torch.cat(rows)), state

    def _band_block(self, ids: torch.Tensor, state: BandState | None, window: int) -> tuple[torch.Tensor, BandState]:
        if state is not None and state.window != window:
            raise ValueError(f"the state was made for a band of {state.window} tokens, not {window}")
        raw = self.embed(ids)
        reach = Banded(self.config, window, list(state.kept) if state else self.nothing_kept(raw), ids.shape[1])
        past = state.ids if state else None
        hidden = self._run(ids, raw, state.before if state else None, reach, past)
        last = (ids if past is None else torch.cat((past, ids), dim=1))[:, -self.switches.reach :]
        return hidden, BandState(window, tuple(reach.kept), raw[:, -1:], last if self.switches.reach else None)

    def nothing_kept(self, like: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of no tokens, one pair for each executed layer."""
        empty = like.new_zeros(like.shape[0], self.config.kv_heads, 0, self.config.head_dim)
        return [(empty, empty)] * len(self.config.order(self.looping))

    def _run(
        self,
        ids: torch.Tensor,
        raw: torch.Tensor,
        before: torch.Tensor | None,
        reach: Reach,
        past: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The one forward: raw embeddings [B, L, D] of ids to the final norm's output.

        before: raw embedding of the token left of the call; past: ids left of it, for the switches.
        """
        x = raw if self.smear is None else self.smear(raw, ids, before)
        x = rms_norm(self.switches.inputs(x, ids, past))
        shared = Pass(x, reach, self.switches.token_values(ids))
        return rms_norm(self._through(x, shared))

    def _through(self, x: torch.Tensor, shared: Pass) -> torch.Tensor:
        """All executed layers: skips from the first half to the second, two lanes where the config asks for them."""
        order = self.order_looped if self.looping else self.order_once
        half = len(order) // 2
        kept: list[torch.Tensor] = []
        lane: torch.Tensor | None = None
        for slot, layer in enumerate(order):
            block: Block = self.blocks[layer]  # type: ignore[assignment]
            if self.unet is not None and slot >= half and kept:
                x = self.unet(slot - half, x, kept.pop())
            if block.lanes is None:
                x = block(x, shared, slot)
            else:
                x, lane = block.two_lanes(x, x if lane is None else lane, shared, slot)
            if self.unet is not None and slot < half:
                kept.append(x)
        return x if lane is None else (x + lane) / 2
