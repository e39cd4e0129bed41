"""What do tokens, the word so far and the words before it agree on?  The expert ``best_agree``, legal by construction.

Each source proposes at most one token from the prefix alone: token contexts of several orders; how the word goes on;
how the next word starts (the last two on the words of the stream and on those of the document).  The published form
(parameter-golf #1145, #1302) asked whether the *target* starts a word; here both hints stand side by side, each
weighed by the model's own probability that such a token comes next.  Which sources agree selects the weights.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta

from evalkit.adapters.base import Needs, Settings, StreamInfo
from evalkit.adapters.experts.calibration import count_theta
from evalkit.adapters.experts.hinted import HintedExpert, check_memory_mib
from evalkit.adapters.experts.tables import MIB, check_orders, native
from evalkit.errors import InputError

MAX_HINTS = 8
MAX_WORDS = 4


class BestAgreeSettings(Settings, frozen=True):
    """Settings of ``best_agree``."""

    orders: Annotated[
        tuple[int, ...], Meta(description="orders of the token source, the highest seen counts; [] switches it off")
    ] = (4, 8, 16)
    words: Annotated[
        tuple[int, ...], Meta(description="word contexts of the stream, in words with the unfinished one; [] for none")
    ] = (1, 2)
    document_words: Annotated[tuple[int, ...], Meta(description="word contexts of the document alone; [] for none")] = (
        1,
    )
    memory_mib: Annotated[int, Meta(description="memory bound of text and tables, MiB; then no new contexts")] = 1024
    expected_tokens: Annotated[int, Meta(description="tokens to reserve space for at once; 0: grow as needed")] = 0

    def __post_init__(self) -> None:
        owner = "adapter best_agree"
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
        check_memory_mib(self.memory_mib, self.expected_tokens, owner)

    @property
    def hints(self) -> int:
        """Hints per target."""
        return bool(self.orders) + 2 * len(self.words) + 2 * len(self.document_words)

    @property
    def theta(self) -> list[list[float]]:
        """Where the calibration starts, one list per hint."""
        token = [count_theta(len(self.orders))] if self.orders else []
        return token + [count_theta() for _ in range(self.hints - len(token))]


class BestAgree(HintedExpert):
    """Token contexts, the word so far and the words before it each hint at one token; agreement is learned."""

    name: ClassVar[str] = "best_agree"
    Settings: ClassVar[type[BestAgreeSettings]] = BestAgreeSettings

    def __init__(self, settings: BestAgreeSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or BestAgreeSettings()

    @property
    def needs(self) -> Needs:
        s = self.settings
        return Needs(hints=s.hints, masses=("word_start",) if s.words or s.document_words else ())

    def _make(self, info: StreamInfo) -> Any:
        s = self.settings
        return native().Agree(
            info.vocab_size,
            list(s.orders),
            list(s.words),
            list(s.document_words),
            word_roles(info, bool(self.needs.masses)),
            info.bos_id,
            s.theta,
            s.memory_mib * MIB,
            s.expected_tokens,
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
