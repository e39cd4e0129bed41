"""Which specimens are there, and how are they named?  ``A4``, ``A4:fix``, ``L7``, ``all``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from evalkit.errors import InputError, nearest
from evalkit.legality.target import Specimen
from tests.zoo.declare import declared
from tests.zoo.own import own_specimens

MODULES = (
    "hashed",
    "oracle",
    "hints",
    "spelling",
    "twopass",
    "slot",
    "built",
    "bytecount",
    "coverage",
    "like_learners",
    "like_experts",
    "model",
)


@cache
def specimens() -> dict[str, Specimen]:
    """Every specimen by id, in the order A, B, D, P, M, L and by number; our own adapters (O-NAME) last."""
    for name in MODULES:
        import_module(f"tests.zoo.{name}")
    return {s.id: s for s in sorted([*own_specimens(), *declared()], key=_rank)}


def _rank(specimen: Specimen) -> tuple[int, int, str]:
    if specimen.id.startswith("O-"):
        return 9, 0, specimen.id
    found = re.fullmatch(r"([A-Z])(\d+)(\w*)", specimen.id)
    assert found is not None
    letter, number, rest = found.groups()
    return "ABDPML".index(letter), int(number), rest


def find(name: str) -> tuple[Specimen, Callable[[], Any], str]:
    """``"A4"`` or ``"A4:fix"`` -> the specimen, the factory meant, and the law expected ("" = legal)."""
    key, _, part = name.partition(":")
    known = {k.upper(): k for k in specimens()}
    if key.upper() not in known:
        raise InputError(f"the zoo has no specimen '{key}'{nearest(key, specimens())}")
    specimen = specimens()[known[key.upper()]]
    if part not in ("", "fix") or (part == "fix" and specimen.fixed is None):
        raise InputError(f"'{name}' names no part of {specimen.id}; write {specimen.id}, or A4:fix for a fix")
    if part == "fix":
        assert specimen.fixed is not None
        return specimen, specimen.fixed, ""
    return specimen, specimen.broken, specimen.law


def source(factory: Callable[[], Any]) -> str:
    """The code of a specimen, for reading."""
    return inspect.getsource(factory)


def every_target(*, own: bool = False) -> list[str]:
    """All names that :func:`find` takes: each specimen, then its fix.  ``own``: our adapters too (they load torch)."""
    names: list[str] = []
    for s in specimens().values():
        if own or not s.id.startswith("O-"):
            names.append(s.id)
        if s.fixed is not None:
            names.append(f"{s.id}:fix")
    return names
