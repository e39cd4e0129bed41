"""A model of another house: rwkv.cpp's ``.bin`` files (RWKV-5.2 over bytes), opened by evalkit as a plug-in of one file.

Format 101 of rwkv.cpp, little-endian: int32 magic 0x67676d66, version, n_vocab, n_embed, n_layer, data type; then for each
parameter int32 number of dimensions, length of the key, data type, the dimensions (reversed against PyTorch's shape), the
key, the data.  Architecture: Peng et al. 2024, "Eagle and Finch" (arXiv 2404.05892), in the form of ChatRWKV v5.2.

The recurrence of one head, with w, u [N] per key channel, state S [N, N], and r, k, v [N] of token t::

    y_t = r_t (S + u k_t^T v_t)        S <- diag(w) S + k_t^T v_t

is computed a piece of up to 32 tokens at a time (matrix products inside a piece, one step of S between pieces); the plain
loop is its twin in the tests.
"""

from __future__ import annotations

import hashlib
import math
import struct
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.errors import InputError
from evalkit.settings import make_settings

MAGIC, VERSION, FLOAT32 = 0x67676D66, 101, 0
LONGEST_KEY = 256
PIECE = 32
SMALLEST = -30 * math.log(10.0)
"""Log of the smallest product of decays inside a piece: its inverse must stay far from float32's end."""
GROUP_EPS = 1e-5


class RwkvOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``--checkpoint FILE.bin:separator=10``"""

    separator: int = 0
    """The byte between documents, which no document may hold."""

    def __post_init__(self) -> None:
        if not 0 <= self.separator <= 255:
            raise InputError(f"option separator: a byte is 0 to 255, got {self.separator}")


class RwkvDoor:
    """Registered as the entry point ``rwkv`` of the group ``evalkit.models``."""

    name: ClassVar[str] = "rwkv"
    summary: ClassVar[str] = "rwkv.cpp file (.bin, float32) of a byte-level RWKV-5.2"

    @staticmethod
    def sniff(path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == struct.pack("<i", MAGIC)

    @staticmethod
    def load(path: str | Path, *, device: Any = "cpu", **options: Any) -> Rwkv:
        """Read, check, build.  ``options``: see RwkvOptions.  InputError when the file is not exactly as described."""
        settings = make_settings(RwkvOptions, options, "the rwkv door")
        data = Path(path).read_bytes()
        tensors, layers = read_bin(data, Path(path).name)
        model = Rwkv(tensors, layers, Path(path).name)
        model.fingerprint = hashlib.sha256(data).hexdigest()
        model.tokenizer_model = f"bytes:separator={settings.separator}".encode()
        return model.to(device).eval()


def read_bin(data: bytes, where: str) -> tuple[dict[str, Tensor], int]:
    """(name -> float32 tensor in PyTorch's shape, number of layers); InputError with the offset of what is wrong."""

    def numbers(count: int, what: str) -> tuple[int, ...]:
        nonlocal at
        if len(data) - at < 4 * count:
            raise InputError(
                f"{where}: the file ends at byte {len(data):,} inside {what} at byte {at:,}; fetch it again"
            )
        at += 4 * count
        return struct.unpack_from(f"<{count}i", data, at - 4 * count)

    at = 0
    magic, version, vocab, width, layers, kind = numbers(6, "the header")
    if (magic, version, kind) != (MAGIC, VERSION, FLOAT32):
        raise InputError(
            f"{where}: magic {magic:#x}, version {version}, data type {kind}; only {MAGIC:#x}, {VERSION} and {FLOAT32} "
            "(float32) are opened: convert it with rwkv.cpp to FP32"
        )
    tensors = dict[str, Tensor]()
    while at < len(data):
        dimensions, length, kind = numbers(3, "a parameter's head")
        if not 1 <= dimensions <= 3 or not 1 <= length <= LONGEST_KEY or kind != FLOAT32:
            raise InputError(
                f"{where}: before byte {at:,}: {dimensions} dimensions, key of {length} bytes, type {kind}"
            )
        shape = numbers(dimensions, "a shape")
        key = data[at : at + length].decode("utf-8", "replace")
        at += length
        if min(shape) < 1 or 4 * math.prod(shape) > len(data) - at:
            raise InputError(
                f"{where}: {key} of shape {shape} does not fit the {max(0, len(data) - at):,} bytes that are left"
            )
        array = np.frombuffer(data, "<f4", math.prod(shape), at).reshape(shape[::-1])
        if key in tensors or not np.isfinite(array).all():
            raise InputError(
                f"{where}: {key} {'comes twice' if key in tensors else 'holds numbers that are not finite'}"
            )
        tensors[key] = torch.from_numpy(array.copy())
        at += array.nbytes
    embedding = tensors.get("emb.weight")
    if vocab != 256 or embedding is None or embedding.shape != (vocab, width):
        found = "missing" if embedding is None else f"of shape {tuple(embedding.shape)}"
        raise InputError(f"{where}: {vocab} ids of width {width} and emb.weight {found}; a byte model has 256 ids")
    return tensors, layers


class Mix(nn.Module):
    """Token shift: each input is a blend of this position and the one before."""

    def __init__(self, width: int, names: str) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(f"time_mix_{name}", nn.Parameter(torch.empty(width)))

    def blend(self, name: str, x: Tensor, before: Tensor) -> Tensor:
        mix = self.get_parameter(f"time_mix_{name}")
        return x * mix + before * (1 - mix)


class TimeMix(Mix):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, "kvrg")
        self.heads, self.size = heads, width // heads
        self.time_decay = nn.Parameter(torch.empty(heads, self.size, 1))
        self.time_faaaa = nn.Parameter(torch.empty(heads, self.size, 1))
        self.key, self.value, self.receptance, self.gate, self.output = (
            nn.Linear(width, width, bias=False) for _ in range(5)
        )
        self.ln_x = nn.GroupNorm(heads, width, eps=GROUP_EPS)

    def forward(self, x: Tensor, before: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x, before [B, L, W], state [B, H, N, N] -> [B, L, W] and the state after."""
        shape = (*x.shape[:2], self.heads, self.size)
        r, k, v = (
            layer(self.blend(name, x, before)).view(shape).transpose(1, 2)
            for name, layer in (("r", self.receptance), ("k", self.key), ("v", self.value))
        )
        y, state = recurrence(r, k, v, self.time_decay[:, :, 0], self.time_faaaa[:, :, 0], state)
        y = self.ln_x(y.transpose(1, 2).reshape(-1, x.size(-1))).view(x.shape)
        return self.output(y * F.silu(self.gate(self.blend("g", x, before)))), state


class ChannelMix(Mix):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, "kr")
        self.key = nn.Linear(width, hidden, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        inner = torch.relu(self.key(self.blend("k", x, before))).square()
        return torch.sigmoid(self.receptance(self.blend("r", x, before))) * self.value(inner)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.att, self.ffn = TimeMix(width, heads), ChannelMix(width, hidden)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """x [B, L, W]; state: the last inputs of both mixers, [B, 1, W] each, and S [B, H, N, N]."""
        first = self.ln1(x)
        y, kept = self.att(first, torch.cat((state[0], first[:, :-1]), 1), state[2])
        x = x + y
        second = self.ln2(x)
        x = x + self.ffn(second, torch.cat((state[1], second[:, :-1]), 1))
        return x, (first[:, -1:], second[:, -1:], kept)


class Rwkv(nn.Module):
    """The Model protocol of evalkit: windows (``logits``), and one pass that carries its state on (``banded``)."""

    can: ClassVar[frozenset[str]] = frozenset({"banded", "hidden", "parameters"})
    max_seq_len: int | None = None
    fingerprint: str = ""
    tokenizer_model: bytes | None = None

    def __init__(self, tensors: dict[str, Tensor], layers: int, where: str) -> None:
        super().__init__()
        try:
            heads = tensors["blocks.0.att.time_decay"].shape[0]
            hidden = tensors["blocks.0.ffn.key.weight"].shape[0]
        except (KeyError, IndexError):
            raise InputError(f"{where}: no parameters of an RWKV-5.2 block; other versions are not opened") from None
        self.vocab_size, width = tensors["emb.weight"].shape
        if width % heads or not 1 <= layers <= len(tensors):
            raise InputError(f"{where}: {heads} heads, width {width} and {layers} layers do not go together")
        self.emb = nn.Embedding(self.vocab_size, width)
        self.ln0, self.ln_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.head_layer = nn.Linear(width, self.vocab_size, bias=False)
        named = {_ours(key): tensor for key, tensor in tensors.items()}
        wanted = {name: parameter.shape for name, parameter in self.named_parameters()}
        wrong = sorted(n for n in wanted.keys() | named.keys() if n not in named or wanted.get(n) != named[n].shape)
        if wrong:
            raise InputError(f"{where}: {len(wrong)} parameters are missing, unknown or of another shape: {wrong[0]}")
        self.load_state_dict(named, assign=True)
        decay = torch.stack([block.get_parameter("att.time_decay") for block in self.blocks])
        if decay.min() < 0 or decay.max() >= 1:
            raise InputError(f"{where}: decays from {decay.min():.3g} to {decay.max():.3g}; they must lie in [0, 1)")
        self.requires_grad_(True)

    @property
    def module(self) -> nn.Module:
        return self

    @property
    def device(self) -> torch.device:
        return self.emb.weight.device

    def hidden(self, ids: Tensor, owners: Tensor | None = None) -> Tensor:
        """int64 [B, L] -> [B, L, W], the input of :meth:`head`; every row begins with a fresh state."""
        return self._trunk(ids, None)[0]

    def head(self, hidden: Tensor) -> Tensor:
        """[..., W] -> logits [..., 256]."""
        return self.head_layer(hidden)

    def logits(self, ids: Tensor, owners: Tensor | None = None) -> Tensor:
        """int64 [B, L] -> [B, L, 256]."""
        return self.head(self.hidden(ids))

    forward = logits

    def banded(self, ids: Tensor, owners: Tensor | None, state: Any, window: int) -> tuple[Tensor, Any]:
        """int64 [L] continuing ``state`` -> ([L, 256], new state).

        A recurrence forgets by its decays, not at a border: ``window`` is not used, and a position may depend on all
        tokens since the state was fresh.
        """
        hidden, state = self._trunk(ids[None], state)
        return self.head(hidden[0]), state

    def _trunk(self, ids: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
        x, after = self.ln0(self.emb(ids)), []
        for i, block in enumerate(self.blocks):
            x, new = block(x, state[i] if state is not None else self._fresh(x))
            after.append(new)
        return self.ln_out(x), after

    def _fresh(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads, size = self.blocks[0].get_parameter("att.time_decay").shape[:2]
        nothing = x.new_zeros(x.size(0), 1, x.size(-1))
        return nothing, nothing, x.new_zeros(x.size(0), heads, size, size)


def _ours(key: str) -> str:
    """The file's name of a parameter -> this module's."""
    return {"head.weight": "head_layer.weight"}.get(key, key.replace("blocks.0.ln0.", "ln0."))


def recurrence(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """r, k, v [B, H, L, N], w and u [H, N], state [B, H, N, N] (keys by values) -> y [B, H, L, N] and the state after."""
    length, piece = r.size(2), _piece(w)
    whole = length - length % piece
    y, state = _pieces(r[:, :, :whole], k[:, :, :whole], v[:, :, :whole], w, u, state, piece)
    if whole == length:
        return y, state
    rest, state = _pieces(r[:, :, whole:], k[:, :, whole:], v[:, :, whole:], w, u, state, length - whole)
    return torch.cat((y, rest), 2), state


def _piece(w: Tensor) -> int:
    """Tokens of a piece: decays to that power must have an inverse in float32."""
    least = float(w.detach().min())
    return PIECE if least > math.exp(SMALLEST / PIECE) else max(1, int(SMALLEST / math.log(max(least, 1e-38))))


def _pieces(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, piece: int) -> tuple[Tensor, Tensor]:
    """:func:`recurrence` for a length of whole pieces.

    With t, s counting from the piece's first token: y_t = (r_t w^t) S + sum over s < t of (r_t w^t . k_s w^(-s-1)) v_s +
    (r_t u . k_t) v_t, and S <- w^T S + sum of (w^(T-1-s) k_s)^T v_s.
    """
    batch, heads, length, size = r.shape
    r, k, v = (x.reshape(batch, heads, length // piece, piece, size) for x in (r, k, v))
    at = torch.arange(piece, device=r.device, dtype=r.dtype)[:, None]
    powers = w[:, None, None, :] ** at  # [H, 1, T, N]
    reads = r * powers
    earlier = reads @ (k / (powers * w[:, None, None, :])).transpose(-1, -2)
    now = (r * k * u[:, None, None, :]).sum(-1)
    inside = torch.tril(earlier, -1) + torch.diag_embed(now)
    added = (k * w[:, None, None, :] ** (piece - 1 - at)).transpose(-1, -2) @ v
    faded = (w**piece)[:, :, None]
    states = []
    for i in range(length // piece):
        states.append(state)
        state = faded * state + added[:, :, i]
    y = inside @ v
    if states:
        y = y + reads @ torch.stack(states, 2)
    return y.reshape(batch, heads, length, size), state
