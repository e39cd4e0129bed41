"""Decorators that put a class into the zoo: ``@violation``, ``@fix`` on its least legal change, and ``@look_alike``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evalkit.legality.target import Specimen

Factory = Callable[[], Any]
FOUND: dict[str, dict[str, Any]] = {}
"""What was said of each specimen so far, by id; a fix may stand before what it mends."""


def _enter(name: str, part: str, said: dict[str, Any]) -> Callable[[Any], Any]:
    def enter(factory: Factory) -> Factory:
        entry = FOUND.setdefault(name, {"id": name})
        assert part not in entry, f"{name} is declared twice"
        entry.update(said, **{part: factory})
        return factory

    return enter


def violation(name: str, title: str, law: str, **more: Any) -> Callable[[Any], Any]:
    """Enter a factory as the violation ``name``.  law, more: as in :class:`evalkit.legality.target.Specimen`."""
    return _enter(name, "broken", {"title": title, "law": law, **more})


def fix(name: str) -> Callable[[Any], Any]:
    """Enter a factory as what makes ``name`` legal."""
    return _enter(name, "fixed", {})


def look_alike(name: str, title: str, **more: Any) -> Callable[[Any], Any]:
    """Enter a factory as legal, although it looks like a violation."""
    return violation(name, title, "", **more)


def declared() -> list[Specimen]:
    """Every specimen of the modules that were imported so far."""
    return [Specimen(**entry) for entry in FOUND.values()]
