"""The objective with any of its switches on: complementary training, the token after next, CROWN-Q, and QAT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from evalkit.models.ek.model import GPT
from evalkit.stream.shard import UInt16 as Tokens
from evalkit.train.objective import Moment, Objective
from evalkit.train.recipe import Loss
from evalkit.train.switches.complementary import bigram_probabilities
from evalkit.train.switches.crown_q import crown_q
from evalkit.train.switches.mtp import NextNext
from evalkit.train.switches.qat import QuantAware


class Helped(Objective):
    """loss = CE (weighted) + mtp * CE of the token after next + CROWN-Q, with fake-quantised weights when QAT is on."""

    def __init__(self, model: GPT, loss: Loss, bf16: bool, tokens: Tokens | None) -> None:
        super().__init__(model, bf16)
        self.settings = loss
        device = model.embed.weight.device
        self.mtp = NextNext(model.config.width).to(device) if loss.mtp else None
        self.qat = QuantAware(loss) if loss.qat else None
        self.easy: torch.Tensor | None = None
        if loss.complementary:
            assert tokens is not None
            self.easy = bigram_probabilities(tokens, model.config.vocab_size).to(device)

    @property
    def qat_started(self) -> int | None:  # type: ignore[override]
        return None if self.qat is None else self.qat.started

    @qat_started.setter
    def qat_started(self, step: int | None) -> None:
        if self.qat is not None:
            self.qat.started = step

    def parameters(self) -> dict[str, nn.Parameter]:
        return {} if self.mtp is None else {f"mtp.{n}": p for n, p in self.mtp.named_parameters()}

    def __call__(self, batch: torch.Tensor, moment: Moment) -> tuple[torch.Tensor, torch.Tensor]:
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
