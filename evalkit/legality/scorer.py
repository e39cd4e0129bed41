"""A black box: what the audit may ask of it, and how it fails.

A scorer has ``vocab_size`` and ``score(tokens)``.  Anything else is an optional *face*; the audit uses those it finds:

    score_batch(tokens [B, T]) -> [B, T]     many streams of one length at once; must agree with score()
    ledger(tokens) -> (index [N], logp [N])  every booking, in the order it was made
    order(tokens) -> index [T]               declared processing order, when it is not stream order
    encode(text) / decode(tokens)            UTF-8 bytes to tokens and back
    byte_counts(tokens) -> int64 [T]         bytes that each target stands for
    bpb(tokens) -> float                     the figure claimed for the stream
    build(tokens) -> bytes                   the artifact that is built when the validation file holds ``tokens``
    strict(tokens) -> bytes                  engine scorers: JSON of a replay with the target withheld (probes/strict.py)

and attributes: ``bos_id``, ``document_isolation`` (declared property), ``seq_len`` (a tail shorter than this may be
left unbooked), ``max_tokens`` (the longest stream it takes; 0: any), ``precision`` ("bfloat16" or "float16": rounding
of this size is expected).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

FACES = ("score_batch", "ledger", "order", "encode", "decode", "byte_counts", "bpb", "build", "strict")
MAX_VOCAB = 1 << 22


class Scorer(Protocol):
    """The least a black box must be.  Natural logs; every call starts from a fresh state."""

    vocab_size: int

    def score(self, tokens: Int64) -> Float64:
        """tokens int64 [T] -> float64 [T]: log-probability booked for tokens[t] given tokens[:t]."""
        ...


class ScorerFault(Exception):
    """The black box did not answer as the protocol says; ``kind`` is one word, the message one sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Facts:
    """What a black box says about itself."""

    vocab_size: int
    bos_id: int | None = None
    faces: frozenset[str] = frozenset()
    document_isolation: bool = False
    seq_len: int = 0
    max_tokens: int = 0
    precision: str = "float32"


@dataclass
class Meter:
    """What the audit has cost so far: calls, tokens replayed, seconds inside the scorer."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    last: Any = None
    """Argument of the latest call."""


class Box(Protocol):
    """A scorer behind a wall, thick (another process) or thin (this one)."""

    facts: Facts
    meter: Meter

    def score(self, tokens: Int64) -> Float64: ...

    def ask(self, face: str, argument: Any) -> Any: ...

    def renew(self) -> None:
        """Throw the instance away and make a fresh one before every call from now on."""
        ...

    def elsewhere(self, tokens: Int64) -> Float64:
        """The same stream by a fresh instance, in a process of its own where the scorer has one."""
        ...

    def close(self) -> None: ...


def read_facts(scorer: Any) -> Facts:
    """Check what the scorer says of itself; ScorerFault("load") with a sentence when it is no scorer."""
    kind = type(scorer).__name__
    if not callable(getattr(scorer, "score", None)):
        raise ScorerFault("load", f"the factory returned a {kind} without a score(tokens) method")
    size = getattr(scorer, "vocab_size", None)
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 2 <= size <= MAX_VOCAB:
        raise ScorerFault("load", f"{kind}.vocab_size is {size!r}, not an integer from 2 to {MAX_VOCAB}")
    bos = getattr(scorer, "bos_id", None)
    if bos is not None and not (isinstance(bos, int | np.integer) and 0 <= bos < size):
        raise ScorerFault("load", f"{kind}.bos_id is {bos!r}, not a token of 0..{size - 1}")
    return Facts(
        vocab_size=int(size),
        bos_id=None if bos is None else int(bos),
        faces=frozenset(face for face in FACES if callable(getattr(scorer, face, None))),
        document_isolation=bool(getattr(scorer, "document_isolation", False)),
        seq_len=max(0, int(getattr(scorer, "seq_len", 0) or 0)),
        max_tokens=max(0, int(getattr(scorer, "max_tokens", 0) or 0)),
        precision=str(getattr(scorer, "precision", "float32")),
    )


def check_scores(answer: Any, shape: tuple[int, ...]) -> Float64:
    """Turn an answer into finite-or-minus-infinity float64 of the right shape, or raise ScorerFault."""
    try:
        array = np.asarray(answer)
        scores = np.array(array, dtype=np.float64)
    except Exception as fault:
        raise ScorerFault("shape", f"score() returned {type(answer).__name__}, not numbers ({fault})") from None
    if array.dtype.kind not in "fiu":
        raise ScorerFault("shape", f"score() returned {type(answer).__name__} of dtype {array.dtype}, not real numbers")
    if scores.shape != shape:
        raise ScorerFault("shape", f"score() returned shape {list(scores.shape)} for tokens of shape {list(shape)}")
    if (scores == np.inf).any():
        at = tuple(int(i) for i in np.argwhere(scores == np.inf)[0])
        raise ScorerFault("not-a-number", f"score() returned +infinity at position {at[-1]}: no log-probability")
    if np.isnan(scores).any():
        where = tuple(int(i) for i in np.argwhere(np.isnan(scores))[0])
        raise ScorerFault(
            "not-a-number", f"score() returned NaN at position {where[-1]} (of {int(np.isnan(scores).sum())})"
        )
    return scores


@dataclass
class LocalBox:
    """A thin wall: the scorer runs in this process.  For code that one trusts, such as the zoo."""

    factory: Callable[[], Any]
    facts: Facts = field(init=False)
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self._scorer = self.factory()
        self._always_fresh = False
        self.facts = read_facts(self._scorer)

    def score(self, tokens: Int64) -> Float64:
        return check_scores(self._call("score", tokens), tokens.shape)

    def ask(self, face: str, argument: Any) -> Any:
        answer = self._call(face, argument)
        return check_scores(answer, argument.shape) if face == "score_batch" else answer

    def renew(self) -> None:
        self._always_fresh = True

    def elsewhere(self, tokens: Int64) -> Float64:
        fresh = LocalBox(self.factory)
        fresh.meter = self.meter
        return fresh.score(tokens)

    def close(self) -> None:
        """Nothing to release."""

    def _call(self, face: str, argument: Any) -> Any:
        given = argument.copy() if isinstance(argument, np.ndarray) else argument
        scorer = self.factory() if self._always_fresh else self._scorer
        start, self.meter.last = time.perf_counter(), argument
        try:
            answer = getattr(scorer, face)(given)
        except ScorerFault:
            raise
        except MemoryError:
            raise ScorerFault("memory", f"{face}() ran out of memory on {len(argument)} tokens") from None
        except (Exception, SystemExit) as fault:
            raise ScorerFault("raised", f"{face}() raised {type(fault).__name__}: {fault}") from None
        self._charge(time.perf_counter() - start, argument)
        if isinstance(argument, np.ndarray) and not np.array_equal(given, argument):
            index = int(np.flatnonzero((given != argument).ravel())[0]) if given.shape == argument.shape else 0
            raise ScorerFault(
                "mutated", f"{face}() changed its input tokens (first at index {index}); let it copy them"
            )
        return answer

    def _charge(self, seconds: float, argument: Any) -> None:
        self.meter.calls += 1
        self.meter.tokens += argument.size if isinstance(argument, np.ndarray) else len(argument)
        self.meter.seconds += seconds
