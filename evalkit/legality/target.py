"""TARGET: a zoo specimen, or a factory in a file or module, each behind its wall."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import InputError
from evalkit.legality.cage import Cage, Limits
from evalkit.legality.scorer import Box, Int64, LocalBox, ScorerFault


@dataclass(frozen=True)
class Specimen:
    """A violation with its minimal legal fix, or a legal look-alike (``fixed`` is None and ``law`` is "")."""

    id: str
    title: str
    law: str
    """What the audit must name: a law, a ledger ("bytes", "coverage", "provenance") or "declared"; "" = legal."""
    broken: Callable[[], Any]
    fixed: Callable[[], Any] | None = None
    also: tuple[str, ...] = ()
    """Other laws that the same evidence breaks."""
    sources: tuple[int, ...] = ()
    """Pull requests and issues of openai/parameter-golf."""
    elsewhere: tuple[str, ...] = ()
    """The same of other repositories, "owner/name#number"."""
    ruleset: str = "strict"
    tokens: Callable[[], Any] | None = None
    """Validation tokens that the audit is given, where a specimen is about them."""

    @property
    def legal(self) -> bool:
        return not self.law


@dataclass
class Target:
    """An open target.  ``expected``: what the zoo says the audit must find ("" legal); None for strangers."""

    name: str
    box: Box
    ruleset: str | None = None
    tokens: Int64 | None = None
    expected: str | None = None
    specimen: Specimen | None = None


def open_target(name: str, limits: Limits | None = None) -> Target:
    """Open ``zoo:A4``, ``zoo:A4:fix``, ``file.py:factory`` or ``package.module:factory``.

    InputError when there is no such thing; ScorerFault when it does not come up within its limits.
    """
    if name.startswith("zoo:"):
        return _specimen(name.removeprefix("zoo:"))
    module, colon, factory = name.rpartition(":")
    if not colon or not factory.isidentifier():
        raise InputError(
            f"'{name}' names nothing that can be audited; write zoo:A4, file.py:factory or package.module:factory"
        )
    if module.endswith(".py") and not Path(module).is_file():
        raise InputError(f"{module}: no such file; write file.py:factory with a factory that takes no arguments")
    return Target(name, Cage(name, limits))


def zoo(module: str) -> Any:
    """A module of the specimens (tests/zoo).  They come with a checkout alone; InputError where evalkit is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "tests" / "zoo" / "registry.py").is_file():
        raise InputError(
            "the zoo is part of evalkit's tests and is not installed with it; run this verb in evalkit's sources "
            "('pip download --no-deps --no-binary evalkit evalkit' fetches them)"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"tests.zoo.{module}")


def _specimen(name: str) -> Target:
    specimen, factory, expected = zoo("registry").find(name)
    tokens = None if specimen.tokens is None else specimen.tokens()
    try:
        box = LocalBox(factory)
    except ScorerFault as fault:
        raise InputError(f"zoo:{name}: {fault}") from None
    return Target(f"zoo:{name}", box, specimen.ruleset, tokens, expected, specimen)


def read_tokens(path: str, vocab_size: int, most: int = 1 << 20) -> Int64:
    """The first tokens of a shard (``--vocab-tokens``), int64 [N]; InputError when one is outside the vocabulary."""
    from evalkit.stream.shard import read_shard

    tokens = np.asarray(read_shard(Path(path)))[:most].astype(np.int64)
    if not len(tokens) or int(tokens.max()) >= vocab_size:
        largest = int(tokens.max()) if len(tokens) else -1
        raise InputError(
            f"{path}: token {largest} is outside the scorer's vocabulary of {vocab_size}; give its own shard"
        )
    return tokens
