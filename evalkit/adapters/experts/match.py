"""How did the text go on where it last stood like this?  The expert ``match``: the longest exact match tilts the row.

One table for the whole stream names the place where the last ``min_length`` tokens last stood, compared token by token.
(parameter-golf #1309 and #1310, with one table instead of one per rank; match models: Mahoney, PAQ.)
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from evalkit.adapters.base import Settings, StreamInfo
from evalkit.adapters.experts.calibration import match_theta
from evalkit.adapters.experts.hinted import HintedExpert, check_memory_mib
from evalkit.adapters.experts.tables import MIB, native
from evalkit.errors import InputError

LONGEST = 48


class MatchSettings(Settings, frozen=True):
    """Settings of ``match``."""

    min_length: Annotated[int, Meta(description="tokens that must agree before a match is taken up")] = 8
    max_length: Annotated[int, Meta(description="tokens compared at most when a match is taken up")] = 32
    misses: Annotated[
        int, Meta(description="wrong predictions among the last 8 that a match survives; 0: it ends at the first")
    ] = 3
    memory_mib: Annotated[int, Meta(description="memory bound of text and table, MiB; then no new contexts")] = 1024
    expected_tokens: Annotated[int, Meta(description="tokens to reserve space for at once; 0: grow as needed")] = 0

    def __post_init__(self) -> None:
        owner = "adapter match"
        if not 1 <= self.min_length <= self.max_length <= LONGEST:
            raise InputError(
                f"{owner}: settings min_length={self.min_length} and max_length={self.max_length} must rise within "
                f"1..{LONGEST} tokens; the defaults are 8 and 32"
            )
        if not 0 <= self.misses <= 8:
            raise InputError(f"{owner}: setting misses must lie within 0..8, got {self.misses}")
        check_memory_mib(self.memory_mib, self.expected_tokens, owner)


class Match(HintedExpert):
    """The longest match with an earlier place of the scored text tilts the row towards what followed there."""

    name: ClassVar[str] = "match"
    Settings: ClassVar[type[MatchSettings]] = MatchSettings

    def __init__(self, settings: MatchSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or MatchSettings()

    def _make(self, info: StreamInfo) -> Any:
        s = self.settings
        return native().Match(
            info.vocab_size,
            s.min_length,
            s.max_length,
            s.misses,
            [match_theta()],
            s.memory_mib * MIB,
            s.expected_tokens,
        )
