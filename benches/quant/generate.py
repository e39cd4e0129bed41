"""What if no training text is at hand?  The model writes its own calibration text (PR #1019: 64 x 2048 tokens, T = 0.8)."""

from __future__ import annotations

import torch

from evalkit.models.ek.model import GPT


@torch.no_grad()
def generated(model: GPT, rows: int, seq_len: int, temperature: float = 0.8, seed: int = 0) -> torch.Tensor:
    """Sample ``rows`` texts after BOS: int64 [rows, seq_len].  Deterministic for a seed on one device and thread count."""
    device = next(model.parameters()).device
    draw = torch.Generator(device="cpu").manual_seed(seed)
    ids = torch.full((rows, 1), model.config.bos_id, dtype=torch.int64, device=device)
    while ids.shape[1] < seq_len:
        window = ids[:, -model.config.max_seq_len :]
        logits = model.head(model.hidden(window)[:, -1]).float().cpu() / temperature
        logits[:, model.config.bos_id] = -torch.inf  # one document a row
        chosen = torch.multinomial(logits.softmax(-1), 1, generator=draw)
        ids = torch.cat((ids, chosen.to(device)), dim=1)
    return ids
