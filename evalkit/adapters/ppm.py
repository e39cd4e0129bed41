"""How do exact n-gram counts of the text scored so far sharpen the model?  The expert ``ppm``, on C++ tables.

``escape=dirichlet``: q_k(v) = (n_k(v) + c_k q_{k-1}(v)) / (N_k + c_k) from low to high order, below the lowest the
model's row.  A row sums to 1 for every context because N_k is the sum of its stored pairs.  (parameter-golf #1159 in
its exact form; MacKay and Peto 1995.)
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Settings, Side, StreamInfo, TokenChunk
from evalkit.adapters.tables import MIB, check_memory, check_orders, columns, native, one_target
from evalkit.errors import EvalkitError, InputError

FALLING = {1: 1000.0, 2: 300.0, 3: 100.0, 4: 30.0, 5: 10.0, 6: 5.0}
"""Concentrations by order, in counts; 3 above order 6.  The published c = 4 for all makes a sound model worse."""


class PpmSettings(Settings, frozen=True):
    """Settings of ``ppm``."""

    escape: Annotated[Literal["dirichlet"], Meta(description="how much a context is trusted")] = "dirichlet"
    orders: Annotated[
        tuple[int, ...], Meta(description="orders of the stream's counts; order k reads k-1 tokens of context")
    ] = (2, 3, 4, 5, 6, 7)
    c: Annotated[
        float | tuple[float, ...] | None,
        Meta(description="concentration in counts, one for all orders or one each; none: falls with the order"),
    ] = None
    min_count: Annotated[int, Meta(description="contexts seen fewer times than this are skipped (counts)")] = 1
    memory_mib: Annotated[int, Meta(description="memory bound of the tables, MiB; full tables stop counting")] = 1024
    expected_tokens: Annotated[int, Meta(description="tokens to reserve space for at once; 0: grow as needed")] = 0

    def __post_init__(self) -> None:
        check_orders(self.orders, "adapter ppm")
        if isinstance(self.c, tuple) and len(self.c) != len(self.orders):
            raise InputError(
                f"adapter ppm: setting c has {len(self.c)} numbers for {len(self.orders)} orders; "
                "give one for all or one for each"
            )
        if not all(0.0 < c < 1e12 for c in self.strength):
            raise InputError(f"adapter ppm: setting c must be positive counts, got {list(self.strength)}; write c=4")
        for name, least in (("min_count", 1), ("memory_mib", 1), ("expected_tokens", 0)):
            if getattr(self, name) < least:
                raise InputError(f"adapter ppm: setting {name} must be at least {least}, got {getattr(self, name)}")

    @property
    def strength(self) -> list[float]:
        """Concentration of every order, counts."""
        if self.c is None:
            return [FALLING.get(order, 3.0) for order in self.orders]
        return list(self.c) if isinstance(self.c, tuple) else [self.c] * len(self.orders)


class Ppm:
    """Exact n-gram counts of the scored text, mixed into the model's row order by order."""

    name: ClassVar[str] = "ppm"
    Settings: ClassVar[type[PpmSettings]] = PpmSettings

    def __init__(self, settings: PpmSettings | None = None) -> None:
        self.settings = settings or PpmSettings()
        self._core: Any = None

    @property
    def needs(self) -> Needs:
        return Needs()

    def begin(self, info: StreamInfo) -> None:
        """Fresh tables.  InputError when the memory bound does not hold the empty table."""
        s = self.settings
        check_memory(s.memory_mib, info.vocab_size, s.orders[-1], "adapter ppm")
        self._core = native().DirichletPpm(
            info.vocab_size, list(s.orders), s.strength, s.min_count, s.memory_mib * MIB, s.expected_tokens
        )
        self._core.begin(info.first_token)

    def propose(self, tokens: Int32) -> Int32:
        """No hints: int32 [n, 0]."""
        return np.empty((len(tokens), 0), np.int32)

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        return self._core.score(*columns(chunk, p))

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return self._core.row(np.ascontiguousarray(p, dtype=np.float64))

    def observe(self, receipt: Receipt) -> None:
        self._core.observe(one_target(receipt))

    def snapshot(self) -> bytes:
        """Empty: the counts follow from the tokens."""
        return b""

    def restore(self, state: bytes, tokens: Int32) -> None:
        if state:
            raise EvalkitError(f"ppm with escape=dirichlet keeps no learned state, the snapshot has {len(state)} bytes")
        self._core.observe(np.ascontiguousarray(tokens, dtype=np.int32))

    def state_bytes(self) -> int:
        return 0 if self._core is None else self._core.bytes

    @property
    def frozen_at(self) -> int:
        """Number of targets counted when the memory bound was met and the tables stopped growing; -1: never."""
        return -1 if self._core is None else self._core.frozen_at
