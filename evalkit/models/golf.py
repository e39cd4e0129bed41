"""Parameter Golf checkpoints: the field's baseline GPT, recognised from its tensors.

Files: ``.int8.ptz`` (zlib over a torch archive, format ``int8_clean_per_row_v1``) and plain state dicts ``.pt``.
Both are read with ``weights_only=True``: nothing in them is executed.  Heads, widths and layers show in the tensors;
softcap, RoPE base and MLP activation do not, and are options (or stand in a ``.json`` beside the file).
Architecture: openai/parameter-golf, train_gpt.py (MIT).
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.errors import InputError, nearest
from evalkit.models.attention import banded_attention
from evalkit.models.fingerprint import state_fingerprint
from evalkit.settings import make_settings

ACTIVATIONS = {
    "relu^2": lambda z: torch.relu(z).square(),
    "leaky^2": lambda z: F.leaky_relu(z, 0.5).square(),
    "relu^3": lambda z: torch.relu(z) ** 3,
    "gelu": F.gelu,
}


class GolfOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the tensors do not show."""

    softcap: float = 30.0
    rope_base: float = 10000.0
    mlp: str = "relu^2"
    """One of relu^2 (the baseline), relu^3, leaky^2, gelu."""

    def __post_init__(self) -> None:
        if self.mlp not in ACTIVATIONS:
            raise InputError(f"option mlp: no activation is called '{self.mlp}'{nearest(self.mlp, ACTIVATIONS)}")
        if self.softcap <= 0 or self.rope_base <= 0:
            raise InputError(f"softcap and rope_base must be positive, got {self.softcap} and {self.rope_base}")


class GolfAttention(nn.Module):
    """Grouped-query attention with normalised queries and keys, half-split RoPE and a gain per head."""

    def __init__(self, width: int, heads: int, kv_heads: int, rope_base: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_k = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.c_v = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.q_gain = nn.Parameter(torch.ones(heads))
        exponent = torch.arange(0, self.head_width, 2, dtype=torch.float32) / self.head_width
        self.register_buffer("inv_freq", 1.0 / (rope_base**exponent), persistent=False)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angle = torch.outer(positions.to(torch.float32), self.inv_freq)  # type: ignore[arg-type]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., L, W] -> q [..., H, L, D] with its gain, k and v [..., G, L, D]; nothing rotated yet."""
        lead = x.shape[:-1]
        q = self.c_q(x).view(*lead, self.heads, self.head_width).transpose(-3, -2)
        k = self.c_k(x).view(*lead, self.kv_heads, self.head_width).transpose(-3, -2)
        v = self.c_v(x).view(*lead, self.kv_heads, self.head_width).transpose(-3, -2)
        q = F.rms_norm(q, (self.head_width,)) * self.q_gain[:, None, None]
        return q, F.rms_norm(k, (self.head_width,)), v

    def merge(self, y: Tensor) -> Tensor:
        y = y.transpose(-3, -2)
        return self.proj(y.reshape(*y.shape[:-2], self.heads * self.head_width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        positions = torch.arange(x.size(-2), device=x.device)
        y = F.scaled_dot_product_attention(
            self.rotate(q, positions), self.rotate(k, positions), v, is_causal=True, enable_gqa=True
        )
        return self.merge(y)

    def band(self, x: Tensor, past: Any, window: int) -> tuple[Tensor, Any]:
        q, k, v = self.project(x)
        y, past = banded_attention(q, k, v, past, window, self.rotate)
        return self.merge(y), past


class GolfMLP(nn.Module):
    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc = nn.Linear(width, hidden, bias=False)
        self.proj = nn.Linear(hidden, width, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(ACTIVATIONS[self.activation](self.fc(x)))


class GolfBlock(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, options: GolfOptions) -> None:
        super().__init__()
        self.attn = GolfAttention(width, heads, kv_heads, options.rope_base)
        self.mlp = GolfMLP(width, hidden, options.mlp)
        self.attn_scale = nn.Parameter(torch.ones(width))
        self.mlp_scale = nn.Parameter(torch.ones(width))
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(width), torch.zeros(width))))

    def forward(self, x: Tensor, x0: Tensor, past: Any = None, window: int = 0) -> tuple[Tensor, Any]:
        """``window`` 0: plain causal attention over x; else the band, continuing ``past``."""
        x = self.resid_mix[0] * x + self.resid_mix[1] * x0
        normed = F.rms_norm(x, (x.size(-1),))
        y, past = self.attn.band(normed, past, window) if window else (self.attn(normed), None)
        x = x + self.attn_scale * y
        return x + self.mlp_scale * self.mlp(F.rms_norm(x, (x.size(-1),))), past


class GolfGPT(nn.Module):
    """The baseline: residual mix with the embedding, U-Net skips, tied or free head, tanh softcap."""

    can: ClassVar[frozenset[str]] = frozenset({"banded", "hidden", "split", "parameters"})
    max_seq_len = None
    tokenizer_model = None

    def __init__(self, shape: dict[str, int], options: GolfOptions, tied: bool) -> None:
        super().__init__()
        width, layers = shape["width"], shape["layers"]
        self.vocab_size, self.softcap = shape["vocab"], options.softcap
        self.encoder_layers = layers // 2
        self.tok_emb = nn.Embedding(shape["vocab"], width)
        self.skip_weights = nn.Parameter(torch.ones(self.encoder_layers, width))
        self.blocks = nn.ModuleList(
            GolfBlock(width, shape["heads"], shape["kv_heads"], shape["hidden"], options) for _ in range(layers)
        )
        self.lm_head = None if tied else nn.Linear(width, shape["vocab"], bias=False)
        self.fingerprint = ""

    @property
    def module(self) -> nn.Module:
        return self

    @property
    def device(self) -> torch.device:
        return self.tok_emb.weight.device

    def _trunk(self, ids: Tensor, state: list[Any] | None, window: int) -> tuple[Tensor, list[Any]]:
        x = x0 = F.rms_norm(self.tok_emb(ids), (self.tok_emb.embedding_dim,))
        skips, pasts = [], []
        for i, block in enumerate(self.blocks):
            if i >= self.encoder_layers and skips:
                x = x + self.skip_weights[i - self.encoder_layers] * skips.pop()
            x, past = block(x, x0, state[i] if state else None, window)
            pasts.append(past)
            if i < self.encoder_layers:
                skips.append(x)
        return F.rms_norm(x, (x.size(-1),)), pasts

    def hidden(self, ids: Tensor, owners: Tensor | None = None) -> Tensor:
        """int64 [B, L] -> [B, L, D], the input of the head."""
        return self._trunk(ids, None, 0)[0]

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> logits [..., V], softcap included."""
        weight = self.tok_emb.weight if self.lm_head is None else self.lm_head.weight
        return self.softcap * torch.tanh(F.linear(hidden, weight) / self.softcap)

    def logits(self, ids: Tensor, owners: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(ids))

    forward = logits

    def banded(self, ids: Tensor, owners: Tensor | None, state: Any, window: int) -> tuple[Tensor, Any]:
        hidden, state = self._trunk(ids, state, window)
        return self.head(hidden), state


def shape_of(tensors: dict[str, Tensor], where: str) -> dict[str, int]:
    """Read the architecture from tensor shapes.  InputError when the tensors are not this family's."""
    try:
        vocab, width = tensors["tok_emb.weight"].shape
        layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        heads = tensors["blocks.0.attn.q_gain"].shape[0]
        kv_width = tensors["blocks.0.attn.c_k.weight"].shape[0]
        hidden = tensors["blocks.0.mlp.fc.weight"].shape[0]
    except (KeyError, ValueError) as missing:
        raise InputError(f"{where}: not a baseline GPT checkpoint, tensor {missing} is missing") from None
    if heads == 0 or width % heads or kv_width % (width // heads):
        raise InputError(
            f"{where}: {heads} heads do not divide width {width}, or key width {kv_width} is not whole heads"
        )
    kv_heads = kv_width // (width // heads)
    return {"vocab": vocab, "width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}


def build(tensors: dict[str, Tensor], options: dict[str, Any], where: str) -> GolfGPT:
    """State dict (any float dtype) -> float32 model.  Shapes must match exactly; unknown tensors are refused."""
    settings = make_settings(GolfOptions, options, f"checkpoint {where}")
    model = GolfGPT(shape_of(tensors, where), settings, tied="lm_head.weight" not in tensors)
    own = model.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        side = "misses" if name in own else "has the unknown"
        raise InputError(f"{where}: the checkpoint {side} tensor '{name}', so it is not the baseline architecture")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(f"{where}: tensor '{name}' is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
        if not torch.isfinite(tensor.float()).all():
            raise InputError(f"{where}: tensor '{name}' has NaN or infinite weights, the checkpoint is damaged")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    model.fingerprint = state_fingerprint(tensors, repr(settings))
    return model.eval().requires_grad_(False)
