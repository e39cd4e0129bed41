"""trackio: ``--tracker trackio:project=evalkit``; on this machine unless a space is named."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import msgspec


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    project: str = "evalkit"
    name: str | None = None
    space_id: str | None = None
    """ORG/NAME of a Hugging Face Space; default: a local database."""


class Tracker:
    package: ClassVar[str] = "trackio"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def start(self, settings: dict[str, Any]) -> None:
        self._trackio = importlib.import_module("trackio")
        self._trackio.init(config=settings, **msgspec.to_builtins(self.settings))

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._trackio.log(numbers, step=step)

    def table(self, name: str, rows: Any) -> None:
        self._trackio.log({name: self._trackio.Table(data=list(rows))})

    def finish(self, totals: dict[str, Any] | None) -> None:
        if totals:
            self._trackio.log({f"total/{name}": value for name, value in totals.items() if value is not None})
        self._trackio.finish()
