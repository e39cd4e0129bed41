"""The attention kernel: flash-attn 4, 3 or 2 on a GPU in half precision when importable, else torch's SDPA."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

# module, function, name; the first that imports is taken.  FA3 first on Hopper: it is the one that the records used.
FLASH = (
    ("flash_attn_interface", "flash_attn_func", "flash-attn 3"),
    ("flash_attn.cute", "flash_attn_func", "flash-attn 4"),
    ("flash_attn", "flash_attn_func", "flash-attn 2"),
)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """q [B, H, L, hd], k and v [B, K, M, hd] -> [B, H, L, hd]; causal without a ``mask`` (bool [L, M], True = seen)."""
    if mask is None and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and flash() is not None:
        return _flash(q, k, v)
    k, v = share(k, v, q.shape[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def share(k: torch.Tensor, v: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every query head its group's keys and values (a view for one KV head)."""
    group = heads // k.shape[1]
    if group == 1:
        return k, v
    if k.shape[1] == 1:
        return k.expand(-1, heads, -1, -1), v.expand(-1, heads, -1, -1)
    return k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)


@lru_cache(maxsize=1)
def flash() -> tuple[Callable[..., Any], str] | None:
    """(function, name) of the installed flash-attn, or None."""
    for module, function, name in FLASH:
        with contextlib.suppress(ImportError, AttributeError, OSError):
            return getattr(importlib.import_module(module), function), name
    return None


def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """flash-attn wants [B, L, H, hd] and shares key heads by itself; some versions return (out, log-sum-exp)."""
    found = flash()
    assert found is not None
    out = found[0](q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def attention_path(device: torch.device, precision: str) -> str:
    """The choice in words, for the log and run.json."""
    if device.type != "cuda":
        return f"torch SDPA on {device.type}"
    found = flash()
    if found is not None and precision == "bf16":
        return found[1]
    return "torch SDPA, cuDNN then FlashAttention-2"


@contextlib.contextmanager
def preferred(device: torch.device) -> Iterator[None]:
    """On a GPU try cuDNN's kernel first: 1.7 to 2.3 times torch's default on Hopper (transformers #48163)."""
    if device.type != "cuda":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield
