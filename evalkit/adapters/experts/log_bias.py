"""Which tokens does the row get wrong on the whole?  The expert ``log_bias``: a logit bias learned online.

p'(v) = p(v) e^{b(v)} / sum_u p(u) e^{b(u)}, with one b for the stream, one for the document and, when asked for, one for
every previous token.  The closed gradient p' - 1_x is added up over ``stride`` targets; works on whole rows.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from evalkit.adapters.base import Float64, Int32, Needs, Receipt, Rows, Side, StreamInfo, TokenChunk
from evalkit.adapters.base import Settings as BaseSettings
from evalkit.adapters.experts.native import MAX_VOCAB, MIB, as_float64, check_range, native, one_target, set_state
from evalkit.errors import EvalkitError, InputError


class LogBiasSettings(BaseSettings, frozen=True):
    """Settings of ``log_bias``."""

    stride: Annotated[int, Meta(description="targets between two steps, counted along the stream")] = 16
    precondition: Annotated[
        Literal["fisher", "adagrad"], Meta(description="fisher: by sum of p(1-p); adagrad: by root of sum of g^2")
    ] = "fisher"
    rate: Annotated[float, Meta(description="step of adagrad (nats); not used by fisher")] = 0.03
    global_prior: Annotated[
        float, Meta(description="strength of b = 0 for the stream's bias, counts; 0: no such bias")
    ] = 16.0
    document_prior: Annotated[
        float, Meta(description="strength of b = 0 for the document's bias, counts; 0: no such bias")
    ] = 5.0
    previous_prior: Annotated[
        float, Meta(description="strength of b = 0 for the bias after each token, counts; 0: no such bias")
    ] = 0.0
    keep: Annotated[float, Meta(description="share of the document's bias that survives BOS, 0..1")] = 0.0
    memory_mib: Annotated[
        int, Meta(description="bound of the biases after each token, MiB; tokens first seen later have none")
    ] = 1024

    def __post_init__(self) -> None:
        owner = "adapter log_bias"
        check_range(owner, "stride", self.stride, 1, 1_000_000)
        check_range(owner, "rate", self.rate, 1e-9, 100.0)
        for name in ("global_prior", "document_prior", "previous_prior"):
            check_range(owner, name, getattr(self, name), 0.0, 1e12)
        check_range(owner, "keep", self.keep, 0.0, 1.0)
        check_range(owner, "memory_mib", self.memory_mib, 0, 1 << 24)
        if self.global_prior == self.document_prior == self.previous_prior == 0.0:
            raise InputError(f"{owner}: all three priors are 0, so there is no bias to learn; write global_prior=8")


class RowExpert:
    """A stage on whole rows, made of a kernel with row, observe, state and set_state."""

    name: ClassVar[str] = "rows"
    settings: Any

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._core: Any = None

    def propose(self, tokens: Int32) -> Int32:
        """No hints: int32 [n, 0]."""
        return np.empty((len(tokens), 0), np.int32)

    def observe(self, receipt: Receipt) -> None:
        self._core.observe(int(one_target(receipt)[0]))

    def snapshot(self) -> bytes:
        """Everything learned: it follows from the rows, not from the tokens alone."""
        return self._core.state().tobytes()

    def restore(self, state: bytes, tokens: Int32) -> None:
        set_state(self._core, state, self.name)

    def state_bytes(self) -> int:
        return 0 if self._core is None else self._core.bytes

    def whole_rows(self, chunk: TokenChunk, p: Float64) -> tuple[Int32, Float64]:
        """(tokens, p) for the kernel.  EvalkitError when single columns came in."""
        if chunk.cands is not None:
            raise EvalkitError(f"{self.name} needs whole rows and was given {chunk.cands.shape[1]} columns")
        return np.ascontiguousarray(chunk.tokens, dtype=np.int32), as_float64(p)

    def check_vocab(self, vocab_size: int) -> None:
        """InputError when the vocabulary is too large."""
        if vocab_size > MAX_VOCAB:
            raise InputError(f"adapter {self.name}: {vocab_size} ids are more than the kernel takes ({MAX_VOCAB})")


class LogBias(RowExpert):
    """A logit bias for the stream and the document, learned from what the rows got wrong."""

    name: ClassVar[str] = "log_bias"
    Settings: ClassVar[type[LogBiasSettings]] = LogBiasSettings

    def __init__(self, settings: LogBiasSettings | None = None) -> None:
        super().__init__(settings or LogBiasSettings())

    @property
    def needs(self) -> Needs:
        return Needs(rows=True)

    def begin(self, info: StreamInfo) -> None:
        """No bias yet.  InputError when the vocabulary is too large."""
        self.check_vocab(info.vocab_size)
        s = self.settings
        self._core = native().LogBias(
            vocab=info.vocab_size,
            bos=info.bos_id,
            stride=s.stride,
            fisher=s.precondition == "fisher",
            rate=s.rate,
            global_prior=s.global_prior,
            document_prior=s.document_prior,
            previous_prior=s.previous_prior,
            keep=s.keep,
            bytes=s.memory_mib * MIB,
        )
        self._core.begin(info.first_token)

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        return self._core.score(*self.whole_rows(chunk, p))

    def score_columns(self, chunk: TokenChunk, rows: Rows | Float64) -> Float64:
        """A stride at a time: two products of its rows with vectors (csrc/core/bias.cpp)."""
        assert chunk.cands is not None
        narrow = isinstance(rows, Rows)
        return self._core.score_columns(
            tokens=np.ascontiguousarray(chunk.tokens, dtype=np.int32),
            cands=np.ascontiguousarray(chunk.cands),
            rows=rows.weights if narrow else as_float64(rows),
            factors=rows.factors if narrow else None,
        )

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return self._core.row(as_float64(p))
