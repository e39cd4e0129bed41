"""Weights & Biases: ``--tracker wandb:project=evalkit,mode=offline``."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import msgspec


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    project: str = "evalkit"
    name: str | None = None
    entity: str | None = None
    mode: str | None = None
    """online, offline or disabled; default: what WANDB_MODE says."""


class Tracker:
    package: ClassVar[str] = "wandb"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def start(self, settings: dict[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        self._run = self._wandb.init(config=settings, **msgspec.to_builtins(self.settings))

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def table(self, name: str, rows: Any) -> None:
        data = [list(row.values()) for row in rows]
        self._run.log({name: self._wandb.Table(columns=list(rows[0]), data=data)})

    def finish(self, totals: dict[str, Any] | None) -> None:
        self._run.summary.update(totals or {})
        self._run.finish(exit_code=0 if totals else 1)
