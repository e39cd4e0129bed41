"""``ppm``: exact n-gram counts of the text scored so far, mixed with the model's row; on C++ tables.

``escape=learned``: stages of (clock, order) from low to high order, clocks corpus (text counted before the first target),
stream and document; each maps the row q to (1 - l) q(v) + l n(v) / N with a trust l = sigmoid(z) that depends on the
prefix alone and is learned online from booked scores; a corpus may carry where it begins.  (Secondary escape estimation,
Shkarin 2002, over a neural distribution.)  With ``counts=continuations`` an order below the longest counts after how many
different tokens its n-gram was seen (Kneser and Ney 1995), and n(v) / N becomes (n(v) - discount) / (N - discount followers);
the corpus counts occurrences always.

``escape=dirichlet``: q_k(v) = (n_k(v) + c_k q_{k-1}(v)) / (N_k + c_k).  (parameter-golf #1159 in its exact form;
MacKay and Peto 1995.)

Either way a row sums to 1, because N is the sum of its stored pairs.

``decide``, behind the learned stages: is the target the model's most probable id h?  A logistic mixture of the evidence for
h in each clock's longest context moves q(h) to a, and every other q(v) to q(v) (1 - a) / (1 - q(h)).
"""

from __future__ import annotations

import math
import struct
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from evalkit.adapters.base import TOP, Float64, Int32, Needs, Receipt, Side, StreamInfo, TokenChunk
from evalkit.adapters.experts.corpus import counted, open_corpus, overlap
from evalkit.adapters.experts.native import (
    MIB,
    Kernel,
    NativeExpert,
    as_float64,
    as_int32,
    check_memory,
    check_orders,
    native,
    one_target,
)
from evalkit.errors import EvalkitError, InputError
from evalkit.settings import Count, Settings, Share, Size
from evalkit.stream.corpus import Corpus, Overlap, Trusts, TrustsHeader
from evalkit.stream.stream import Stream

FALLING = {1: 1000.0, 2: 300.0, 3: 100.0, 4: 30.0, 5: 10.0, 6: 5.0}
"""Concentrations by order, in counts; 3 above order 6.  The published c = 4 for all makes a sound model worse."""

WEIGHT_STEP = 1 / 16
"""Step of the weights in a corpus file.  1/64 scores the same to 0.00005 BPB and takes 40 % more bytes."""
MOST_SQUARES = 15
"""Largest code of a sum of squares, a power of 4 times the first one."""

_HEAD = struct.Struct("<4sIQ")
"""Snapshot of learned weights: magic, vocabulary, number of float64 values that follow."""


class PpmSettings(Settings, frozen=True):
    """Settings of ``ppm``."""

    owner: ClassVar[str] = "adapter ppm"
    escape: Annotated[
        Literal["learned", "dirichlet"],
        Meta(description="trust in a context: learned from booked scores, or dirichlet with fixed concentrations"),
    ] = "learned"
    orders: Annotated[
        tuple[int, ...] | None,
        Meta(description="orders of the stream's counts, order k reads k-1 tokens; none: 1..6 learned, 2..7 dirichlet"),
    ] = None
    document: Annotated[
        tuple[int, ...], Meta(description="orders of the current document's counts; [] for none (learned only)")
    ] = (1, 2, 3, 4, 5, 6)
    rate: Annotated[
        float, Meta(ge=0, le=10, description="AdaGrad rate of the trust, nats per unit step (learned only)")
    ] = 0.3
    fast: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="plain rate of a second trust per stage that forgets 3 % a step; 0: none, 0.5 is good (learned only)",
        ),
    ] = 0.0
    counts: Annotated[
        Literal["occurrences", "continuations"],
        Meta(description="what orders below the longest count: occurrences, or different tokens before (learned only)"),
    ] = "occurrences"
    discount: Annotated[Share, Meta(description="taken off every count (counts=continuations only)")] = 0.7
    decide: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="AdaGrad rate of a last decision about the model's most probable id, from the counts as odds; 0: none, "
            "0.05 is good (learned only, with side)",
        ),
    ] = 0.0
    side: Annotated[bool, Meta(description="let trust see entropy and argmax of the model's row (learned only)")] = True
    c: Annotated[
        float | tuple[float, ...] | None,
        Meta(description="concentration, counts, one or one per order; none: falls with the order (dirichlet only)"),
    ] = None
    min_count: Annotated[
        Count, Meta(description="contexts followed fewer times than this are skipped, counts (dirichlet only)")
    ] = 1
    corpus: Annotated[
        str | None,
        Meta(
            description="file of evalkit corpus build, counted before the first target; none: no corpus (learned only)"
        ),
    ] = None
    corpus_orders: Annotated[tuple[int, ...], Meta(description="orders of the corpus's counts")] = (1, 2, 3, 4, 5, 6)
    trusts: Annotated[
        Literal["corpus", "fresh"],
        Meta(description="where trust begins: with what the corpus carries, where it carries trusts, or fresh"),
    ] = "corpus"
    corpus_mib: Annotated[
        Count,
        Meta(description="memory bound of the corpus's table, MiB; a full table leaves the rest of the corpus out"),
    ] = 4096
    memory_mib: Annotated[Count, Meta(description="memory bound of the tables, MiB; full tables stop counting")] = 1024
    expected_tokens: Annotated[Size, Meta(description="tokens to reserve space for at once; 0: grow as needed")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream_orders or not self.document:
            check_orders(self.stream_orders, "adapter ppm")
        if self.document:
            check_orders(self.document, "adapter ppm", "document")
        check_orders(self.corpus_orders, "adapter ppm", "corpus_orders")
        if self.escape == "learned":
            self._check_learned()
        else:
            self._check_dirichlet()

    def _check_learned(self) -> None:
        if self.decide > 0 and not self.side:
            raise InputError("adapter ppm: setting decide reads the model's most probable id; leave side=true")
        for name, default in (("c", None), ("min_count", 1)):
            if getattr(self, name) != default:
                raise InputError(
                    f"adapter ppm: setting {name}={getattr(self, name)} belongs to escape=dirichlet; "
                    "add escape=dirichlet, or leave it out"
                )

    def _check_dirichlet(self) -> None:
        if self.decide > 0:
            raise InputError(
                "adapter ppm: setting decide belongs to escape=learned; add escape=learned, or leave it out"
            )
        if self.corpus is not None:
            raise InputError(
                f"adapter ppm: setting corpus={self.corpus} belongs to escape=learned; add escape=learned, or leave it out"
            )
        if isinstance(self.c, tuple) and len(self.c) != len(self.stream_orders):
            raise InputError(
                f"adapter ppm: setting c has {len(self.c)} numbers for {len(self.stream_orders)} orders; "
                "give one for all or one for each"
            )
        if not all(0.0 < c < 1e12 for c in self.strength):
            raise InputError(f"adapter ppm: setting c must be positive counts, got {list(self.strength)}; write c=4")

    @property
    def stream_orders(self) -> tuple[int, ...]:
        """Orders on the stream's clock, the default resolved."""
        if self.orders is not None:
            return self.orders
        return (1, 2, 3, 4, 5, 6) if self.escape == "learned" else (2, 3, 4, 5, 6, 7)

    @property
    def strength(self) -> list[float]:
        """Concentration of every order, counts."""
        if self.c is None:
            return [FALLING.get(order, 3.0) for order in self.stream_orders]
        return list(self.c) if isinstance(self.c, tuple) else [self.c] * len(self.stream_orders)


class Ppm(NativeExpert[PpmSettings]):
    """Exact n-gram counts of the scored text, mixed into the model's row order by order."""

    name: ClassVar[str] = "ppm"
    Settings: ClassVar[type[Settings]] = PpmSettings

    def __init__(self, settings: PpmSettings | None = None) -> None:
        super().__init__(settings)
        self._learned = self.settings.escape == "learned"
        self._vocab = 0
        self._counted: Any = None

    @property
    def needs(self) -> Needs:
        wanted = self._learned and self.settings.side
        return Needs(hints=int(self.settings.decide > 0), entropy=wanted, top=wanted)

    def propose(self, tokens: Int32) -> Int32:
        """With ``decide`` the model's most probable id, int32 [n, 1]; [n, 0] without."""
        return np.full((len(tokens), self.needs.hints), TOP, np.int32)

    def score(self, chunk: TokenChunk, p: Float64) -> Float64:
        if self.settings.decide == 0.0:
            return super().score(chunk, p)
        return self._core.score(
            tokens=as_int32(chunk.tokens),
            cands=None if chunk.cands is None else as_int32(chunk.cands),
            p=as_float64(p),
            own=chunk.own,
            **self.extra(chunk.side, chunk.history),
        )

    def begin(self, info: StreamInfo) -> None:
        """Fresh tables; trusts as the corpus has them, or fresh.  InputError when the corpus's are of other settings."""
        super().begin(info)
        corpus = self._corpus(info)
        if corpus is None or corpus.trusts is None or self.settings.trusts == "fresh":
            return
        ours, theirs = self._layout(corpus.trusts.header.targets), corpus.trusts.header
        if msgspec.structs.replace(theirs, values=0, packed_bytes=0) != ours:
            raise InputError(
                f"{corpus.name}: its trusts are those of {_described(theirs)}; this ppm has {_described(ours)}; add trusts=fresh "
                "to begin without them"
            )
        weights = self._core.weights()
        kept = len(self._carried(weights))
        weights[:kept] = _decoded(corpus.trusts.codes, weights[:kept], corpus.name)
        self._core.set_weights(weights)

    def learned_trusts(self, info: StreamInfo, targets: int) -> Trusts:
        """The trusts as they are now, for a corpus file; ``targets``: how many they were learned from.

        The document's own bias stays behind.  After begin(info) with a corpus.
        """
        self._core.replay(np.array([info.first_token], np.int32))  # a new document begins
        kernel = self._learned_core(info)
        kernel.begin(info.first_token)
        fresh, now = self._carried(kernel.weights()), self._carried(self._core.weights())
        squares = fresh > 0
        codes = np.empty(len(fresh), np.uint8)
        grown = np.log(now[squares] / fresh[squares]) / math.log(4.0)
        codes[squares] = np.round(grown).clip(0, MOST_SQUARES)
        codes[~squares] = np.round(now[~squares] / WEIGHT_STEP).clip(-127, 127).astype(np.int8).view(np.uint8)
        return Trusts(msgspec.structs.replace(self._layout(targets), values=len(codes)), codes)

    def _carried(self, weights: Float64) -> Float64:
        """Without the biases that forget and without the decision: they start afresh in every run."""
        return weights[: self._core.lasting]

    def _layout(self, targets: int) -> TrustsHeader:
        """What the trusts of these settings are; neither ``counts`` nor the rates change it."""
        s = self.settings
        return TrustsHeader(
            vocab_size=self._vocab,
            orders=s.stream_orders,
            document=s.document,
            corpus_orders=s.corpus_orders,
            side=s.side,
            targets=targets,
            values=0,
            packed_bytes=0,
        )

    def make(self, info: StreamInfo) -> Kernel:
        """Fresh tables.  InputError when the memory bound does not hold the empty tables."""
        self._vocab = info.vocab_size
        return self._learned_core(info) if self._learned else self._dirichlet_core(info)

    def _dirichlet_core(self, info: StreamInfo) -> Any:
        s, orders = self.settings, self.settings.stream_orders
        check_memory(s.memory_mib * MIB, info.vocab_size, orders[-1], "adapter ppm", s.memory_mib)
        return native().DirichletPpm(
            vocab=info.vocab_size,
            orders=list(orders),
            strength=s.strength,
            min_count=s.min_count,
            bytes=s.memory_mib * MIB,
            expected_tokens=s.expected_tokens,
        )

    def _learned_core(self, info: StreamInfo) -> Any:
        """A sixteenth of the memory is for the document's table, the rest beside the weights for the stream's."""
        s, orders = self.settings, self.settings.stream_orders
        longest, continued = max((*orders, *s.document)), s.counts == "continuations"
        corpus = self._corpus(info)
        stages = len(orders) + len(s.document) + (0 if corpus is None else len(s.corpus_orders))
        least = (
            native().smallest_mixer() if continued else native().smallest_table(min(info.vocab_size, 1 << 18), longest)
        )
        document = max(s.memory_mib * MIB // 16, least)
        stream = s.memory_mib * MIB - document - 16 * stages * (3 * info.vocab_size + 1024)
        if s.decide > 0:
            stream -= 2 * 8 * 7 * (info.vocab_size + 1024)
        check_memory(stream, info.vocab_size, longest, "adapter ppm", s.memory_mib, least)
        self._counted = self._count(corpus, info)
        return (native().ContinuationPpm if continued else native().LearnedPpm)(
            vocab=info.vocab_size,
            bos=info.bos_id,
            orders=list(orders),
            document_orders=list(s.document),
            rate=s.rate,
            side=s.side,
            bytes=stream,
            document_bytes=document,
            expected_tokens=s.expected_tokens,
            fast=s.fast,
            discount=s.discount if continued else 0.0,
            corpus=self._counted,
            corpus_orders=[] if corpus is None else list(s.corpus_orders),
            decide=s.decide,
        )

    def _corpus(self, info: StreamInfo) -> Corpus | None:
        if not self._learned or self.settings.corpus == "none":
            return None
        return info.corpus if self.settings.corpus is None else open_corpus(self.settings.corpus)

    def _count(self, corpus: Corpus | None, info: StreamInfo) -> Any:
        if corpus is None:
            return None
        if corpus.header.vocab_size > info.vocab_size:
            raise InputError(
                f"{corpus.name}: its ids reach to {corpus.header.vocab_size}, the model's only to {info.vocab_size}; make it "
                "again with evalkit corpus build --checkpoint C"
            )
        return counted(corpus, info.vocab_size, self.settings.corpus_orders[-1], self.settings.corpus_mib * MIB)

    def overlap(self, stream: Stream, info: StreamInfo) -> Overlap | None:
        """How much of the stream stands in the corpus; None without a corpus.  InputError for another tokenizer's."""
        if (corpus := self._corpus(info)) is None:
            return None
        corpus.check_tokenizer(stream.tokenizer.vocab_size, stream.tokenizer.fingerprint)
        return overlap(corpus, stream)

    def extra(self, side: Side, history: tuple[Float64, ...]) -> dict[str, Any]:
        if not self._learned:
            return {}
        read = self.settings.side and side.entropy is not None and side.top_id is not None
        return {
            "entropy": as_float64(side.entropy) if read and side.entropy is not None else None,
            "top": as_int32(side.top_id) if read and side.top_id is not None else None,
        }

    def count(self, tokens: Int32, cands: Int32) -> None:
        """Ahead of score(); with escape=dirichlet it does nothing."""
        if self._learned:
            self._core.count(tokens=as_int32(tokens), cands=as_int32(cands))

    def observe(self, receipt: Receipt) -> None:
        if self._learned:
            super().observe(receipt)
        else:
            self._core.observe(one_target(receipt))

    def snapshot(self) -> bytes:
        """Learned weights; empty with escape=dirichlet, where all state follows from the tokens."""
        if not self._learned:
            return b""
        weights = self._core.weights()
        return _HEAD.pack(b"PPML", self._vocab, len(weights)) + weights.astype("<f8").tobytes()

    def restore(self, state: bytes, tokens: Int32) -> None:
        """After begin().  EvalkitError when the snapshot is damaged or of other settings."""
        tokens = as_int32(tokens)
        if not self._learned:
            if state:
                raise EvalkitError(f"ppm with escape=dirichlet keeps no weights, the snapshot has {len(state)} bytes")
            self._core.observe(tokens)
            return
        values = self._read(state)
        self._core.replay(tokens)
        self._core.set_weights(values)

    def _read(self, state: bytes) -> Float64:
        if len(state) < _HEAD.size:
            raise EvalkitError(f"the snapshot of ppm has {len(state)} bytes, fewer than its header")
        magic, vocab, count = _HEAD.unpack_from(state)
        body = state[_HEAD.size :]
        want = len(self._core.weights())
        if magic != b"PPML" or vocab != self._vocab or count != want or len(body) != 8 * want:
            raise EvalkitError(
                f"the snapshot of ppm holds {len(body)} bytes for {vocab} ids, these settings need {8 * want} "
                f"for {self._vocab} ids: it is damaged or of other settings"
            )
        return np.frombuffer(body, dtype="<f8").astype(np.float64)

    def state_bytes(self) -> int:
        corpus = 0 if self._counted is None else self._counted.bytes
        return corpus if self._core is None else corpus + self._core.bytes

    @property
    def frozen_at(self) -> int:
        """Targets counted when the memory bound was met and the stream's table stopped counting; -1: never."""
        return -1 if self._core is None else self._core.frozen_at


def _described(layout: TrustsHeader) -> str:
    return (
        f"{layout.vocab_size} ids, orders={list(layout.orders)}, document={list(layout.document)}, "
        f"corpus_orders={list(layout.corpus_orders)}, side={str(layout.side).lower()}"
    )


def _decoded(codes: npt.NDArray[np.uint8], fresh: Float64, name: str) -> Float64:
    """Weights [n] for the kernel.  ``fresh`` [n]: its own first ones; sums of squares are what is above 0 there.

    InputError when ``codes`` are not of this many, or hold a sum of squares beyond any that is written.
    """
    if len(codes) != len(fresh):
        raise InputError(f"{name}: {len(codes):,} trusts where ppm has {len(fresh):,}; make it again")
    squares = fresh > 0
    if (most := int(codes[squares].max())) > MOST_SQUARES:
        raise InputError(
            f"{name}: a sum of squares of 4^{most} in its trusts (at most 4^{MOST_SQUARES}); make it again"
        )
    return np.where(squares, fresh * 4.0**codes, WEIGHT_STEP * codes.view(np.int8))
