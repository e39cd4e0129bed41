"""Opening a checkpoint: the doors (loaders) are built-ins, entry points ``evalkit.models``, and ``module:Class``.

A door is a class with ``name``, ``summary``, ``sniff(path) -> bool`` and ``load(path, *, device, **options) -> Model``.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from evalkit.errors import InputError, nearest
from evalkit.models.base import require_protocol
from evalkit.settings import split_spec

BUILT_IN = {
    "ek": "evalkit.models.ek.door:ArtifactDoor",
    "golf": "evalkit.models.golf_file:GolfDoor",
    "hf": "evalkit.models.hf:HuggingFaceDoor",
}
GROUP = "evalkit.models"
BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "tiny.ek"


def doors() -> dict[str, str]:
    """Name -> "module:Class" of every door that is installed; ours come in by the same table."""
    return BUILT_IN | {e.name: e.value for e in entry_points(group=GROUP)}


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise InputError(f"cannot import '{target}': {fault}") from None


def _door(target: str) -> Any:
    """A door by ``module:Class``.  InputError when what is there cannot open anything."""
    door = _import(target)
    if not callable(getattr(door, "load", None)):  # a stranger's class, judged here
        raise InputError(
            f"checkpoint {target}: it has no load(path, *, device=...); give a class with sniff(path) and load, whose "
            "result has logits(ids, owners)"
        )
    return door


def open_checkpoint(spec: str | Path | None, *, device: str = "cpu", trust_causal: bool = False) -> Any:
    """``FILE[:key=value,...]``, ``module:Class[:key=value]``, ``hf:ORG/NAME`` or None (the bundled one) -> Model.

    Raises InputError, also when the model is not causal (:mod:`evalkit.models.causality`); ``trust_causal`` skips the check.
    """
    require_torch()
    spec = BUNDLED if spec is None else spec
    model = _open(str(spec), device)
    if not trust_causal:
        from evalkit.models.causality import require_causal

        require_causal(model, Path(str(spec)).name)
    return model


def _open(spec: str, device: str) -> Any:
    name, options = split_spec(spec)
    if name.startswith("hf:"):
        return _import(BUILT_IN["hf"]).load(name, device=device, **options)
    path = Path(name).expanduser()
    if not path.exists() and ":" in name and not name.startswith(("/", ".")):
        door = _door(name)
    elif path.exists():
        door = door_for(path)
    else:
        raise InputError(f"checkpoint {name}: no such file; run 'evalkit doctor' to see the bundled one")
    model = door.load(path, device=device, **options)
    require_protocol(model, f"checkpoint {name}")
    return model


def door_for(path: Path) -> Any:
    """The first door that recognises the content.  InputError lists the doors when none does."""
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"checkpoint {path.name}: the file is empty (0 bytes)")
    for target in doors().values():
        door = _import(target)
        if door.sniff(path):
            return door
    head = path.read_bytes()[:8] if path.is_file() else b"a folder"
    raise InputError(f"checkpoint {path.name}: no door recognises it (starts with {head!r}){nearest('', doors())}")


def require_torch() -> None:
    """One sentence with the command when torch is not installed."""
    try:
        importlib.import_module("torch")
    except ImportError:
        raise InputError("torch is not installed; models need it: pip install 'evalkit[torch]'") from None
