"""What did long exact contexts say came next?  The expert ``tilt``: the highest order that was seen tilts the row.

p'(v) = p(v) e^{beta 1[v = h]} / (1 + p(h) (e^beta - 1)), h from the prefix alone (parameter-golf #1105, #1420, #1514 in
its causal, token-only form).  By default beta is learned per position; the published setting is
``tilt:beta=1.0,min_share=[0.7,0.7,0.7,0.6,0.6,0.6,0.5,0.5,0.5],min_count=[3,3,3,2,2,2,2,2,2]``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from evalkit.adapters.base import Settings, StreamInfo
from evalkit.adapters.experts.calibration import count_theta
from evalkit.adapters.experts.hinted import HintedExpert, check_memory_mib
from evalkit.adapters.experts.tables import MIB, check_orders, native
from evalkit.errors import InputError

MAX_ORDERS = 16


class TiltSettings(Settings, frozen=True):
    """Settings of ``tilt``."""

    orders: Annotated[tuple[int, ...], Meta(description="orders; order k reads k-1 tokens of context")] = tuple(
        range(8, 17)
    )
    beta: Annotated[
        float | None, Meta(description="fixed boost in nats, times top/total; none: learned from booked scores")
    ] = None
    min_share: Annotated[
        float | tuple[float, ...], Meta(description="least top/total of a trusted context, one or one per order")
    ] = 0.0
    min_count: Annotated[
        int | tuple[int, ...],
        Meta(description="least number of times a trusted context was seen, one or one per order"),
    ] = 1
    memory_mib: Annotated[int, Meta(description="memory bound of text and tables, MiB; then no new contexts")] = 1024
    expected_tokens: Annotated[int, Meta(description="tokens to reserve space for at once; 0: grow as needed")] = 0

    def __post_init__(self) -> None:
        owner = "adapter tilt"
        check_orders(self.orders, owner)
        if self.orders[0] < 2 or len(self.orders) > MAX_ORDERS:
            raise InputError(
                f"{owner}: setting orders must be at most {MAX_ORDERS} orders of at least 2, got {list(self.orders)}; "
                "write orders=8..16"
            )
        if self.beta is not None and not 0.0 <= self.beta <= 20.0:
            raise InputError(
                f"{owner}: setting beta must lie within 0..20 nats, got {self.beta:g}; leave it out to learn it"
            )
        for name, values in (("min_share", self.min_share), ("min_count", self.min_count)):
            if isinstance(values, tuple) and len(values) != len(self.orders):
                raise InputError(
                    f"{owner}: setting {name} has {len(values)} numbers for {len(self.orders)} orders; "
                    "give one for all or one for each"
                )
        if not all(0.0 <= share <= 1.0 for share in self.shares):
            raise InputError(f"{owner}: setting min_share must lie within 0..1, got {self.shares}")
        if not all(1 <= count <= 189 for count in self.counts):
            raise InputError(f"{owner}: setting min_count must lie within 1..189 counts, got {self.counts}")
        check_memory_mib(self.memory_mib, self.expected_tokens, owner)

    @property
    def shares(self) -> list[float]:
        """Least top/total of every order."""
        return list(self.min_share) if isinstance(self.min_share, tuple) else [self.min_share] * len(self.orders)

    @property
    def counts(self) -> list[int]:
        """Least total of every order."""
        return list(self.min_count) if isinstance(self.min_count, tuple) else [self.min_count] * len(self.orders)


class Tilt(HintedExpert):
    """The longest exact context of the scored text tilts the row towards the token that followed it most."""

    name: ClassVar[str] = "tilt"
    Settings: ClassVar[type[TiltSettings]] = TiltSettings

    def __init__(self, settings: TiltSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or TiltSettings()

    def _make(self, info: StreamInfo) -> Any:
        s = self.settings
        return native().Tilt(
            info.vocab_size,
            list(s.orders),
            s.shares,
            s.counts,
            -1.0 if s.beta is None else s.beta,
            [count_theta(len(s.orders))],
            s.memory_mib * MIB,
            s.expected_tokens,
        )
