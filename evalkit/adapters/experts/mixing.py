"""Experts that mix distributions: ``hedge`` and ``backoff``, on one kernel linear in p.

p'(v) = w_0 p(v) + sum_j w_j p_j(v) + sum_k w_k q_k(v): the incoming row, earlier stages of the stack, and n-gram
distributions of exact counts.  The weights of a bucket are learned from booked scores (csrc/core/mixer.hpp).

* ``hedge``: the incoming row, every earlier stage of the stack (the model first) and n-grams of the scored text are
  experts; all are proper, so their mixture is.  Weights follow each target's probabilities: ``update=hedge`` multiplies
  them (finds the best expert), ``soft_bayes`` steps towards the best fixed mixture.
* ``backoff``: p'(v) = (1 - w) p(v) + w q(v), where q backs off from the highest order down to the uniform distribution
  (Witten-Bell, absolute discount, or interpolated Kneser-Ney with continuation counts) and w is the learned weight of
  the bucket of this place.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from msgspec import Meta

from evalkit.adapters.base import Float64, Int32, Needs, Settings, Side, StreamInfo
from evalkit.adapters.experts.native import (
    MAX_ORDER,
    MAX_VOCAB,
    MIB,
    Kernel,
    NativeExpert,
    as_float64,
    as_int32,
    check_orders,
    native,
)
from evalkit.errors import InputError

Bucket = Literal["order", "count", "top", "entropy", "agreement"]
Smoothing = Literal["witten_bell", "absolute", "kneser_ney"]
RATE = {"hedge": 1.0, "soft_bayes": 0.02}
SHARE = {"hedge": 0.005, "soft_bayes": 0.0}


class MixingSettings(Settings, frozen=True):
    """What the settings of both have in common."""

    smoothing: Annotated[Smoothing, Meta(description="how an order leans on the one below")] = "kneser_ney"
    discount: Annotated[
        float, Meta(ge=0.01, le=0.99, description="taken off every count (counts); not used by witten_bell")
    ] = 0.75
    memory_mib: Annotated[int, Meta(description="memory bound of the counts, MiB; full counts take nothing new")] = 1024
    by: Annotated[
        tuple[Bucket, ...],
        Meta(
            description="what picks the weights: highest order seen, its count, how peaked it is, the model's entropy, "
            "agreement of the two most probable tokens; empty: one vector for all"
        ),
    ] = ("order",)


M = TypeVar("M", bound=MixingSettings)


class MixingExpert(NativeExpert[M]):
    """A stage made of the kernel ``Mixer``; subclasses say which experts and which weights."""

    past: ClassVar[bool] = False
    """Are earlier stages of the stack experts too?"""

    @property
    def needs(self) -> Needs:
        return Needs(entropy="entropy" in self.settings.by, top="agreement" in self.settings.by)

    def begin(self, info: StreamInfo) -> None:
        """Fresh counts and weights.  InputError when the memory bound does not hold the empty counts."""
        owner, memory_mib = f"adapter {self.name}", self.settings.memory_mib
        if info.vocab_size > MAX_VOCAB:
            raise InputError(
                f"{owner}: a vocabulary of {info.vocab_size} ids is more than the counts take ({MAX_VOCAB})"
            )
        least = -(-native().smallest_mixer() // MIB)
        if memory_mib < least:
            raise InputError(f"{owner}: memory_mib={memory_mib} is too small; give at least memory_mib={least}")
        super().begin(info)

    def extra(self, side: Side, history: tuple[Float64, ...]) -> dict[str, Any]:
        by = self.settings.by
        return {
            "history": [as_float64(each) for each in history] if self.past else [],
            "entropy": as_float64(side.entropy) if "entropy" in by and side.entropy is not None else None,
            "top_id": as_int32(side.top_id) if "agreement" in by and side.top_id is not None else None,
        }

    def count(self, tokens: Int32, cands: Int32) -> None:
        """Ahead of score(); it does nothing where the bucket asks for agreement, which reads the model's row."""
        self._core.count(tokens=as_int32(tokens), cands=as_int32(cands))

    @property
    def frozen_at(self) -> int:
        """Number of targets counted when the memory bound was met and the counts took nothing new; -1: never."""
        return -1 if self._core is None else self._core.frozen_at


class HedgeSettings(MixingSettings, frozen=True):
    """Settings of ``hedge``."""

    owner: ClassVar[str] = "adapter hedge"
    orders: Annotated[
        tuple[int, ...], Meta(description="orders whose n-gram distributions are experts; order k reads k-1 tokens")
    ] = (1, 2, 3, 4, 5)
    update: Annotated[Literal["hedge", "soft_bayes"], Meta(description="how weights learn")] = "soft_bayes"
    rate: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="step of the weights; none: 1 for hedge, 0.02 for soft_bayes"),
    ] = None
    share: Annotated[
        Annotated[float, Meta(ge=0, le=0.999)] | None,
        Meta(description="share of the first weights given back at every step; none: 0.005 for hedge, 0 else"),
    ] = None
    prior: Annotated[
        float, Meta(ge=1e-9, le=0.999, description="first weight of all but the incoming row, together")
    ] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_orders(self.orders, self.owner)

    @property
    def step(self) -> float:
        """The rate in force."""
        return RATE[self.update] if self.rate is None else self.rate

    @property
    def given_back(self) -> float:
        """The share in force."""
        return SHARE[self.update] if self.share is None else self.share


class Hedge(MixingExpert[HedgeSettings]):
    """The incoming row, every earlier stage and n-grams of the scored text, mixed by learned weights."""

    name: ClassVar[str] = "hedge"
    Settings: ClassVar[type[Settings]] = HedgeSettings
    past: ClassVar[bool] = True

    def make(self, info: StreamInfo) -> Kernel:
        s = self.settings
        return native().Mixer(
            vocab=info.vocab_size,
            orders=list(s.orders),
            smoothing=s.smoothing,
            discount=s.discount,
            by=list(s.by),
            update=s.update,
            rate=s.step,
            share=s.given_back,
            prior=s.prior,
            bytes=s.memory_mib * MIB,
        )


class BackoffSettings(MixingSettings, frozen=True):
    """Settings of ``backoff``."""

    owner: ClassVar[str] = "adapter backoff"
    order: Annotated[
        int, Meta(ge=1, le=MAX_ORDER, description="highest order of the counts; order k reads k-1 tokens of context")
    ] = 6
    by: Annotated[
        tuple[Bucket, ...],
        Meta(
            description="what picks the weight: highest order seen, its count, how peaked it is, the model's entropy, "
            "agreement of the two most probable tokens"
        ),
    ] = ("order", "top")
    prior: Annotated[float, Meta(ge=1e-9, le=0.999, description="first weight of the n-grams (probability)")] = 0.1
    rate: Annotated[
        float, Meta(ge=0, le=1, description="lowest rate of the weights' steps; it falls to this as 1/visits")
    ] = 0.02
    share: Annotated[float, Meta(ge=0, le=0.999, description="share of the first weight given back at every step")] = (
        0.0
    )


class Backoff(MixingExpert[BackoffSettings]):
    """Smoothed n-grams of the scored text, mixed in by a weight learned per kind of place."""

    name: ClassVar[str] = "backoff"
    Settings: ClassVar[type[Settings]] = BackoffSettings

    def make(self, info: StreamInfo) -> Kernel:
        s = self.settings
        return native().Mixer(
            vocab=info.vocab_size,
            orders=[s.order],
            smoothing=s.smoothing,
            discount=s.discount,
            by=list(s.by),
            update="soft_bayes",
            rate=s.rate,
            share=s.share,
            prior=s.prior,
            bytes=s.memory_mib * MIB,
        )
