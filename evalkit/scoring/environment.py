"""Where and with what was this run made?  And which code was it?"""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evalkit.machine import usable_cpus

PACKAGES = ("evalkit", "torch", "numpy", "sentencepiece", "constriction", "safetensors")


@functools.cache
def code_fingerprint() -> str:
    """sha256 hex over the sources of the installed package and its native module."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.glob("_native*.so")]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


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
