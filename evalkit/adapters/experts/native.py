"""The base class of experts that run on a compiled kernel, and the checks that their settings share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Settings, Side, StreamInfo, TokenChunk
from evalkit.errors import EvalkitError, InputError

MIB = 1 << 20
MAX_ORDER = 24
MAX_VOCAB = 1 << 18
LEAST_MIB = 4
"""Smallest memory bound of an expert on hint tables, MiB."""

S = TypeVar("S", bound=Settings)


class Kernel(Protocol):
    """The face of every kernel (csrc/bind); ``score`` and ``row`` take more, by keyword, from ``extra``."""

    @property
    def bytes(self) -> int: ...
    def begin(self, first_token: int) -> None: ...
    def observe(self, token: int) -> None: ...
    def replay(self, tokens: Int32) -> None: ...
    def state(self) -> Float64: ...
    def set_state(self, state: Float64) -> None: ...


class NativeExpert(Generic[S]):
    """An expert whose whole meaning is a kernel: a subclass makes the kernel and names its further inputs."""

    name: ClassVar[str]
    Settings: ClassVar[type[Settings]]
    runs_beside: ClassVar[bool] = True

    def __init__(self, settings: S | None = None) -> None:
        self.settings: S = settings or self.Settings()  # type: ignore[assignment]
        self._core: Any = None

    @property
    def needs(self) -> Needs:
        return Needs()

    def make(self, info: StreamInfo) -> Kernel:
        """A fresh kernel.  InputError when the stream lacks what the settings ask for."""
        raise NotImplementedError

    def extra(self, side: Side, history: tuple[Float64, ...]) -> dict[str, Any]:
        """Further keywords of the kernel's ``score`` and ``row``; arrays have one entry per target."""
        return {}

    def begin(self, info: StreamInfo) -> None:
        """Fresh tables and weights.  InputError when the vocabulary or the memory bound does not suit."""
        if info.vocab_size > MAX_VOCAB:
            raise InputError(
                f"adapter {self.name}: a vocabulary of {info.vocab_size} ids is more than the tables take ({MAX_VOCAB})"
            )
        self._core = self.make(info)
        self._core.begin(info.first_token)

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        cands = None if chunk.cands is None else as_int32(chunk.cands)
        more = self.extra(chunk.side, chunk.history)
        return self._core.score(tokens=as_int32(chunk.tokens), cands=cands, p=as_float64(p), **more)

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return self._core.row(p=as_float64(p), **self.extra(side, history))

    def observe(self, receipt: Receipt) -> None:
        self._core.observe(int(one_target(receipt)[0]))

    def snapshot(self) -> bytes:
        """What was learned from scores, float64; what follows from the tokens alone is left to replay."""
        return self._core.state().astype("<f8").tobytes()

    def restore(self, state: bytes, tokens: Int32) -> None:
        """After begin().  EvalkitError when the snapshot is damaged or of other settings."""
        set_state(self._core, state, self.name)
        self._core.replay(as_int32(tokens))

    def state_bytes(self) -> int:
        return 0 if self._core is None else self._core.bytes


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


def as_float64(x: Float64) -> Float64:
    """The array in the dtype and layout that the kernels accept; a copy only when it must be."""
    return np.ascontiguousarray(x, dtype=np.float64)


def as_int32(x: Int32) -> Int32:
    """The same for token ids."""
    return np.ascontiguousarray(x, dtype=np.int32)


def set_state(core: Kernel, state: bytes, name: str) -> None:
    """Give a kernel its state back.  EvalkitError when the bytes are not one of its states."""
    try:
        values = np.frombuffer(state, "<f8").astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds numbers that are not finite")
        core.set_state(values)
    except ValueError as fault:
        raise EvalkitError(
            f"{name}: the snapshot of {len(state)} bytes is damaged or does not fit these settings: {fault}"
        ) from None
