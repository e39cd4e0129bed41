"""Is the row too sure, or not sure enough?  The expert ``temperature``: p^(1/T), with the model's row as an anchor.

p'(v) = p(v)^a m(v)^c / Z.  a = 1/T starts at 1/``temperature``, c at 0; both are learned per whole nat of the model's
entropy unless ``learn`` is false.  c takes back what the stages before overdid.  Works on whole rows.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from evalkit.adapters.base import Float64, Needs, Side, StreamInfo, TokenChunk
from evalkit.adapters.base import Settings as BaseSettings
from evalkit.adapters.experts.log_bias import RowExpert
from evalkit.adapters.experts.native import as_float64, check_range, native


class TemperatureSettings(BaseSettings, frozen=True):
    """Settings of ``temperature``."""

    temperature: Annotated[float, Meta(description="T of p^(1/T), the first value when learned")] = 1.0
    learn: Annotated[bool, Meta(description="learn the exponents per whole nat of the model's entropy")] = True
    anchor: Annotated[bool, Meta(description="learn an exponent for the model's row too, after another stage")] = True
    prior: Annotated[float, Meta(description="strength of the first exponents, counts times squared nats")] = 100.0

    def __post_init__(self) -> None:
        check_range("adapter temperature", "temperature", self.temperature, 0.25, 100.0)
        check_range("adapter temperature", "prior", self.prior, 1e-3, 1e12)


class Temperature(RowExpert):
    """The row raised to a learned power, with a learned power of the model's own row beside it."""

    name: ClassVar[str] = "temperature"
    Settings: ClassVar[type[TemperatureSettings]] = TemperatureSettings

    def __init__(self, settings: TemperatureSettings | None = None) -> None:
        super().__init__(settings or TemperatureSettings())

    @property
    def needs(self) -> Needs:
        return Needs(rows=True, entropy=self.settings.learn)

    def begin(self, info: StreamInfo) -> None:
        """First exponents.  InputError when the vocabulary is too large."""
        self.check_vocab(info.vocab_size)
        s = self.settings
        self._core = native().Temperature(
            vocab=info.vocab_size, exponent=1.0 / s.temperature, learn=s.learn, anchor=s.anchor, prior=s.prior
        )
        self._core.begin()

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        return self._core.score(*self.whole_rows(chunk, p), *self._extra(chunk.side, chunk.history))

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        return self._core.row(as_float64(p), *self._extra(side, history))

    def _extra(self, side: Side, history: tuple[Float64, ...]) -> tuple[Float64 | None, Float64 | None]:
        model = as_float64(history[0]) if history and self.settings.anchor else None
        learned = self.settings.learn and side.entropy is not None
        return model, as_float64(side.entropy) if learned and side.entropy is not None else None
