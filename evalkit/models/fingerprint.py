"""The fingerprint of weights: a digest over names, shapes, dtypes and bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def state_fingerprint(tensors: dict[str, Tensor], extra: str = "") -> str:
    """sha256 hex over the tensors in name order, and ``extra`` (the settings that tensors do not show)."""
    import torch

    digest = hashlib.sha256(extra.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
