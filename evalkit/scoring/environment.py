"""The environment of a run: where and with what it was made, and by which code."""

from __future__ import annotations

import ast
import functools
import hashlib
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evalkit.adapters.base import LearnerProxy
from evalkit.machine import usable_cpus

PACKAGES = ("evalkit", "torch", "numpy", "sentencepiece", "constriction", "safetensors")


ROOT = Path(__file__).resolve().parent.parent
SCORING = ("adapters", "models", "plan", "scoring", "stream")
"""Packages of evalkit whose modules decide a score where a run imports them.  Audits, reports, budgets and training do not."""


def code_fingerprint(parts: Iterable[object]) -> str:
    """sha256 hex over the code that computes a run's scores: the loop, the kernels, and each of ``parts`` (model, plan,
    adapters) with what it imports; a part that is not evalkit's counts with its own file."""
    found = (part.inner if isinstance(part, LearnerProxy) else part for part in parts)
    return _digest(tuple(sorted({"evalkit.scoring.loop", *(type(part).__module__ for part in found)})))


@functools.cache
def _digest(roots: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(sources(roots).items()):
        digest.update(name.encode() + b"\0" + _read(path))
    for path in sorted(ROOT.glob("_native*.so")):
        digest.update(_read(path))
    return digest.hexdigest()


def sources(roots: Iterable[str]) -> dict[str, Path]:
    """Module name -> source file, of ``roots`` and of all that they import, at once or later, within :data:`SCORING`."""
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        path = None if name in found else _source(name)
        if path is None:
            continue
        found[name] = path
        if name.startswith("evalkit."):
            waiting += [name.rpartition(".")[0], *_imports(path)]
    return found


def _source(name: str) -> Path | None:
    """The file of a module: of evalkit's by its place, of any other that is loaded; None for what is no module of these."""
    if not name.startswith("evalkit."):
        file = vars(sys.modules[name]).get("__file__") if name != "evalkit" and name in sys.modules else None
        return Path(file) if file else None
    where = name.split(".")[1:]
    if where[0] not in SCORING:
        return None
    module = ROOT.joinpath(*where).with_suffix(".py")
    package = ROOT.joinpath(*where, "__init__.py")
    return module if module.is_file() else package if package.is_file() else None


@functools.cache
def _imports(path: Path) -> tuple[str, ...]:
    """Names that a source imports from evalkit, modules or what stands in them; not those for type checkers alone."""
    found, waiting = list[str](), list[ast.AST]([ast.parse(_read(path))])
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("evalkit"):
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("evalkit.")]
        waiting += ast.iter_child_nodes(node)
    return tuple(found)


def _read(path: Path) -> bytes:
    return path.read_bytes()


def environment(device: str) -> dict[str, Any]:
    """Versions, processor, threads; no host name, no paths."""
    from evalkit.models.device import device_name, device_peak_bytes, threads

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": usable_cpus(),
        "threads": threads(),
        "device": device,
        "device_name": device_name(device),
        "device_peak_bytes": device_peak_bytes(device),
        "packages": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
