"""What does TARGET name?  A zoo specimen, or a factory in a file or module, each behind its wall."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.errors import InputError
from evalkit.legality.cage import Cage, Limits
from evalkit.legality.scorer import Box, Int64, LocalBox, ScorerFault
from evalkit.legality.zoo import registry
from evalkit.legality.zoo.specimen import Specimen


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


def _specimen(name: str) -> Target:
    specimen, factory, expected = registry.find(name)
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
