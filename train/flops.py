"""The arithmetic of a training token, and how much of the machine's a run uses (MFU)."""

from __future__ import annotations

from evalkit.budget.hardware import known_gpu
from evalkit.models.ek.config import GPTConfig


def flops_per_token(config: GPTConfig, seq_len: int, looping: bool = True) -> float:
    """Forward and backward of one token: 6 per executed weight of a matrix, 6 L D per executed attention (causal)."""
    d, kv, hidden = config.width, config.kv_width, config.mlp_ratio * config.width
    layer = 2 * d * d + 2 * d * kv + 2 * d * hidden
    executed = len(config.order(looping))
    beside = config.vocab_size * d + d * (config.bigram_buckets > 0) * config.bigram_dim
    beside += d * (config.skipgram_buckets > 0) * config.skipgram_dim
    beside += d * (config.engram_buckets > 0) * 4 * config.engram_dim
    beside += kv * (config.value_embeds > 0) * config.value_embed_dim
    return 6.0 * (executed * layer + beside) + 6.0 * executed * seq_len * d


def peak_flops(device_name: str, precision: str) -> float | None:
    """Peak FLOP/s of a GPU in bf16, None where no data sheet is known here (every CPU)."""
    if precision != "bf16":
        return None
    gpu = known_gpu(device_name)
    return gpu and gpu.bfloat16
