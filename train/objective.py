"""What does a step minimise?  Mean nats per target; with helpers of the eval stack as switches, all off by default.

Shape legend: B windows, L positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.model import GPT
from evalkit.models.ek.parts.attention import rms_norm
from evalkit.train.qat import QuantAware
from evalkit.train.recipe import Loss
from evalkit.train.shards import Tokens


@dataclass(frozen=True)
class Moment:
    """Where a step stands: progress ``f``, the learning-rate multiplier, the step number."""

    f: float
    multiplier: float
    step: int


class NextNext(nn.Module):
    """Multi-token prediction: the token after next from the same hidden row and head (+0.001 BPB or worse, facts 4.F).

    Only the trainer holds it; it is in no artifact.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.proj.weight)

    def forward(self, model: GPT, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """hidden [B, L, D] of a batch with targets [B, L] -> mean nats of targets[:, 1:]."""
        logits = model.head(rms_norm(self.proj(hidden[:, :-1])))
        return F.cross_entropy(logits.float().flatten(0, 1), targets[:, 1:].flatten())


class Objective:
    """loss = CE (weighted) + mtp * CE of the token after next + CROWN-Q, with fake-quantised weights when QAT is on."""

    def __init__(self, model: GPT, loss: Loss, bf16: bool, tokens: Tokens | None) -> None:
        self.model, self.settings, self.bf16 = model, loss, bf16
        device = model.embed.weight.device
        self.mtp = NextNext(model.config.width).to(device) if loss.mtp else None
        self.qat = QuantAware(loss) if loss.qat else None
        self.easy: torch.Tensor | None = None
        if loss.complementary:
            assert tokens is not None
            self.easy = bigram_probabilities(tokens, model.config.vocab_size).to(device)
        self.run = model.forward
        """Replaced by the compiled forward."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the model's own parameters."""
        return {} if self.mtp is None else {f"mtp.{n}": p for n, p in self.mtp.named_parameters()}

    def __call__(self, batch: torch.Tensor, moment: Moment) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 [B, L + 1] -> (what to minimise, mean nats per target)."""
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.bf16):
            logits, hidden = self._forward(batch[:, :-1], moment)
        flat, targets = logits.float().flatten(0, 1), batch[:, 1:].flatten()
        if self.easy is None:
            nats = total = F.cross_entropy(flat, targets)
        else:
            each = F.cross_entropy(flat, targets, reduction="none")
            weight = 1 - self.settings.complementary * self.easy[batch[:, :-1].flatten(), targets].float()
            nats, total = each.mean(), (weight * each).sum() / weight.sum()
        if self.mtp is not None and hidden is not None:
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.bf16):
                total = total + self.settings.mtp * self.mtp(self.model, hidden, batch[:, 1:])
        if self.settings.crown_q and moment.multiplier < 1:
            total = total + self.settings.crown_q * crown_q(self.model)
        return total, nats

    def _forward(self, ids: torch.Tensor, moment: Moment) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits, and the hidden rows when something else reads them."""
        if self.qat is not None and self.qat.active(moment.multiplier):
            return torch.func.functional_call(self.model, self.qat.weights(self.model, moment.step), (ids,)), None
        if self.mtp is not None:
            hidden = self.model.hidden(ids)
            return self.model.head(hidden), hidden
        return self.run(ids), None


def bigram_probabilities(tokens: Tokens, vocab_size: int) -> torch.Tensor:
    """float16 [V, V]: p(next | token) counted on *training* tokens, at most the first 2^26.

    Complementary training (PR #803) weighs a target by 1 - alpha * p: what a count table predicts at evaluation, the
    model need not learn.  Only pays with an n-gram expert at evaluation; the PR's own figure came from a mixer that was
    not normalised.
    """
    ids = np.asarray(tokens[: 1 << 26], dtype=np.int64)
    counts = np.bincount(ids[:-1] * vocab_size + ids[1:], minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    table = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return torch.from_numpy(table.astype(np.float16))


def crown_q(model: nn.Module) -> torch.Tensor:
    """Sum over block matrices of w^2 d^2 / 12 with d = row maximum / 15 (PR #693: -0.0015 claimed, not adopted)."""
    total = torch.zeros((), device=next(model.parameters()).device)
    for name, w in model.named_parameters():
        if name.startswith("blocks.") and name.endswith(".weight"):
            step = w.detach().abs().amax(dim=1, keepdim=True) / 15
            total = total + (w.square() * step.square()).sum() / 12
    return total
