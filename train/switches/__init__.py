"""Measured dead ends of training, one file each with its evidence.  Nothing here runs unless a recipe turns it on.

The loop calls them in two places: its objective and its averages.  Those of the network are in
:mod:`evalkit.models.ek.switches`, because the reader of artifacts must know them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from evalkit.models.ek.model import GPT
from evalkit.stream.shard import UInt16 as Tokens
from evalkit.train.averages import Average
from evalkit.train.objective import Objective
from evalkit.train.recipe import Loss, Optim
from evalkit.train.switches.lawa import Lawa
from evalkit.train.switches.loss import Helped
from evalkit.train.switches.swa import Swa


def objective(model: GPT, loss: Loss, bf16: bool, tokens: Tokens) -> Objective:
    """What a step minimises; the plain objective unless a switch of ``[loss]`` is on.  ``tokens``: the training text."""
    if loss.mtp or loss.qat or loss.complementary or loss.crown_q:
        return Helped(model, loss, bf16, tokens if loss.complementary else None)
    return Objective(model, bf16)


def averages(params: Mapping[str, nn.Parameter], settings: Optim) -> dict[str, Average]:
    """Averages of the weights beside the EMA, by name."""
    found: dict[str, Average] = {}
    if settings.swa_from < 1:
        found["swa"] = Swa(params, settings.swa_from, settings.swa_every)
    if settings.lawa_keep:
        found["lawa"] = Lawa(params, settings.lawa_keep, settings.lawa_every)
    return found
