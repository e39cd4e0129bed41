"""The adapter contract: the protocols of experts and learners, and the receipt that allows them to learn.

Two families with two clocks (legality by construction):

* an **Expert** reshapes the distribution, one stage of a stack, on the *token clock*.  It is pointwise: the new
  probability of token v is a function of v's old probability, of v's own counts, and of scalars that depend on the
  prefix alone.  So the target can be scored without the row, and the row can be had at any time by the same code.
* a **Learner** reshapes the model on the *chunk clock*: it sees a chunk only when all of it is booked.

Each expert has two forms of one computation that must agree bit for bit on CPU::

    fused :  p = expert.score(chunk, p)                         # native loop: predict, then observe, token by token
    strict:  for t: row = expert.row(row, side)                 # target withheld: it is not an argument
                    book(row[x_t]); expert.observe(receipt)     # a Receipt exists only after booking

Shape legend: n targets of a chunk, K candidate ids per target, V vocabulary, H hints, M mass groups.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit import _native
from evalkit.errors import EvalkitError, InputError, LegalityError
from evalkit.settings import Settings

if TYPE_CHECKING:
    from evalkit.adapters.learners.ranks import Ranks
    from evalkit.models.base import Model
    from evalkit.stream.corpus import Corpus, Overlap
    from evalkit.stream.stream import Stream

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage reads from the model's row: gathered once for the whole stack; nothing else is sent between ranks."""

    hints: int = 0
    """Token ids per target that :meth:`HintingExpert.propose` returns (their probability is gathered too)."""
    entropy: bool = False
    """Entropy of the model's row, nats."""
    top: bool = False
    """The model's most probable id and its probability."""
    masses: tuple[str, ...] = ()
    """Names of groups in ``StreamInfo.groups`` whose total model probability is wanted."""
    rows: bool = False
    """The whole row.  Then K == V for this stage and those before it; later stages get single columns."""


@dataclass(frozen=True)
class StreamInfo:
    """What an adapter may know before the first token: constants of the artifact and tokenizer, nothing of the text."""

    vocab_size: int
    bos_id: int
    first_token: int
    """Token 0 of the stream: context, never a target."""
    seed: int = 0
    piece_bytes: tuple[bytes, ...] = ()
    """Bytes of each piece, a leading space included; control pieces are b""; empty when the tokenizer is unknown."""
    groups: dict[str, Bool] = field(default_factory=dict)
    """Named id masks, bool [V]: at least "word_start" and "control" when the tokenizer is known."""
    corpus: Corpus | None = None
    """Text that the checkpoint carries."""


@dataclass(frozen=True)
class Side:
    """Prefix-only scalars of the *model's* row, one entry per target; None where no stage needs them."""

    entropy: Float64 | None = None
    top_id: Int32 | None = None
    top_p: Float64 | None = None
    masses: dict[str, Float64] = field(default_factory=dict)

    def at(self, i: int) -> Side:
        """The side scalars of target i alone (arrays of length 1)."""
        return self.cut(i, i + 1)

    def cut(self, begin: int, end: int) -> Side:
        """The side scalars of targets begin..end-1."""
        s = slice(begin, end)
        return Side(
            entropy=None if self.entropy is None else self.entropy[s],
            top_id=None if self.top_id is None else self.top_id[s],
            top_p=None if self.top_p is None else self.top_p[s],
            masses={k: v[s] for k, v in self.masses.items()},
        )


TOP = -2
"""A hint that stands for the model's most probable id: its column bears that id once the row is there.  Needs ``top``."""


def named(cands: Int32, side: Side) -> Int32:
    """Candidates int32 [n, K] with :data:`TOP` replaced by the id that it stands for."""
    asked = cands == TOP
    if not asked.any():
        return cands
    assert side.top_id is not None
    return np.where(asked, side.top_id[:, None], cands)


@dataclass(frozen=True)
class TokenChunk:
    """Consecutive targets in stream order, for the fused form.

    ``cands`` int32 [n, K]: column 0 is the target, the rest are hints (-1 where there is none, its p is ignored).
    ``cands`` None means K == V and column v is token v.
    ``own``: the first column of the receiving expert's own hints (meaningless when ``cands`` is None).
    ``history``: the p arrays of every earlier stage, ``history[0]`` the model's own.
    """

    tokens: Int32
    cands: Int32 | None
    side: Side
    own: int = 1
    history: tuple[Float64, ...] = ()


KEEP_CONTEXT = 8192
"""Booked tokens before its targets that a receipt carries, for learners that train on whole windows."""
TOKEN_CONTEXT = 64
"""The same on the token clock, where each target has a receipt of its own."""


@dataclass(frozen=True)
class Rows:
    """Whole rows of n targets: p = weights * factors[:, None], in float64; every row sums to 1.

    weights float32 [n, V], C order; factors float64 [n].
    """

    weights: Float32
    factors: Float64

    def __len__(self) -> int:
        return len(self.weights)

    def cut(self, begin: int, end: int) -> Rows:
        """Targets begin..end-1."""
        return Rows(self.weights[begin:end], self.factors[begin:end])

    def p(self) -> Float64:
        """Probabilities, float64 [n, V]."""
        return self.weights.astype(np.float64) * self.factors[:, None]

    def columns(self, cands: Int32) -> Float64:
        """Probabilities of ids int32 [n, K] (-1 reads token 0), float64 [n, K]."""
        return _native.weight_columns(self.weights, factors=self.factors, ids=np.ascontiguousarray(cands))


class Receipt:
    """Proof that targets [lo, hi) are booked.  Only :meth:`TokenLedger.book` makes one; learning takes nothing else.

    Nothing else can create one: no constructor, subclass, copy or pickle, and its fields cannot be set.
    The arrays are copies, so that their ``.base`` does not lead to later tokens.
    """

    __slots__ = ("context", "hi", "lo", "nats", "tokens")
    lo: int
    hi: int
    tokens: Int32
    """int32 [hi-lo]: the booked targets."""
    nats: Float64
    """float64 [hi-lo]: what was booked for them."""
    context: Int32
    """int32 [c]: the tokens just before ``lo``, all of them booked or token 0."""

    def __new__(cls, *_: object, **__: object) -> Receipt:
        raise TypeError("a Receipt is made by a ledger when it books scores, not by hand")

    def __init_subclass__(cls) -> None:
        raise TypeError(f"{cls.__name__}: a Receipt has no subclasses; a ledger makes it when it books scores")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: a Receipt says what was booked and cannot be changed")


class TokenLedger:
    """The ledger of one clock: books targets in order, each once, and hands out the receipt of what it booked.

    The run's own ledger (scoring/ledger.py) keeps one for chunks. So do a document that learns separately, an expert
    that runs in its strict form, and a rank that learns what rank 0 booked.
    """

    def __init__(self, before: npt.NDArray[Any], next_target: int | None = None, keep: int = KEEP_CONTEXT) -> None:
        """``before`` int [c]: the tokens before the first target to be booked, at least the last ``keep`` of them.

        ``next_target``: the position of that target in the stream; None: ``before`` begins with token 0.
        """
        self.next_target = len(before) if next_target is None else next_target
        self._keep = keep
        self._booked = np.array(before[-keep:], dtype=np.int32)

    def book(self, lo: int, tokens: npt.NDArray[Any], nats: Float64) -> Receipt:
        """Book targets lo..lo+n-1: tokens int [n], nats float64 [n].  LegalityError when some are skipped or booked twice."""
        if lo != self.next_target:
            word = "twice" if lo < self.next_target else "out of order"
            raise LegalityError(
                "single-pass", lo, f"target {lo} would be booked {word}: the next one is {self.next_target}"
            )
        receipt = object.__new__(Receipt)
        own = np.array(tokens, dtype=np.int32)
        fields = {"lo": lo, "hi": lo + len(own), "tokens": own, "nats": nats.copy(), "context": self._booked.copy()}
        for name, value in fields.items():
            object.__setattr__(receipt, name, value)
        self.next_target = receipt.hi
        self._booked = np.concatenate((self._booked, own))[-self._keep :]
        return receipt


@runtime_checkable
class Expert(Protocol):
    """One stage of the stack, on the token clock.  Probabilities are linear float64, not logs."""

    name: ClassVar[str]
    settings: Any

    def begin(self, info: StreamInfo) -> None:
        """Start from a fresh state on a stream whose token 0 is ``info.first_token``."""
        ...

    @property
    def needs(self) -> Needs: ...

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        """Fused form: map p [n, K] to p' [n, K], observing each target after its own row is done."""
        ...

    def row(self, p: Float64, side: Side, history: tuple[Float64, ...] = ()) -> Float64:
        """Strict form: map the row p [V] of the next target to p' [V].  Changes no visible state."""
        ...

    def observe(self, receipt: Receipt) -> None:
        """Strict form: learn the one target of the receipt, after :meth:`row` was called for it."""
        ...

    def snapshot(self) -> bytes:
        """The score-dependent state (learned weights).  State that follows from the tokens alone is rebuilt by replay."""
        ...

    def restore(self, state: bytes, tokens: Int32) -> None:
        """After begin(): the state as if targets ``tokens`` (the stream from position 1) had been scored, bit for bit."""
        ...

    def state_bytes(self) -> int:
        """Memory held now, in bytes."""
        ...


@runtime_checkable
class HintingExpert(Expert, Protocol):
    """An expert with ``needs.hints > 0``."""

    def propose(self, tokens: Int32) -> Int32:
        """Return int32 [n, H] hints for the next n targets (-1: none, TOP: the model's most probable id); hint i depends on
        tokens[:i] only.

        Called for consecutive targets in stream order, always before :meth:`score` or :meth:`row` for the same ones, and
        as far ahead of them as the engine likes.  :meth:`score`, :meth:`row` and :meth:`observe` must therefore keep their own
        position in the stream, and :meth:`snapshot` must not depend on how far ahead proposing is.
        """
        ...


@runtime_checkable
class RunsBeside(Protocol):
    """An expert whose :meth:`Expert.score` may run in any thread while other experts work: it touches nothing but its own state
    and what it is given, and holds the interpreter's lock for little of its time."""

    runs_beside: ClassVar[bool]


@runtime_checkable
class CountsAhead(RunsBeside, Protocol):
    """One whose counts, which need tokens alone, can run ahead of its scores."""

    def count(self, tokens: Int32, cands: Int32) -> None:
        """Count targets int32 [n] that :meth:`Expert.score` will be given later with the same cands int32 [n, K].

        Called in stream order, and answered by one call of score each; it may run beside those for earlier targets.  Never
        called before the experts are asked for a :meth:`Expert.row`.
        """
        ...


@runtime_checkable
class CountsCorpus(Protocol):
    """An expert that may have counted text before the first target (law provenance)."""

    name: ClassVar[str]

    def overlap(self, stream: Stream, info: StreamInfo) -> Overlap | None:
        """How much of the stream that text contains; None where nothing was counted.  InputError for another tokenizer's."""
        ...


@runtime_checkable
class EndsRows(Protocol):
    """An expert on whole rows that returns single columns when no later stage reads rows."""

    def score_columns(self, chunk: TokenChunk, rows: Rows | Float64) -> Float64:
        """:meth:`Expert.score` of whole rows [n, V] for the columns ``chunk.cands`` alone, float64 [n, K]; same bits.

        ``chunk.history`` holds columns, too.
        """
        ...


@dataclass(frozen=True)
class ChunkWork:
    """How a learner trains on a booked chunk, for forecasts; 0 where a field does not apply."""

    epochs: int = 0
    """Passes over the chunk."""
    seq_len: int = 0
    """Input tokens of a training sequence."""
    micro_tokens: int = 0
    """Input tokens of one forward and backward; a step sums over as many as it needs."""
    batch: int = 0
    """Sequences per optimiser step; 0: the whole chunk."""

    def parts(self, targets: int) -> int:
        """Micro-batches of one step on a chunk of ``targets`` targets: what ranks can share."""
        if not self.seq_len or not self.micro_tokens:
            return 1
        sequences = self.batch or math.ceil(targets / self.seq_len)
        return max(1, math.ceil(sequences / max(1, self.micro_tokens // self.seq_len)))


class Learner(ABC):
    """Reshapes the model, on the chunk clock.  Base class of every learner; only the abstract methods are required."""

    name: ClassVar[str]
    settings: Any = Settings()
    sheds: tuple[str, ...] = ()
    """Work that may be dropped when the budget is short; see :meth:`shed`."""
    lanes: int = 0
    """Documents that learn side by side, each with a state of its own; 0: one state for the stream."""
    batched: bool = False
    """With lanes: documents share forward calls, so that the last digits of a row move with its neighbours."""

    @property
    def chunk_tokens(self) -> int:
        """Targets between two updates: the engine's chunks are never longer.  0: no limit of the learner's own."""
        return 0

    @property
    def period(self) -> int:
        """Targets after which the work of learning repeats, for forecasts.  0: at every receipt."""
        return 0

    @property
    def work(self) -> ChunkWork:
        """What one booked chunk costs, for forecasts."""
        return ChunkWork()

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about these settings that the result must show."""
        return ()

    @abstractmethod
    def attach(self, model: Model, info: StreamInfo) -> Model:
        """Return the model to score with (may be the same object); :meth:`detach` undoes it."""

    def share(self, ranks: Ranks) -> bool:
        """Before :meth:`attach`: train together with other ranks.  False (default): each rank trains the whole chunk."""
        return False

    @abstractmethod
    def observe(self, receipt: Receipt) -> None:
        """Train on a booked chunk."""

    def shed(self, work: str) -> str:
        """Do less of ``work`` from now on; returns what changed.  EvalkitError when it is not among ``sheds``."""
        raise EvalkitError(f"{self.name} cannot do less of '{work}'")

    @abstractmethod
    def snapshot(self) -> bytes:
        """Everything that decides later scores."""

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """After :meth:`attach`: restore the state of the snapshot, bit for bit."""

    @abstractmethod
    def detach(self) -> None:
        """Restore the user's model to what it was before :meth:`attach`."""

    @abstractmethod
    def state_bytes(self) -> int:
        """Memory held now, in bytes."""


class LearnerProxy(Learner):
    """A learner that passes every call on to another one; subclasses add to some of them."""

    def __init__(self, inner: Learner) -> None:
        self.inner = inner
        self.name: str = inner.name  # pyright: ignore[reportIncompatibleVariableOverride]
        self.settings, self.sheds, self.lanes = inner.settings, inner.sheds, inner.lanes
        self.batched = inner.batched

    @property
    def chunk_tokens(self) -> int:
        return self.inner.chunk_tokens

    @property
    def period(self) -> int:
        return self.inner.period

    @property
    def work(self) -> ChunkWork:
        return self.inner.work

    @property
    def notes(self) -> Sequence[str]:
        return self.inner.notes

    def attach(self, model: Model, info: StreamInfo) -> Model:
        return self.inner.attach(model, info)

    def share(self, ranks: Ranks) -> bool:
        return self.inner.share(ranks)

    def observe(self, receipt: Receipt) -> None:
        self.inner.observe(receipt)

    def shed(self, work: str) -> str:
        return self.inner.shed(work)

    def snapshot(self) -> bytes:
        return self.inner.snapshot()

    def restore(self, state: bytes) -> None:
        self.inner.restore(state)

    def detach(self) -> None:
        self.inner.detach()

    def state_bytes(self) -> int:
        return self.inner.state_bytes()


def settings_struct(kind: type) -> type[Any] | None:
    """The struct that an adapter's class names as ``Settings``; None for a class (a stranger's) that takes no settings."""
    return getattr(kind, "Settings", None)


def clock_of(kind: type) -> str:
    """ "token" for an expert's class, "chunk" for a learner's.  InputError when it is neither."""
    if issubclass(kind, Learner):
        return "chunk"
    if callable(getattr(kind, "row", None)):  # the class is a stranger's: this is where it is judged
        return "token"
    raise InputError(
        f"{kind.__name__} is neither an expert (row, observe) nor a learner (a subclass of evalkit.adapters.base.Learner)"
    )
