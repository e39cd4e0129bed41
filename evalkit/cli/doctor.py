"""``evalkit doctor``: what is here, what is missing, and how to install it."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import sys
from typing import Any

from evalkit.cli.recipe import ASSETS
from evalkit.cli.session import json_flag, tell

CHECKS = (
    (
        "native kernels",
        "evalkit._native",
        "pip install --force-reinstall evalkit (needs a C++17 compiler for a source build)",
        True,
    ),
    ("torch", "torch", "pip install 'evalkit[torch]'", True),
    ("sentencepiece", "sentencepiece", "pip install sentencepiece", True),
    ("constriction", "constriction", "pip install 'evalkit[torch]'", True),
    ("safetensors", "safetensors", "pip install 'evalkit[torch]'", True),
    ("flash-attn", "flash_attn", "pip install flash-attn (GPU only; torch's attention is used without it)", False),
)
"""Name, module, remedy, required; imported, since a build for another machine is there and yet broken."""

EXTRAS = (
    ("pyarrow (documents.parquet)", "pyarrow", "report"),
    ("zstandard (.zst text)", "zstandard", "zstd"),
    ("transformers (HF folders)", "transformers", "hf"),
    ("tokenizers (HF tokenizers)", "tokenizers", "hf"),
    ("lm-eval (evalkit lm-eval)", "lm_eval", "lm-eval"),
    ("tensorboard (--tracker)", "tensorboard", "trackers"),
)
"""Name, module, extra; only looked for: importing some takes seconds."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("doctor", help="show what is missing here, and how to install it")
    json_flag(parser)


def examine() -> list[dict[str, Any]]:
    """One entry per check: name, ok, required, detail (version or remedy)."""
    rows = [_python()]
    for name, module, remedy, required in CHECKS:
        try:
            found = importlib.import_module(module)
            rows.append(_row(name, True, required, str(getattr(found, "__version__", "found"))))
        except ImportError as fault:
            rows.append(_row(name, False, required, f"{remedy}  [{fault}]"))
    rows += [_extra(name, module, extra) for name, module, extra in EXTRAS]
    for asset in ("tiny.ek", "sample.jsonl.xz", "fineweb_1024_bpe.model"):
        there = (ASSETS / asset).is_file()
        rows.append(
            _row(f"bundled {asset}", there, True, "found" if there else "reinstall evalkit: the file is missing")
        )
    rows.append(_device())
    return rows


def _extra(name: str, module: str, extra: str) -> dict[str, Any]:
    if importlib.util.find_spec(module) is None:
        return _row(name, False, False, f"pip install 'evalkit[{extra}]'")
    try:
        return _row(name, True, False, importlib.metadata.version(module))
    except importlib.metadata.PackageNotFoundError:
        return _row(name, True, False, "found")


def _row(name: str, ok: bool, required: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "required": required, "detail": detail}


def _python() -> dict[str, Any]:
    ok = sys.version_info >= (3, 11)
    return _row("python", ok, True, sys.version.split()[0] if ok else "evalkit needs Python 3.11 or newer")


def _device() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return _row("device", False, False, "unknown without torch")
    if torch.cuda.is_available():
        return _row("device", True, False, f"cuda: {torch.cuda.get_device_name()}")
    return _row(
        "device", True, False, f"cpu, {torch.get_num_threads()} threads (no CUDA device found: runs go to the CPU)"
    )


def run(args: argparse.Namespace) -> int:
    rows = examine()
    marks = (("ok  " if row["ok"] else ("MISS" if row["required"] else "opt ")) for row in rows)
    lines = [f"{mark}  {row['name']:<30} {row['detail']}" for mark, row in zip(marks, rows, strict=True)]
    tell(args, rows, lambda: print("\n".join(lines)))
    return 0 if all(row["ok"] for row in rows if row["required"]) else 1
