"""What do all experts on count tables share?  Checks of settings, and arrays in the form the kernels take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64, Int32, Receipt, TokenChunk
from evalkit.errors import EvalkitError, InputError

MIB = 1 << 20
MAX_ORDER = 24
MAX_VOCAB = 1 << 18


def native() -> Any:
    """The compiled module.  InputError with the command when it is not built."""
    try:
        from evalkit import _native
    except ImportError as fault:
        raise InputError(
            f"the compiled module evalkit._native cannot be imported ({fault}); build it: python -m pip install -e ."
        ) from None
    return _native


def check_orders(orders: Sequence[int], owner: str, name: str = "orders") -> None:
    """Orders rise and lie within 1..24."""
    rising = all(a < b for a, b in itertools.pairwise(orders))
    if not orders or not rising or orders[0] < 1 or orders[-1] > MAX_ORDER:
        raise InputError(
            f"{owner}: setting {name} must be rising numbers within 1..{MAX_ORDER}, got {list(orders)}; "
            f"write {name}=2..7 or {name}=[2,3,5]"
        )


def check_memory(size: int, vocab: int, max_order: int, owner: str, memory_mib: int, least: int | None = None) -> None:
    """``size`` bytes, what memory_mib leaves for a table, must hold it empty; raises InputError with both numbers.

    least: bytes of the empty table, where it is not one of occurrences.
    """
    if vocab > MAX_VOCAB:
        raise InputError(f"{owner}: a vocabulary of {vocab} ids is more than the tables take ({MAX_VOCAB})")
    missing = (native().smallest_table(vocab, max_order) if least is None else least) - size
    if missing > 0:
        raise InputError(
            f"{owner}: memory_mib={memory_mib} is too small for {vocab} ids and order {max_order}: "
            f"give at least memory_mib={memory_mib + -(-missing // MIB)}"
        )


def one_target(receipt: Receipt) -> Int32:
    """The single target of a strict receipt, int32 [1]."""
    if receipt.hi - receipt.lo != 1:
        raise EvalkitError(f"an expert observes one target at a time, the receipt has {receipt.hi - receipt.lo}")
    return np.ascontiguousarray(receipt.tokens, dtype=np.int32)


def columns(chunk: TokenChunk, p: Float64) -> tuple[Int32, Int32 | None, Float64]:
    """(tokens, cands, p) of a chunk in the exact dtypes and layout that the kernels accept."""
    cands = None if chunk.cands is None else np.ascontiguousarray(chunk.cands, dtype=np.int32)
    return np.ascontiguousarray(chunk.tokens, dtype=np.int32), cands, np.ascontiguousarray(p, dtype=np.float64)
