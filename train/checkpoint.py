"""Checkpoints that survive kill -9: one safetensors file, fsynced and renamed; the next start reads it, same bits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from evalkit.errors import InputError
from evalkit.stream.files import write_atomic

NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of model, averages and optimisers by prefixed name, and the JSON facts beside them."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose name starts with ``prefix``, the prefix taken off."""
        return {n[len(prefix) :]: t for n, t in self.tensors.items() if n.startswith(prefix)}


def write(folder: Path, checkpoint: Checkpoint) -> None:
    tensors = {n: t.detach().cpu().contiguous() for n, t in checkpoint.tensors.items()}
    write_atomic(folder / NAME, save(tensors, {"facts": json.dumps(checkpoint.facts)}))


def read(folder: Path) -> Checkpoint | None:
    """The run's checkpoint, or None when there is none yet; raises InputError when it is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118 - safe_open is no dict
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"the checkpoint {path} is damaged ({error}); remove it to start the run again") from None
