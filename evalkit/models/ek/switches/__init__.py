"""Measured dead ends of the network, off in every recipe: hashed n-grams and value embeddings, each with its evidence.

The reader of artifacts must know them, so they stand here and not in :mod:`evalkit.train.switches`.  The model calls
them in three places: where it is built, at the raw embeddings, and at the values.
"""

from __future__ import annotations

import torch
from torch import nn

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.switches.hashes import hash_parts
from evalkit.models.ek.switches.values import ValueEmbedding

NEIGHBOURS = 2
"""Tokens left of a call that the hashed n-grams may look at."""


class Switches:
    """What the config turns on.  ``parts``: modules by the name that their parameters carry in the model."""

    def __init__(self, config: GPTConfig) -> None:
        self.hashes = hash_parts(config)
        self.values = ValueEmbedding(config) if config.value_embeds else None
        self.parts: dict[str, nn.Module] = self.hashes | ({"values": self.values} if self.values is not None else {})
        self.reach = NEIGHBOURS if self.hashes else 0
        """Tokens before a call that :meth:`inputs` asks for."""

    def init_weights(self) -> None:
        """The parts change no logit at the start, yet never have two zero factors in a row."""
        for part in self.hashes.values():
            nn.init.zeros_(part.get_parameter("table.weight"))
            nn.init.orthogonal_(part.get_parameter("proj.weight"))
        if self.values is not None:
            nn.init.normal_(self.values.table.weight, std=0.01)
            nn.init.zeros_(self.values.proj.weight)

    def inputs(self, x: torch.Tensor, ids: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
        """Raw embeddings [B, L, D] of ids [B, L] with the hashed n-grams added; ``past``: ids before them."""
        for part in self.hashes.values():
            x = part(x, ids, past)
        return x

    def token_values(self, ids: torch.Tensor) -> torch.Tensor | None:
        """[B, K, L, hd] to add to the values of the last layers, or None."""
        return None if self.values is None else self.values(ids)
