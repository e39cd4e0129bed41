"""Experts on whole rows: ``log_bias`` and ``temperature``.

* ``log_bias``, a logit bias learned online: p'(v) = p(v) e^{b(v)} / sum_u p(u) e^{b(u)}, with one b for the stream, one
  for the document and, when asked for, one for every previous token.  The closed gradient p' - 1_x is added up over
  ``stride`` targets.
* ``temperature``, a learned power of the row with the model's own row as an anchor: p'(v) = p(v)^a m(v)^c / Z.  a = 1/T
  starts at 1/``temperature``, c at 0; both are learned per whole nat of the model's entropy unless ``learn`` is false.
  c takes back what the stages before overdid.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from evalkit.adapters.base import Float64, Int32, Needs, Rows, Settings, Side, StreamInfo, TokenChunk
from evalkit.adapters.experts.native import (
    MIB,
    Kernel,
    NativeExpert,
    S,
    as_float64,
    as_int32,
    native,
    set_state,
)
from evalkit.errors import EvalkitError, InputError


class RowExpert(NativeExpert[S]):
    """A stage whose state follows from the rows, not from the tokens alone: nothing is left to replay."""

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        """EvalkitError when single columns came in."""
        if chunk.cands is not None:
            raise EvalkitError(f"{self.name} needs whole rows and was given {chunk.cands.shape[1]} columns")
        more = self.extra(chunk.side, chunk.history)
        return self._core.score(tokens=as_int32(chunk.tokens), p=as_float64(p), **more)

    def restore(self, state: bytes, tokens: Int32) -> None:
        set_state(self._core, state, self.name)


class LogBiasSettings(Settings, frozen=True):
    """Settings of ``log_bias``."""

    owner: ClassVar[str] = "adapter log_bias"
    stride: Annotated[
        int, Meta(ge=1, le=1_000_000, description="targets between two steps, counted along the stream")
    ] = 16
    precondition: Annotated[
        Literal["fisher", "adagrad"], Meta(description="fisher: by sum of p(1-p); adagrad: by root of sum of g^2")
    ] = "fisher"
    rate: Annotated[float, Meta(ge=1e-9, le=100, description="step of adagrad (nats); not used by fisher")] = 0.03
    global_prior: Annotated[
        float, Meta(ge=0, le=1e12, description="strength of b = 0 for the stream's bias, counts; 0: no such bias")
    ] = 16.0
    document_prior: Annotated[
        float, Meta(ge=0, le=1e12, description="strength of b = 0 for the document's bias, counts; 0: no such bias")
    ] = 5.0
    previous_prior: Annotated[
        float,
        Meta(ge=0, le=1e12, description="strength of b = 0 for the bias after each token, counts; 0: no such bias"),
    ] = 0.0
    keep: Annotated[float, Meta(ge=0, le=1, description="share of the document's bias that survives BOS")] = 0.0
    memory_mib: Annotated[
        int,
        Meta(
            ge=0, le=1 << 24, description="bound of the biases after each token, MiB; tokens first seen later have none"
        ),
    ] = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.global_prior == self.document_prior == self.previous_prior == 0.0:
            raise InputError(
                f"{self.owner}: all three priors are 0, so there is no bias to learn; write global_prior=8"
            )


class LogBias(RowExpert[LogBiasSettings]):
    """A logit bias for the stream and the document, learned from what the rows got wrong."""

    name: ClassVar[str] = "log_bias"
    Settings: ClassVar[type[Settings]] = LogBiasSettings

    @property
    def needs(self) -> Needs:
        return Needs(rows=True)

    def make(self, info: StreamInfo) -> Kernel:
        s = self.settings
        return native().LogBias(
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

    def score_columns(self, chunk: TokenChunk, rows: Rows | Float64) -> Float64:
        """A stride at a time: two products of its rows with vectors (csrc/core/bias.cpp)."""
        assert chunk.cands is not None
        narrow = isinstance(rows, Rows)
        return self._core.score_columns(
            tokens=as_int32(chunk.tokens),
            cands=as_int32(chunk.cands),
            rows=rows.weights if narrow else as_float64(rows),
            factors=rows.factors if narrow else None,
        )


class TemperatureSettings(Settings, frozen=True):
    """Settings of ``temperature``."""

    owner: ClassVar[str] = "adapter temperature"
    temperature: Annotated[float, Meta(ge=0.25, le=100, description="T of p^(1/T), the first value when learned")] = 1.0
    learn: Annotated[bool, Meta(description="learn the exponents per whole nat of the model's entropy")] = True
    anchor: Annotated[bool, Meta(description="learn an exponent for the model's row too, after another stage")] = True
    prior: Annotated[
        float, Meta(ge=1e-3, le=1e12, description="strength of the first exponents, counts times squared nats")
    ] = 100.0


class Temperature(RowExpert[TemperatureSettings]):
    """The row raised to a learned power, with a learned power of the model's own row beside it."""

    name: ClassVar[str] = "temperature"
    Settings: ClassVar[type[Settings]] = TemperatureSettings

    @property
    def needs(self) -> Needs:
        return Needs(rows=True, entropy=self.settings.learn)

    def make(self, info: StreamInfo) -> Kernel:
        s = self.settings
        return native().Temperature(
            vocab=info.vocab_size, exponent=1.0 / s.temperature, learn=s.learn, anchor=s.anchor, prior=s.prior
        )

    def extra(self, side: Side, history: tuple[Float64, ...]) -> dict[str, Any]:
        learned = self.settings.learn and side.entropy is not None
        return {
            "model": as_float64(history[0]) if history and self.settings.anchor else None,
            "entropy": as_float64(side.entropy) if learned and side.entropy is not None else None,
        }
