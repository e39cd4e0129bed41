"""Which parameters does a config have, and how large are they?  Names and shapes without building the model.

The artifact reader compares a file's tensors with these before it takes memory; a test compares them with the model's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.config import GPTConfig

Shapes = dict[str, tuple[int, ...]]


def shapes(config: GPTConfig) -> Shapes:
    """Shape of every parameter by name."""
    found: Shapes = {"embed.weight": (config.vocab_size, config.width)}
    found |= _inputs(config)
    for layer in range(config.layers):
        found |= {f"blocks.{layer}.{name}": shape for name, shape in _block(config, layer).items()}
    if config.unet:
        found |= {"unet.gate": (skips(config), config.width), "unet.weight": (skips(config), config.width)}
    if not config.tied:
        found["lm_head.weight"] = (config.vocab_size, config.width)
    return found


def skips(config: GPTConfig) -> int:
    """U-Net skips: one for each executed layer of the first half, the loop included."""
    return len(config.order()) // 2


def parameter_count(config: GPTConfig) -> int:
    total = 0
    for shape in config.shapes().values():
        size = 1
        for n in shape:
            size *= n
        total += size
    return total


def _inputs(config: GPTConfig) -> Shapes:
    """What stands beside the embedding: smear, hashed n-grams, value embeddings."""
    found: Shapes = {}
    if config.smear:
        found |= {"smear.lam": (1,), "smear.weight": (config.gate_dims,)}
    for name in ("bigram", "skipgram"):
        buckets, dim = getattr(config, f"{name}_buckets"), getattr(config, f"{name}_dim")
        if buckets:
            found |= {f"{name}.table.weight": (buckets, dim), f"{name}.proj.weight": (config.width, dim)}
            found[f"{name}.scale"] = (1,)
    if config.engram_buckets:
        found |= {
            "engram.table.weight": (4 * config.engram_buckets, config.engram_dim),
            "engram.proj.weight": (config.width, 4 * config.engram_dim),
            "engram.gate": (config.gate_dims,),
        }
    if config.value_embeds:
        found |= {
            "values.table.weight": (config.vocab_size, config.value_embed_dim),
            "values.proj.weight": (config.kv_width, config.value_embed_dim),
        }
    return found


def _block(config: GPTConfig, layer: int) -> Shapes:
    d, hidden, kv = config.width, config.mlp_ratio * config.width, config.kv_width
    found: Shapes = {"attn_scale": (d,), "mlp_scale": (d,), "attn.q_gain": (config.heads,)}
    found |= {f"attn.{m}.weight": s for m, s in (("q", (d, d)), ("k", (kv, d)), ("v", (kv, d)), ("out", (d, d)))}
    found |= {"mlp.up.weight": (hidden, d), "mlp.down.weight": (d, hidden)}
    two_lanes = config.parallel == "lanes" and layer >= config.parallel_from
    optional: list[tuple[bool, str, tuple[int, ...]]] = [
        (config.resid_mix, "mix", (2, d)),
        (config.resid_lambdas and not two_lanes, "lambdas", (2,)),
        (two_lanes, "lanes", (2, 3)),
        (config.head_gate, "attn.gate", (config.heads, config.gate_dims)),
        (config.value_residual and layer > 0, "attn.v_mix", (1,)),
        (layer >= config.layers - config.value_embeds, "attn.v_scale", (1,)),
    ]
    return found | {name: shape for there, name, shape in optional if there}
