"""What do the experts tilt, match and best_agree have in common?  A kernel of hints, spoken to by the protocol."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Side, StreamInfo, TokenChunk
from evalkit.adapters.experts.tables import MAX_VOCAB, columns, one_target
from evalkit.errors import EvalkitError, InputError

LEAST_MIB = 4


def check_memory_mib(memory_mib: int, expected_tokens: int, owner: str) -> None:
    """InputError with the remedy when the numbers cannot be."""
    if memory_mib < LEAST_MIB:
        raise InputError(f"{owner}: memory_mib={memory_mib} is too small; give at least memory_mib={LEAST_MIB}")
    if expected_tokens < 0:
        raise InputError(f"{owner}: setting expected_tokens must be at least 0, got {expected_tokens}")


class HintedExpert:
    """Base of the experts whose kernel proposes hints; a subclass makes the kernel in ``_make``."""

    name: ClassVar[str]
    settings: Any

    def __init__(self) -> None:
        self._core: Any = None

    @property
    def needs(self) -> Needs:
        return Needs(hints=1)

    def _make(self, info: StreamInfo) -> Any:
        raise NotImplementedError

    def begin(self, info: StreamInfo) -> None:
        """Fresh tables and calibration.  InputError when the stream lacks what the settings ask for."""
        if info.vocab_size > MAX_VOCAB:
            raise InputError(
                f"adapter {self.name}: a vocabulary of {info.vocab_size} ids is more than the tables take ({MAX_VOCAB})"
            )
        self._core = self._make(info)
        self._core.begin(info.first_token)

    def propose(self, tokens: Int32) -> Int32:
        """int32 [n] -> int32 [n, H]; counts advance here, scores are not needed for them."""
        return self._core.propose(np.ascontiguousarray(tokens, dtype=np.int32))

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        tokens, cands, p = columns(chunk, p)
        return self._core.score(tokens, cands, chunk.own, p, self._mass(chunk.side))

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        mass = self._mass(side)
        return self._core.row(np.ascontiguousarray(p, dtype=np.float64), 0.5 if mass is None else float(mass[0]))

    def observe(self, receipt: Receipt) -> None:
        self._core.observe(int(one_target(receipt)[0]))

    def snapshot(self) -> bytes:
        """The calibration, float64: value and sum of squared gradients of every parameter."""
        return self._core.state().astype("<f8").tobytes()

    def restore(self, state: bytes, tokens: Int32) -> None:
        want = self._core.state().nbytes
        if len(state) != want:
            raise EvalkitError(f"the snapshot of {self.name} has {len(state)} bytes, this calibration {want}")
        try:
            self._core.set_state(np.frombuffer(state, "<f8").astype(np.float64))
        except ValueError as fault:
            raise EvalkitError(f"the snapshot of {self.name} cannot be used: {fault}") from None
        self._core.replay(np.ascontiguousarray(tokens, dtype=np.int32))

    def state_bytes(self) -> int:
        return 0 if self._core is None else self._core.bytes

    @property
    def full_at(self) -> int:
        """Number of targets counted when the memory bound made a table refuse a context; -1: never."""
        return -1 if self._core is None else self._core.full_at

    def _mass(self, side: Side) -> Float64 | None:
        """Mass of word-start tokens, float64 [n], when the expert asked for it."""
        if not self.needs.masses:
            return None
        return np.ascontiguousarray(side.masses["word_start"], dtype=np.float64)
