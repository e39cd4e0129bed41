"""Which of many distributions should be believed here?  The expert ``hedge``: a mixture with learned weights.

Its experts are the incoming row, every earlier stage of the stack (the model first) and n-gram distributions of the
scored text; all are proper, so their mixture is.  Weights follow each target's probabilities: ``hedge`` multiplies them
(finds the best expert), ``soft_bayes`` steps towards the best fixed mixture.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from evalkit.adapters.base import Settings
from evalkit.adapters.experts.mixing import Bucket, MixingExpert, Smoothing, check_range
from evalkit.adapters.experts.tables import MIB, check_orders, native

RATE = {"hedge": 1.0, "soft_bayes": 0.02}
SHARE = {"hedge": 0.005, "soft_bayes": 0.0}


class HedgeSettings(Settings, frozen=True):
    """Settings of ``hedge``."""

    orders: Annotated[
        tuple[int, ...], Meta(description="orders whose n-gram distributions are experts; order k reads k-1 tokens")
    ] = (1, 2, 3, 4, 5)
    smoothing: Annotated[Smoothing, Meta(description="how an order leans on the one below")] = "kneser_ney"
    discount: Annotated[float, Meta(description="taken off every count (counts); not used by witten_bell")] = 0.75
    update: Annotated[Literal["hedge", "soft_bayes"], Meta(description="how weights learn")] = "soft_bayes"
    rate: Annotated[
        float | None, Meta(description="step of the weights, 0..1; none: 1 for hedge, 0.02 for soft_bayes")
    ] = None
    share: Annotated[
        float | None,
        Meta(description="share of the first weights given back at every step, 0..1; none: 0.005 for hedge, 0 else"),
    ] = None
    by: Annotated[
        tuple[Bucket, ...],
        Meta(
            description="what picks the weights: highest order seen, its count, how peaked it is, the model's entropy, "
            "agreement of the two most probable tokens; empty: one vector for all"
        ),
    ] = ("order",)
    prior: Annotated[float, Meta(description="first weight of all but the incoming row, together")] = 0.1
    memory_mib: Annotated[int, Meta(description="memory bound of the counts, MiB; full counts take nothing new")] = 1024

    def __post_init__(self) -> None:
        owner = "adapter hedge"
        check_orders(self.orders, owner)
        check_range(owner, "discount", self.discount, 0.01, 0.99)
        check_range(owner, "prior", self.prior, 1e-9, 0.999)
        check_range(owner, "rate", self.step, 0.0, 1.0)
        check_range(owner, "share", self.given_back, 0.0, 0.999)

    @property
    def step(self) -> float:
        """The rate in force."""
        return RATE[self.update] if self.rate is None else self.rate

    @property
    def given_back(self) -> float:
        """The share in force."""
        return SHARE[self.update] if self.share is None else self.share


class Hedge(MixingExpert):
    """The incoming row, every earlier stage and n-grams of the scored text, mixed by learned weights."""

    name: ClassVar[str] = "hedge"
    Settings: ClassVar[type[HedgeSettings]] = HedgeSettings
    past: ClassVar[bool] = True

    def __init__(self, settings: HedgeSettings | None = None) -> None:
        super().__init__(settings or HedgeSettings())

    def mixer(self, vocab_size: int) -> Any:
        s = self.settings
        return native().Mixer(
            vocab_size,
            list(s.orders),
            s.smoothing,
            s.discount,
            list(s.by),
            s.update,
            s.step,
            s.given_back,
            s.prior,
            s.memory_mib * MIB,
        )
