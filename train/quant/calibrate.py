"""Statistics of the matrices' inputs: Hessians, sums of x x^T, from *training* text only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from evalkit.errors import InputError
from evalkit.models.ek.model import GPT
from evalkit.stream.tokenizer import Tokenizer


@torch.no_grad()
def hessians(model: GPT, batches: list[torch.Tensor]) -> dict[str, npt.NDArray[np.float64]]:
    """int64 [B, L] batches -> float64 [cols, cols] by weight name; the tied embedding's is that of the head's input."""
    head = "embed.weight" if model.config.tied else "lm_head.weight"
    sums: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_add_input, sums, f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for batch in batches:
            _add(sums, head, model.hidden(batch))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / len(batches)).cpu().numpy() for name, total in sums.items()}


def _add_input(sums: dict[str, torch.Tensor], name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
    _add(sums, name, args[0])


def _add(sums: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> None:
    flat = x.detach().flatten(0, -2).float()
    gram = (flat.T @ flat).double()
    sums[name] = sums[name] + gram if name in sums else gram


def text_batches(
    files: Sequence[Path], val: Sequence[Path], tokenizer: Tokenizer, tokens: int, seq_len: int, rows: int = 8
) -> list[torch.Tensor]:
    """The first ``tokens`` tokens of ``files`` as batches int64 [rows, seq_len] for :func:`hessians`.

    Raises InputError when a document of ``files`` is, exactly or nearly, one of the validation text ``val``: an artifact
    must not depend on the text it is scored on (provenance).
    """
    from evalkit.train.data.overlap import refuse
    from evalkit.train.data.write import encode_some
    from evalkit.train.text import read

    try:
        refuse(files, val)
    except InputError as fault:
        raise InputError(f"GPTQ would be calibrated on validation text: {fault}") from None
    ids = encode_some((d for f in files for d in read(f)), tokenizer, tokens)
    whole = min(tokens, len(ids)) // seq_len
    if whole < 1:
        raise InputError(f"the calibration text has {len(ids)} tokens, one row needs {seq_len}; give more text")
    windows = torch.from_numpy(ids[: whole * seq_len].astype(np.int64)).view(whole, seq_len)
    return list(windows.split(rows))
