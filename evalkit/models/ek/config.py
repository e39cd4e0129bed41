"""The shape of the base model: a frozen, strict struct that travels in the artifact's header."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from evalkit.errors import InputError


class GPTConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Architecture of :class:`evalkit.models.ek.model.GPT`.  Each switch has its evidence beside it (PR: openai/parameter-golf).

    A field that is added later is off by default, so that headers of older artifacts keep their meaning.
    """

    vocab_size: int = 2048
    bos_id: int = 1
    layers: int = 5
    width: int = 192
    head_dim: int = 64
    """SDPA on a CPU is slow below 64."""
    kv_heads: int = 1
    """Key/value heads, shared by groups of query heads (GQA)."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over ``width``; LeakyReLU(0.5) squared in between."""
    max_seq_len: int = 512
    """Longest window it was trained on, in tokens."""
    rope_dims: int = 16
    """Rotated dims of each head (25 %); the rest carry no position.  PR #315."""
    rope_base: float = 10_000.0
    qk_gain: float = 2.0
    """Initial learned gain of the normalised query; 2 was best for short runs, 4 to 5.25 for 5 k steps."""
    softcap: float = 30.0
    """Logits are softcap * tanh(z / softcap)."""
    xsa: bool = True
    """Take the token's own value direction out of the attention output; about -0.06 BPB at 0.85 M parameters."""
    value_residual: bool = True
    """v += sigmoid(a) * v of layer 0; about -0.02 BPB at 500 steps, nothing at 5 k steps (PR #1218, #2068)."""
    smear: bool = True
    """SmearGate v2 with BOS mask (PR #1667, #1851)."""
    head_gate: bool = True
    """Sparse per-head output gate read from the first ``gate_dims`` channels (PR #1787)."""
    gate_dims: int = 12
    gate_scale: float = 1.0

    cap_logits: bool = True
    """Off leaves the logits as they are."""
    qk_norm: bool = True
    """RMS-normalise queries and keys over the head; without it set ``qk_gain`` to 1."""
    mlp_slope: float = 0.5
    """Slope of the leaky ReLU below zero; 0 is relu squared.  -0.0021 to -0.003 BPB (PR #549); 0.3 is equal."""
    xsa_last: int = 0
    """XSA on the last n layers only; 0 is all.  3 layers -0.002, 11 of 11 in every record since PR #1019."""
    norm_scale: bool = True
    """Scale what layer l reads by 1 / sqrt(l + 1); with partial RoPE -0.0023 (PR #315)."""
    resid_mix: bool = True
    """Each layer reads m0 * x + m1 * x0 per channel, x0 the normed embedding (in the field's baseline)."""
    resid_lambdas: bool = False
    """A learned factor on the residual before each branch adds to it (modded-nanogpt); no isolated figure."""
    tied: bool = True
    """The head is the embedding.  Untying helps the speedrun, and costs 7 MB of 16 at 8,192 tokens."""
    unet: bool = False
    """Gated skips from the first half of the executed layers to the second; -0.001, nothing at 4 layers."""
    parallel: Literal["", "lanes", "sum"] = ""
    """Attention and MLP side by side: "lanes" keeps two residual streams (PR #1204, -0.0022), "sum" is GPT-J's."""
    parallel_from: int = 0
    """First layer of ``parallel``."""
    loop_first: int = 0
    loop_last: int = 0
    """Layers loop_first..loop_last are run ``loop_passes`` times with shared weights."""
    loop_passes: int = 1
    """1 is no recurrence.  -0.003 (4-5, PR #1204) and -0.0012 (3-5) at 5 k steps, +0.025 when always on (PR #363)."""
    value_embeds: int = 0
    """Last n layers whose values get a learned vector of the token itself; about -0.001, removed in PR #1394."""
    value_embed_dim: int = 128
    bigram_buckets: int = 0
    """BigramHash rows, 0 for none: -0.0009 to -0.002 at 1,024 tokens, nothing from 4,096 on (PR #1218)."""
    bigram_dim: int = 64
    skipgram_buckets: int = 0
    """The same over tokens t and t - 2; no evidence of a gain in any record."""
    skipgram_dim: int = 64
    engram_buckets: int = 0
    """EngramLite: two hashes of the last two and three tokens each, gated; negative at 16 MB (PR #1205, #1369)."""
    engram_dim: int = 32

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    def order(self, looping: bool = True) -> list[int]:
        """Layers in the order of their execution; the loop's layers once when it is not (yet) ``looping``."""
        first, last = self.loop_first, self.loop_last
        passes = self.loop_passes if looping else 1
        return [*range(first), *list(range(first, last + 1)) * passes, *range(last + 1, self.layers)]

    def check(self) -> GPTConfig:
        """Return self; raise InputError when the shape cannot be built."""
        self._check_sizes()
        if self.width % self.head_dim or self.heads % self.kv_heads:
            raise InputError(
                f"width {self.width} must be whole heads of {self.head_dim}, and {self.heads} heads whole groups of "
                f"{self.kv_heads}; mend [model] width, head_dim or kv_heads"
            )
        if not (0 < self.rope_dims <= self.head_dim and self.rope_dims % 2 == 0 and 0 < self.gate_dims <= self.width):
            raise InputError(
                f"rope_dims {self.rope_dims} must be even and at most {self.head_dim}, gate_dims {self.gate_dims} at most "
                f"{self.width}; mend the [model] table"
            )
        if not all(math.isfinite(x) and x > 0 for x in (self.rope_base, self.softcap, self.gate_scale)):
            raise InputError("rope_base, softcap and gate_scale must be positive numbers; mend the [model] table")
        if not 0 <= self.mlp_slope <= 1:
            raise InputError(f"mlp_slope {self.mlp_slope} must lie in 0..1; mend the [model] table")
        if not 0 <= self.bos_id < self.vocab_size:
            raise InputError(
                f"bos_id {self.bos_id} is outside the vocabulary of {self.vocab_size}; mend [model] bos_id"
            )
        self._check_layers()
        return self

    def _check_sizes(self) -> None:
        positive = (
            self.vocab_size,
            self.layers,
            self.width,
            self.head_dim,
            self.kv_heads,
            self.mlp_ratio,
            self.max_seq_len,
            self.loop_passes,
            self.value_embed_dim,
            self.bigram_dim,
            self.skipgram_dim,
            self.engram_dim,
        )
        optional = (self.bigram_buckets, self.skipgram_buckets, self.engram_buckets)
        if min(positive) < 1 or min(optional) < 0 or max(*positive, *optional) > 1 << 20 or self.layers > 1024:
            raise InputError(
                f"model sizes must lie in 1..{1 << 20}, with at most 1024 layers, got {positive} and buckets {optional}; "
                "mend [model]"
            )
        if 1 in optional:
            raise InputError(f"a hash table needs 2 rows or none, got buckets {optional}; mend [model]")

    def _check_layers(self) -> None:
        """Switches that name layers must name layers that exist, and the loop must end before the lanes begin."""
        # Counted, not built: a hostile header may ask for a million passes over a thousand layers.
        executed = self.layers + (self.loop_last - self.loop_first + 1) * (self.loop_passes - 1)
        if not 0 <= self.loop_first <= self.loop_last < self.layers or executed > 1024:
            raise InputError(
                f"the loop over layers {self.loop_first}..{self.loop_last}, {self.loop_passes} times, does not fit "
                f"{self.layers} layers (at most 1024 executed); mend [model] loop_first, loop_last or loop_passes"
            )
        if not (0 <= self.xsa_last <= self.layers and 0 <= self.value_embeds <= self.layers):
            raise InputError(
                f"xsa_last {self.xsa_last} and value_embeds {self.value_embeds} count layers of {self.layers}; mend [model]"
            )
        if self.parallel and not 0 <= self.parallel_from < self.layers:
            raise InputError(f"parallel_from {self.parallel_from} is no layer of {self.layers}; mend [model]")
        if self.parallel == "lanes" and self.loop_passes > 1 and self.parallel_from <= self.loop_last:
            raise InputError(
                f"lanes begin at layer {self.parallel_from}, the loop ends at {self.loop_last}; mend [model] parallel_from"
            )


Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: GPTConfig) -> Shapes:
    """Shape of every parameter by name, without building the model; the artifact reader trusts these, a test compares them
    with the model's."""
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
    for shape in parameter_shapes(config).values():
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
