"""Which streams a scorer takes, and whether it may still be asked.

A scorer with a context limit, a least length or a block size is neither at fault nor inconclusive: probes are cut to
the longest stream that it takes, and filled up behind their last token to a length that it takes.  What stands behind a
position is free in every probe (a causal score does not see it), so the filling changes no question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from evalkit.legality.scorer import Box, Float64, Int64, ScorerFault

FIRST = 64
LONGEST = 1 << 20
LADDER = (128, 256, 512, 1024, 96, 192, 384, 48, 32, 16, 8, 4, 2, 2048, 240, 720, 1000, 5040)
SCAN = 512
"""Lengths that are tried one by one when none of the ladder is taken."""


@dataclass(frozen=True)
class Lengths:
    """``least`` to ``most`` tokens, in multiples of ``multiple``."""

    least: int = 1
    most: int = LONGEST
    multiple: int = 1

    def room(self, tokens: int) -> int:
        """The shortest length taken that holds so many tokens (it may exceed ``most``)."""
        return max(self.least, -(-tokens // self.multiple) * self.multiple)

    def within(self, tokens: int) -> int:
        """The longest length taken that is no longer than ``tokens``; the least length when none is."""
        return max(self.least, min(tokens, self.most) // self.multiple * self.multiple)

    def sentence(self) -> str:
        """What the scorer takes, "" when it takes anything."""
        words = [f"at least {self.least} tokens"] if self.least > 1 and self.least != self.multiple else []
        words += [f"multiples of {self.multiple}"] if self.multiple > 1 else []
        words += [f"at most {self.most} tokens"] if self.most < LONGEST else []
        return f"the scorer takes {', '.join(words)}; the probes were made to fit" if words else ""


class Asking(Protocol):
    """What finding the lengths needs of an audit in progress (:class:`evalkit.legality.probes.lab.Lab`)."""

    box: Box
    rng: np.random.Generator
    lengths: Lengths

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int: ...
    def late(self) -> bool: ...


class Fitted:
    """A box whose streams are made to fit, and which answers no more once the lab's time is over."""

    def __init__(self, box: Box, lab: Asking) -> None:
        self.box, self.lab = box, lab
        self.facts, self.meter = box.facts, box.meter

    def score(self, tokens: Int64) -> Float64:
        return self.box.score(self._fit(tokens))[: len(tokens)]

    def ask(self, face: str, argument: Any) -> Any:
        if face != "score_batch":
            self._in_time()
            return self.box.ask(face, argument)
        return self.box.ask(face, self._fit(argument))[:, : argument.shape[1]]

    def elsewhere(self, tokens: Int64) -> Float64:
        return self.box.elsewhere(self._fit(tokens))[: len(tokens)]

    def renew(self) -> None:
        self.box.renew()

    def close(self) -> None:
        self.box.close()

    def _in_time(self) -> None:
        if self.lab.late():
            raise ScorerFault("time", "the time for probing is over")

    def _fit(self, tokens: Int64) -> Int64:
        """int64 [..., T], with token 0 behind the last one up to a length that is taken."""
        self._in_time()
        missing = self.lab.lengths.room(tokens.shape[-1]) - tokens.shape[-1]
        if not missing:
            return tokens
        filling = np.zeros((*tokens.shape[:-1], missing), dtype=np.int64)
        return np.concatenate([tokens, filling], axis=-1)


def find(lab: Asking) -> Lengths:
    """Least length, multiple and announced limit, found by asking; ScorerFault when no stream at all is taken."""
    box, most = lab.box, lab.box.facts.max_tokens or LONGEST
    first = min(FIRST, most)
    fault = _refusal(lab, box, first)
    if fault is None:
        return Lengths(most=most) if _refusal(lab, box, 1) is None else _shape(lab, first, most)
    for length in (*LADDER, *range(1, SCAN)):
        if length <= most and _refusal(lab, box, length) is None:
            return _shape(lab, length, most)
    raise fault


def _shape(lab: Asking, taken: int, most: int) -> Lengths:
    """Multiple and least length of a scorer that takes ``taken`` tokens."""
    takes = lambda n: 0 < n <= most and _refusal(lab, lab.box, n) is None  # noqa: E731
    divisors = [d for d in range(1, taken + 1) if taken % d == 0]
    multiple = next((d for d in divisors if takes(taken + d) or takes(taken - d)), taken)
    low, high = 0, taken // multiple
    while high - low > 1:
        middle = 1 if low == 0 and takes(multiple) else (low + high) // 2
        if middle == 1 or takes(middle * multiple):
            high = middle
        else:
            low = middle
    return Lengths(high * multiple, max(taken, most // multiple * multiple), multiple)


def longest(lab: Asking, wanted: int) -> Lengths:
    """The lab's lengths with ``most`` at what is really taken, looked for up to ``wanted`` tokens."""
    known = lab.lengths
    high = known.within(wanted)
    if _refusal(lab, lab.box, high) is None:
        return known
    low, high = known.least // known.multiple, high // known.multiple
    while high - low > 1:
        middle = (low + high) // 2
        taken = _refusal(lab, lab.box, middle * known.multiple) is None
        low, high = (middle, high) if taken else (low, middle)
    return Lengths(known.least, max(known.least, low * known.multiple), known.multiple)


def _refusal(lab: Asking, box: Box, length: int) -> ScorerFault | None:
    """None when a stream of this length is scored; the fault when score() raises, whatever stands in the stream."""
    found = None
    for tokens in (lab.rng.integers(0, lab.vocab_size, length), np.full(length, lab.bos)):
        try:
            box.score(tokens)
            return None
        except ScorerFault as fault:
            if fault.kind != "raised":
                raise
            found = found or fault
    return found
