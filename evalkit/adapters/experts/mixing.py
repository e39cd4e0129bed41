"""What do ``hedge`` and ``backoff`` share?  One kernel: a mixture, linear in p, of proper distributions.

p'(v) = w_0 p(v) + sum_j w_j p_j(v) + sum_k w_k q_k(v): the incoming row, earlier stages of the stack, and n-gram
distributions of exact counts.  The weights of a bucket are learned from booked scores (csrc/core/hedge.hpp).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Side, StreamInfo, TokenChunk
from evalkit.adapters.experts.tables import MAX_VOCAB, MIB, columns, native, one_target
from evalkit.errors import EvalkitError, InputError

Bucket = Literal["order", "count", "top", "entropy", "agreement"]
Smoothing = Literal["witten_bell", "absolute", "kneser_ney"]


class MixingExpert:
    """A stage made of the kernel ``Mixer``; subclasses say which experts and which weights."""

    name: ClassVar[str] = "mixing"
    settings: Any
    past: ClassVar[bool] = False
    """Are earlier stages of the stack experts too?"""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._core: Any = None

    @property
    def needs(self) -> Needs:
        return Needs(entropy="entropy" in self.settings.by, top="agreement" in self.settings.by)

    def mixer(self, vocab_size: int) -> Any:
        """A fresh kernel."""
        raise NotImplementedError

    def begin(self, info: StreamInfo) -> None:
        """Fresh counts and weights.  InputError when the memory bound does not hold the empty counts."""
        check_counts(self.settings.memory_mib, info.vocab_size, f"adapter {self.name}")
        self._core = self.mixer(info.vocab_size)
        self._core.begin(info.first_token)

    def propose(self, tokens: Int32) -> Int32:
        """No hints: int32 [n, 0]."""
        return np.empty((len(tokens), 0), np.int32)

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        tokens, cands, p = columns(chunk, p)
        return self._core.score(tokens, cands, p, self._history(chunk.history), *self._side(chunk.side))

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return self._core.row(as_float64(p), self._history(history), *self._side(side))

    def observe(self, receipt: Receipt) -> None:
        self._core.observe(int(one_target(receipt)[0]))

    def _history(self, history: tuple[Float64, ...]) -> list[Float64]:
        return [as_float64(each) for each in history] if self.past else []

    def _side(self, side: Side) -> tuple[Float64 | None, Int32 | None]:
        by = self.settings.by
        entropy = as_float64(side.entropy) if "entropy" in by and side.entropy is not None else None
        top = np.ascontiguousarray(side.top_id, dtype=np.int32) if "agreement" in by else None
        return entropy, top

    def snapshot(self) -> bytes:
        """The weights; the counts follow from the tokens."""
        return self._core.state().tobytes()

    def restore(self, state: bytes, tokens: Int32) -> None:
        set_state(self._core, state, self.name)
        self._core.replay(np.ascontiguousarray(tokens, dtype=np.int32))

    def state_bytes(self) -> int:
        return 0 if self._core is None else self._core.bytes

    @property
    def frozen_at(self) -> int:
        """Number of targets counted when the memory bound was met and the counts took nothing new; -1: never."""
        return -1 if self._core is None else self._core.frozen_at


def as_float64(x: Float64) -> Float64:
    """The array in the dtype and layout that the kernels accept; a copy only when it must be."""
    return np.ascontiguousarray(x, dtype=np.float64)


def set_state(core: Any, state: bytes, name: str) -> None:
    """Give a kernel its state back.  EvalkitError when the bytes are not one of its states."""
    try:
        values = np.frombuffer(state, np.float64).copy()
        if not np.isfinite(values).all():
            raise ValueError("it holds numbers that are not finite")
        core.set_state(values)
    except ValueError as fault:
        raise EvalkitError(f"{name}: the snapshot of {len(state)} bytes does not fit: {fault}") from None


def check_counts(memory_mib: int, vocab: int, owner: str) -> None:
    """InputError when the vocabulary or the bound does not suit the n-gram counts."""
    if vocab > MAX_VOCAB:
        raise InputError(f"{owner}: a vocabulary of {vocab} ids is more than the counts take ({MAX_VOCAB})")
    least = -(-native().smallest_mixer() // MIB)
    if memory_mib < least:
        raise InputError(f"{owner}: memory_mib={memory_mib} is too small; give at least memory_mib={least}")


def check_range(owner: str, name: str, value: float, low: float, high: float) -> None:
    """InputError unless low <= value <= high (NaN is not)."""
    if not low <= value <= high:
        raise InputError(f"{owner}: setting {name} must lie within {low:g}..{high:g}, got {value:g}")
