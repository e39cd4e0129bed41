"""What do smoothed n-grams of the scored text add to the row before them?  The expert ``backoff``.

p'(v) = (1 - w) p(v) + w q(v): q backs off from the highest order down to the uniform distribution (Witten-Bell, absolute
discount, or interpolated Kneser-Ney with continuation counts), w is the learned weight of the bucket of this place.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from evalkit.adapters.base import Settings
from evalkit.adapters.experts.mixing import Bucket, MixingExpert, Smoothing, check_range
from evalkit.adapters.experts.tables import MAX_ORDER, MIB, native


class BackoffSettings(Settings, frozen=True):
    """Settings of ``backoff``."""

    order: Annotated[int, Meta(description="highest order of the counts; order k reads k-1 tokens of context")] = 6
    smoothing: Annotated[Smoothing, Meta(description="how an order leans on the one below")] = "kneser_ney"
    discount: Annotated[float, Meta(description="taken off every count (counts); not used by witten_bell")] = 0.75
    by: Annotated[
        tuple[Bucket, ...],
        Meta(
            description="what picks the weight: highest order seen, its count, how peaked it is, the model's entropy, "
            "agreement of the two most probable tokens"
        ),
    ] = ("order", "top")
    prior: Annotated[float, Meta(description="first weight of the n-grams (probability)")] = 0.1
    rate: Annotated[
        float, Meta(description="lowest rate of the weights' steps, 0..1; it falls to this as 1/visits")
    ] = 0.02
    share: Annotated[float, Meta(description="share of the first weight given back at every step, 0..1")] = 0.0
    memory_mib: Annotated[int, Meta(description="memory bound of the counts, MiB; full counts take nothing new")] = 1024

    def __post_init__(self) -> None:
        owner = "adapter backoff"
        check_range(owner, "order", self.order, 1, MAX_ORDER)
        check_range(owner, "discount", self.discount, 0.01, 0.99)
        check_range(owner, "prior", self.prior, 1e-9, 0.999)
        check_range(owner, "rate", self.rate, 0.0, 1.0)
        check_range(owner, "share", self.share, 0.0, 0.999)


class Backoff(MixingExpert):
    """Smoothed n-grams of the scored text, mixed in by a weight learned per kind of place."""

    name: ClassVar[str] = "backoff"
    Settings: ClassVar[type[BackoffSettings]] = BackoffSettings

    def __init__(self, settings: BackoffSettings | None = None) -> None:
        super().__init__(settings or BackoffSettings())

    def mixer(self, vocab_size: int) -> Any:
        s = self.settings
        return native().Mixer(
            vocab_size,
            [s.order],
            s.smoothing,
            s.discount,
            list(s.by),
            "soft_bayes",
            s.rate,
            s.share,
            s.prior,
            s.memory_mib * MIB,
        )
