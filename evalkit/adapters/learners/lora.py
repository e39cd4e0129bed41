"""Low-rank terms on frozen linear layers (LoRA): y = W x + scale B (A x), B zero at the start.

Hu et al. 2021.  Names on disk are peft's, so that an adapter trained here opens there and the other way round.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalkit.adapters.learners.heads import SplitModel, head_weight, swapped
from evalkit.adapters.learners.learner import CurrentDocument
from evalkit.errors import InputError, nearest

FUSED = "c_attn|qkv|qkv_proj|query_key_value|wqkv"
ROLES = {
    "q": re.compile(rf"(^|\.)(c_q|q|q_proj|wq|query|to_q|{FUSED})$", re.I),
    "k": re.compile(rf"(^|\.)(c_k|k|k_proj|wk|key|to_k|{FUSED})$", re.I),
    "v": re.compile(rf"(^|\.)(c_v|v|v_proj|wv|value|to_v|{FUSED})$", re.I),
    "o": re.compile(r"att\w*\.(\w+\.)*(proj|out|o|o_proj|wo|c_proj|out_proj|dense)$", re.I),
    "mlp": re.compile(r"(^|\.)(mlp|ffn|feed_forward|feedforward)\.", re.I),
}
"""What the field calls its linear layers, by their part in a block."""


class Gate:
    """Where the low-rank terms count: everywhere (None), or at the positions of a bool mask [..., L] or [1]."""

    mask: Tensor | None = None

    def __call__(self, delta: Tensor) -> Tensor:
        return delta if self.mask is None else delta * self.mask[..., None].to(delta.dtype)


class LoraLinear(nn.Module):
    """A linear layer with a low-rank term.  A [rank, in], B [out, rank]."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, gate: Gate) -> None:
        super().__init__()
        self.base, self.scale, self.gate = base, scale, gate
        like: dict[str, Any] = {"dtype": torch.float32, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, **like))

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        return self.base(x) + self.gate(low * self.scale)


class LoraHead(nn.Module):
    """A low-rank term on the [V, D] matrix of the head only; a tied embedding stays as it is on the way in."""

    def __init__(self, owner: nn.Module, attribute: str, rank: int, scale: float) -> None:
        super().__init__()
        weight = getattr(owner, attribute)
        self.place, self.scale = (owner, attribute), scale
        like: dict[str, Any] = {"dtype": torch.float32, "device": weight.device}
        self.lora_A = nn.Parameter(torch.empty(rank, weight.shape[1], **like))
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], rank, **like))

    def merged(self) -> Tensor:
        """W + scale B A, [V, D]."""
        weight = getattr(*self.place)
        return weight + (self.scale * (self.lora_B @ self.lora_A)).to(weight.dtype)


class LoraModel(SplitModel):
    """A model with low-rank terms: ``layers`` by the name of the linear layer, and perhaps one on the head."""

    def __init__(self, inner: Any, owner: str) -> None:
        super().__init__(inner, owner)
        self.gate = Gate()
        self.layers: dict[str, LoraLinear | LoraHead] = {}
        self._head: LoraHead | None = None

    def logits(self, ids: Tensor, owners: Tensor) -> Tensor:
        return self.inner.logits(ids, owners) if self._head is None else self.head(self.hidden(ids, owners))

    def banded(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        run = self.inner.banded if self._head is None else super().banded
        return run(ids, owners, state, window)

    def head(self, hidden: Tensor) -> Tensor:
        if self._head is None:
            return self.inner.head(hidden)
        with swapped(*self._head.place, self._head.merged()):
            out = self.inner.head(hidden)
        mask = self.gate.mask
        if mask is None or mask.shape != hidden.shape[:-1]:
            return out
        return torch.where(mask[..., None], out, self.inner.head(hidden))

    def add(self, name: str, rank: int, scale: float) -> None:
        """Put a low-rank term on the linear layer ``name``, or on the head when the name is "head"."""
        if name == "head":
            self.layers[name] = self._head = LoraHead(*head_weight(self.inner, self.owner), rank, scale)
            return
        path, _, leaf = name.rpartition(".")
        parent = self.module.get_submodule(path)
        self.layers[name] = LoraLinear(getattr(parent, leaf), rank, scale, self.gate)
        setattr(parent, leaf, self.layers[name])

    def named_params(self) -> dict[str, nn.Parameter]:
        """peft's names -> A and B of every layer, all A first."""
        parts = [(n, part) for part in ("lora_A", "lora_B") for n in self.layers]
        return {f"{peft_name(n)}.{part}.weight": getattr(self.layers[n], part) for n, part in parts}

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """A uniform in +-1/sqrt(in), B zero."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            bound = 1.0 / math.sqrt(layer.lora_A.shape[1])
            layer.lora_A.copy_((torch.rand(layer.lora_A.shape, generator=generator) * 2 - 1) * bound)
            layer.lora_B.zero_()


def peft_name(name: str) -> str:
    return f"base_model.model.{'lm_head' if name == 'head' else name}"


def find_targets(module: nn.Module, targets: Sequence[str], vocab_size: int, owner: str) -> list[str]:
    """Names of linear layers for roles (q, k, v, o, mlp, head) and ``*`` patterns, in model order, "head" last.

    InputError when a target matches nothing.
    """
    linears = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    inner = [n for n, m in linears.items() if m.out_features != vocab_size]
    chosen: set[str] = set()
    for target in targets:
        role = ROLES.get(target)
        found = [n for n in inner if role.search(n)] if role else [n for n in inner if fnmatchcase(n, target)]
        if not found and target != "head":
            known = [*ROLES, "head", *inner[:8]]
            raise InputError(
                f"{owner}: target '{target}' matches no linear layer of this model{nearest(target, known)}"
            )
        chosen.update(found)
    return [n for n in inner if n in chosen] + (["head"] if "head" in targets else [])


def check_rank(owner: str, name: str, shape: tuple[int, int], rank: int) -> None:
    """InputError when ``rank`` exceeds what a matrix of this shape [out, in] can have."""
    if rank > min(shape):
        raise InputError(
            f"{owner}: rank {rank} is larger than the {shape[0]} x {shape[1]} layer '{name}' can have; "
            f"choose rank <= {min(shape)}, or leave that layer out of targets"
        )


def save_adapter(path: Path, model: LoraModel) -> None:
    """Write A and B of every layer as safetensors under peft's names (``adapter_model.safetensors`` there)."""
    from safetensors.torch import save

    tensors = {n: p.detach().cpu().contiguous().clone() for n, p in model.named_params().items()}
    path.write_bytes(save(tensors))


@torch.no_grad()
def load_adapter(path: Path, model: LoraModel) -> None:
    """Read what :func:`save_adapter` or peft wrote.  InputError when layers or shapes differ."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{model.owner}: start={path}: no such file") from None
    except SafetensorError as fault:
        raise InputError(f"{model.owner}: start={path} is not a safetensors file ({fault})") from None
    own = model.named_params()
    for name in sorted(own.keys() ^ tensors.keys()):
        side = "misses" if name in own else "has the unknown"
        raise InputError(
            f"{model.owner}: start={path.name} {side} tensor '{name}'; give the targets it was trained with"
        )
    for name, p in own.items():
        if tensors[name].shape != p.shape:
            raise InputError(
                f"{model.owner}: start={path.name}: '{name}' is {tuple(tensors[name].shape)}, here {tuple(p.shape)}; "
                "give the rank it was trained with"
            )
        p.copy_(tensors[name].float())


class DocumentLoraModel(LoraModel):
    """A LoraModel whose terms count only inside the current document; everywhere when ``document`` is None."""

    def __init__(self, inner: Any, owner: str, document: CurrentDocument | None) -> None:
        super().__init__(inner, owner)
        self._document = document

    def _mask(self, owners: Tensor) -> Tensor | None:
        return None if self._document is None else self._document.mask(owners)

    def logits(self, ids: Tensor, owners: Tensor) -> Tensor:
        self.gate.mask = self._mask(owners)
        if self._head is None:
            return self.inner.logits(ids, owners)
        return self.head(self.inner.hidden(ids, owners))

    def hidden(self, ids: Tensor, owners: Tensor) -> Tensor:
        self.gate.mask = self._mask(owners)
        return self.inner.hidden(ids, owners)

    def banded(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        if self._head is None:
            return self._pieces(self.inner.banded, ids, owners, state, window)
        hidden, state = self.banded_hidden(ids, owners, state, window)
        return self.head(hidden), state

    def banded_hidden(self, ids: Tensor, owners: Tensor, state: Any, window: int) -> tuple[Tensor, Any]:
        return self._pieces(super().banded_hidden, ids, owners, state, window)

    def _pieces(
        self, run: Callable[..., Any], ids: Tensor, owners: Tensor, state: Any, window: int
    ) -> tuple[Tensor, Any]:
        """A banded pass cuts its input as it likes, so it is given pieces on which the mask has one value."""
        mask = self._mask(owners)
        edges = [0, len(ids)]
        if mask is not None:
            edges[1:1] = (torch.nonzero(mask[1:] != mask[:-1])[:, 0] + 1).tolist()
        rows = []
        for begin, end in itertools.pairwise(edges):
            self.gate.mask = None if mask is None else mask[begin : begin + 1]
            out, state = run(ids[begin:end], owners[begin:end], state, window)
            rows.append(out)
        self.gate.mask = mask
        return torch.cat(rows), state
