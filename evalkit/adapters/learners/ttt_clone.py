"""How is a model trained without touching the user's?  A copy: with weights of its own, or sharing them.

A learner trains its copy, so ``detach`` has nothing to undo, and the base can be scored beside it from the same weights.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from evalkit.adapters.learners.ttt_head import SplitModel
from evalkit.errors import InputError, nearest

LAYER_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")


def own_copy(model: Any, owner: str) -> Any:
    """The model with weights of its own, gradients off.

    InputError behind another learner: its copy would stay as it is now, whatever that learner learns.
    """
    if "learned" in model.can:
        raise InputError(
            f"{owner}: it trains a copy of all weights, which would leave behind what the learner before it learns; put "
            f"{owner} first, or drop one of them"
        )
    copied = _frozen(copy.deepcopy(model))
    copied.can = model.can | {"learned"}
    return copied


def sharing_copy(model: Any, owner: str) -> Any:
    """The model with modules of its own that hold the *same* weights: modules can be replaced at no cost in memory.

    InputError behind a learner with more than weights (slot, low-rank terms): that would be copied as it is now.
    """
    if isinstance(model, SplitModel):
        raise InputError(
            f"{owner}: it cannot stand behind slot or another learner of low-rank terms, whose learning it would leave behind; "
            f"put {owner} before it, or drop one of them"
        )
    tensors = [*model.module.parameters(), *model.module.buffers()]
    memo: dict[int, Any] = {id(t): t for t in tensors if not t.is_inference()}
    return _frozen(copy.deepcopy(model, memo))


def _frozen(model: Any) -> Any:
    model.module.requires_grad_(False)
    model.module.eval()
    return model


def select_params(
    module: nn.Module, patterns: Sequence[str], freeze_blocks: int, owner: str
) -> dict[str, nn.Parameter]:
    """Floating parameters whose name matches a pattern (``*`` wildcards) and whose block number is not frozen.

    InputError when a pattern matches nothing or nothing is left to train.
    """
    named = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in named):
            raise InputError(f"{owner}: no parameter matches '{pattern}'{nearest(pattern, named)}")
    chosen = {n: p for n, p in named.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
    left = {n: p for n, p in chosen.items() if _block(n) is None or _block(n) >= freeze_blocks}  # type: ignore[operator]
    if not left:
        raise InputError(
            f"{owner}: nothing is left to train, {len(chosen)} parameters match and freeze_blocks={freeze_blocks} "
            "freezes them all; lower freeze_blocks or widen train"
        )
    devices = {p.device for p in left.values()}
    if len(devices) > 1:
        raise InputError(f"{owner}: the weights lie on {len(devices)} devices, training needs one")
    return left


def _block(name: str) -> int | None:
    found = LAYER_NUMBER.search(name)
    return int(found[1]) if found else None
