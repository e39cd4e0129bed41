"""TensorBoard: ``--tracker tensorboard:folder=runs/tb``; by torch's own writer."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, ClassVar

import msgspec


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    folder: str | None = None
    """Default: tensorboard inside --out, else runs/tensorboard."""


class Tracker:
    package: ClassVar[str] = "tensorboard"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def start(self, settings: dict[str, Any]) -> None:
        beside = Path(settings.get("out") or "runs") / "tensorboard"
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(self.settings.folder or str(beside))
        self._writer.add_text("settings", f"```\n{json.dumps(settings, indent=2, default=str)}\n```")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, rows: Any) -> None:
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
        self._writer.add_text(name, "\n".join("|" + "|".join(map(str, line)) + "|" for line in lines))

    def finish(self, totals: dict[str, Any] | None) -> None:
        self._writer.add_text("totals", json.dumps(totals))
        self._writer.close()
