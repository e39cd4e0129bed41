"""Experts whose kernel proposes hints: ``tilt``, ``match`` and ``best_agree``.

A hint is a token that the prefix suggests; the row is tilted towards it:
p'(v) = p(v) e^{beta 1[v = h]} / (1 + p(h) (e^beta - 1)).

* ``tilt``: the highest order whose exact context was seen names the hint (parameter-golf #1105, #1420, #1514 in its
  causal, token-only form).  By default beta is learned per position; the published setting is
  ``tilt:beta=1.0,min_share=[0.7,0.7,0.7,0.6,0.6,0.6,0.5,0.5,0.5],min_count=[3,3,3,2,2,2,2,2,2]``.
* ``match``: one table for the whole stream names the last place where the last ``min_length`` tokens occurred, compared
  token by token (parameter-golf #1309 and #1310, with one table instead of one per rank; match models: Mahoney, PAQ).
* ``best_agree``: token contexts of several orders, how the word continues, and how the next word starts each propose at
  most one token from the prefix alone.  The published form (parameter-golf #1145, #1302) asked whether the *target*
  starts a word; here both hints stand side by side, each weighed by the model's own probability that such a token comes
  next.  Which sources agree selects the weights.

Calibration: a hint comes with a bucket (how often its token followed the context and how often others did, or how long
a match is).  The calibrated probability of a hint is q = sigma(s), with s linear in logit p(h), in the log of the mass
that the model gives to such tokens, and in one learned number (theta) per bucket of each source that names the hint.
The boost is beta = s - logit p(h), so nothing is boosted that the model already trusts more.  csrc/core/tilt.hpp has
the formula, ``tests/twins/hint_calibration.py`` the same in Python.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta

from evalkit.adapters.base import Float64, Int32, Needs, Side, StreamInfo, TokenChunk
from evalkit.adapters.experts.native import (
    LEAST_MIB,
    MIB,
    Kernel,
    NativeExpert,
    S,
    as_float64,
    as_int32,
    check_orders,
    native,
)
from evalkit.errors import InputError
from evalkit.settings import Settings, Size

MAX_ORDERS = 16
MAX_HINTS = 8
MAX_WORDS = 4
LONGEST = 48

TOPS = (1, 2, 3, 4, 5, 8, 16, 32)
"""Least count of the hinted token in each bucket."""
RESTS = (0, 1, 2, 3, 5, 9)
"""Least count of all other followers in each bucket."""
LENGTHS = 25
MISSES = 4
RUNS = 9
START_THETA = 0.3
"""Share of the prior's log-odds that theta starts with; logit p(h) starts with weight 0.7."""
DOUBT = 0.8
"""The prior is this much less sure than the counts: a hint that is right adds less than a wrong one costs."""


class Rates(NamedTuple):
    """Constants of the learning; the same numbers stand in csrc/core/tilt.{hpp,cpp}."""

    weight: float = 0.2
    theta: float = 0.1
    low: float = -2.0
    high: float = 8.0
    start_weight: float = 0.7
    start_mass: float = 0.3
    start_squares: float = 1.0
    least: float = 1e-6


def logit(p: float) -> float:
    """Natural log-odds."""
    return math.log(p / (1.0 - p))


def count_theta(orders: int = 1) -> list[float]:
    """Start of theta for count buckets: the log-odds of a KT-like estimate; ``orders`` blocks of 48."""
    block = [START_THETA * logit(DOUBT * (top + 0.4) / (top + rest + 1.4)) for top in TOPS for rest in RESTS]
    return block * orders


def match_theta() -> list[float]:
    """Start of theta for the buckets of a match: even odds."""
    return [0.0] * (LENGTHS * MISSES * RUNS)


class TableSettings(Settings, frozen=True):
    """What the settings of the three have in common."""

    memory_mib: Annotated[
        int, Meta(description="memory bound of text and tables, MiB; then no new contexts", ge=LEAST_MIB)
    ] = 1024
    expected_tokens: Annotated[Size, Meta(description="tokens to reserve space for at once; 0: grow as needed")] = 0


class HintedExpert(NativeExpert[S]):
    """Base of the three: candidates are proposed ahead of the scores, and the calibration is what is learned."""

    @property
    def needs(self) -> Needs:
        return Needs(hints=1)

    def propose(self, tokens: Int32) -> Int32:
        """int32 [n] -> int32 [n, H]; counts advance here, scores are not needed for them."""
        return self._core.propose(as_int32(tokens))

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        cands = None if chunk.cands is None else as_int32(chunk.cands)
        return self._core.score(as_int32(chunk.tokens), cands, chunk.own, as_float64(p), self._mass(chunk.side))

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        mass = self._mass(side)
        return self._core.row(as_float64(p), 0.5 if mass is None else float(mass[0]))

    @property
    def full_at(self) -> int:
        """Number of targets counted when the memory bound made a table refuse a context; -1: never."""
        return -1 if self._core is None else self._core.full_at

    def _mass(self, side: Side) -> Float64 | None:
        """Mass of word-start tokens, float64 [n], when the expert asked for it."""
        return as_float64(side.masses["word_start"]) if self.needs.masses else None


class TiltSettings(TableSettings, frozen=True):
    """Settings of ``tilt``."""

    owner: ClassVar[str] = "adapter tilt"
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

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = self.owner
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

    @property
    def shares(self) -> list[float]:
        """Least top/total of every order."""
        return list(self.min_share) if isinstance(self.min_share, tuple) else [self.min_share] * len(self.orders)

    @property
    def counts(self) -> list[int]:
        """Least total of every order."""
        return list(self.min_count) if isinstance(self.min_count, tuple) else [self.min_count] * len(self.orders)


class Tilt(HintedExpert[TiltSettings]):
    """The longest exact context of the scored text tilts the row towards the token that followed it most."""

    name: ClassVar[str] = "tilt"
    Settings: ClassVar[type[Settings]] = TiltSettings

    def make(self, info: StreamInfo) -> Kernel:
        s = self.settings
        return native().Tilt(
            vocab=info.vocab_size,
            orders=list(s.orders),
            min_share=s.shares,
            min_count=s.counts,
            fixed=-1.0 if s.beta is None else s.beta,
            theta=[count_theta(len(s.orders))],
            bytes=s.memory_mib * MIB,
            expected_tokens=s.expected_tokens,
        )


class MatchSettings(TableSettings, frozen=True):
    """Settings of ``match``."""

    owner: ClassVar[str] = "adapter match"
    min_length: Annotated[int, Meta(description="tokens that must agree before a match is taken up")] = 8
    max_length: Annotated[int, Meta(description="tokens compared at most when a match is taken up")] = 32
    misses: Annotated[
        int,
        Meta(
            ge=0, le=8, description="wrong predictions among the last 8 that a match survives; 0: it ends at the first"
        ),
    ] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = self.owner
        if not 1 <= self.min_length <= self.max_length <= LONGEST:
            raise InputError(
                f"{owner}: settings min_length={self.min_length} and max_length={self.max_length} must rise within "
                f"1..{LONGEST} tokens; the defaults are 8 and 32"
            )


class Match(HintedExpert[MatchSettings]):
    """The longest match with an earlier place of the scored text tilts the row towards what followed there."""

    name: ClassVar[str] = "match"
    Settings: ClassVar[type[Settings]] = MatchSettings

    def make(self, info: StreamInfo) -> Kernel:
        s = self.settings
        return native().Match(
            vocab=info.vocab_size,
            min_length=s.min_length,
            max_length=s.max_length,
            misses=s.misses,
            theta=[match_theta()],
            bytes=s.memory_mib * MIB,
            expected_tokens=s.expected_tokens,
        )


class BestAgreeSettings(TableSettings, frozen=True):
    """Settings of ``best_agree``."""

    owner: ClassVar[str] = "adapter best_agree"
    orders: Annotated[
        tuple[int, ...], Meta(description="orders of the token source, the highest seen counts; [] switches it off")
    ] = (4, 8, 16)
    words: Annotated[
        tuple[int, ...], Meta(description="word contexts of the stream, in words with the unfinished one; [] for none")
    ] = (1, 2)
    document_words: Annotated[tuple[int, ...], Meta(description="word contexts of the document alone; [] for none")] = (
        1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = self.owner
        if self.orders:
            check_orders(self.orders, owner)
            if self.orders[0] < 2 or len(self.orders) > 16:
                raise InputError(
                    f"{owner}: setting orders must be at most 16 orders of at least 2, got {list(self.orders)}"
                )
        for name, words in (("words", self.words), ("document_words", self.document_words)):
            if sorted(set(words)) != list(words) or not all(1 <= w <= MAX_WORDS for w in words):
                raise InputError(
                    f"{owner}: setting {name} must be rising numbers within 1..{MAX_WORDS}, got {list(words)}"
                )
        if not 1 <= self.hints <= MAX_HINTS:
            raise InputError(
                f"{owner}: these settings make {self.hints} hints a token, 1 to {MAX_HINTS} are possible "
                "(one for orders, two for each word context)"
            )

    @property
    def hints(self) -> int:
        """Hints per target."""
        return bool(self.orders) + 2 * len(self.words) + 2 * len(self.document_words)

    @property
    def theta(self) -> list[list[float]]:
        """Where the calibration starts, one list per hint."""
        token = [count_theta(len(self.orders))] if self.orders else []
        return token + [count_theta() for _ in range(self.hints - len(token))]


class BestAgree(HintedExpert[BestAgreeSettings]):
    """Token contexts, the word so far and the words before it each hint at one token; agreement is learned."""

    name: ClassVar[str] = "best_agree"
    Settings: ClassVar[type[Settings]] = BestAgreeSettings

    @property
    def needs(self) -> Needs:
        s = self.settings
        return Needs(hints=s.hints, masses=("word_start",) if s.words or s.document_words else ())

    def make(self, info: StreamInfo) -> Kernel:
        s = self.settings
        return native().Agree(
            vocab=info.vocab_size,
            orders=list(s.orders),
            words=list(s.words),
            document_words=list(s.document_words),
            roles=word_roles(info, bool(self.needs.masses)),
            bos=info.bos_id,
            theta=s.theta,
            bytes=s.memory_mib * MIB,
            expected_tokens=s.expected_tokens,
        )


def word_roles(info: StreamInfo, needed: bool = True) -> np.ndarray:
    """uint8 [V]: 1 where a token starts a word, 2 for control tokens, else 0.  InputError when nobody knows."""
    if needed and "word_start" not in info.groups:
        raise InputError(
            "adapter best_agree: the pieces of this tokenizer are unknown, so words are; give --tokenizer FILE.model, "
            "or best_agree:words=[],document_words=[] for token contexts alone"
        )
    roles = np.zeros(info.vocab_size, np.uint8)
    for group, role in (("word_start", 1), ("control", 2)):
        if group in info.groups:
            roles[np.asarray(info.groups[group])] = role
    return roles
