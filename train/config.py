"""What shape is the base model?  A frozen, strict struct that travels in the artifact's header."""

from __future__ import annotations

import math

import msgspec

from evalkit.errors import InputError


class GPTConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Architecture of :class:`train.model.GPT`.  Evidence for each switch: the training facts named beside it."""

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

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of the model, by name and without building it; the artifact reader trusts these."""
        d, hidden, kv = self.width, self.mlp_ratio * self.width, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"embed.weight": (self.vocab_size, d)}
        if self.smear:
            shapes |= {"smear.lam": (1,), "smear.weight": (self.gate_dims,)}
        for layer in range(self.layers):
            at = f"blocks.{layer}."
            shapes |= {
                f"{at}mix": (2, d),
                f"{at}attn_scale": (d,),
                f"{at}mlp_scale": (d,),
                f"{at}attn.q_gain": (self.heads,),
            }
            shapes |= {
                f"{at}attn.{m}.weight": s for m, s in (("q", (d, d)), ("k", (kv, d)), ("v", (kv, d)), ("out", (d, d)))
            }
            shapes |= {f"{at}mlp.up.weight": (hidden, d), f"{at}mlp.down.weight": (d, hidden)}
            if self.head_gate:
                shapes[f"{at}attn.gate"] = (self.heads, self.gate_dims)
            if self.value_residual and layer > 0:
                shapes[f"{at}attn.v_mix"] = (1,)
        return shapes

    def check(self) -> GPTConfig:
        """Return self; raise InputError when the shape cannot be built."""
        sizes = (
            self.vocab_size,
            self.layers,
            self.width,
            self.head_dim,
            self.kv_heads,
            self.mlp_ratio,
            self.max_seq_len,
        )
        if min(sizes) < 1 or max(sizes) > 1 << 20 or self.layers > 1024:
            raise InputError(
                f"model sizes must lie in 1..{1 << 20}, with at most 1024 layers, got {sizes}; mend [model]"
            )
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
        if not 0 <= self.bos_id < self.vocab_size:
            raise InputError(
                f"bos_id {self.bos_id} is outside the vocabulary of {self.vocab_size}; mend [model] bos_id"
            )
        return self
