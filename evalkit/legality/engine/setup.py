"""What is replayed?  A model, adapters, a plan and its chunks, run through the engine's own loop on any tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64, Learner
from evalkit.adapters.info import carried, stream_info
from evalkit.adapters.stack import Stack
from evalkit.errors import InputError
from evalkit.legality.scorer import Int64
from evalkit.models.lanes import open_forward
from evalkit.plan import Chunk, Plan
from evalkit.scoring.ledger import Ledger
from evalkit.scoring.loop import Loop
from evalkit.scoring.sentinel import Sentinel
from evalkit.stream import Stream

DENSE, SPREAD = 2048, 256
"""Targets of a strict replay: so many in a row (a gate that opens at every thousandth is met twice), so many others."""


@dataclass(frozen=True)
class Setup:
    """Everything that decides a score.  ``adapters`` are prototypes: every replay makes fresh ones."""

    model: Any
    tokenizer: Any
    adapters: tuple[Any, ...]
    plan: Plan
    chunk_tokens: int = 8192
    batch_tokens: int = 8192
    seed: int = 0
    wrap: Callable[[Any], Any] = field(default=lambda learner: learner)
    """Put around each learner of a replay, to watch it."""

    def __post_init__(self) -> None:
        """InputError for lanes that share a forward call: their rows are not fixed to the bit by their own prefix."""
        for adapter in self.learners:
            if lanes_of(adapter) and getattr(adapter.settings, "batched", False):
                raise InputError(
                    f"adapter {adapter.name}: with batched=true the last digits of a row move with the documents beside it, "
                    "some of them yet to come, so it can be neither audited nor certified; give batched=false"
                )

    def fresh(self) -> list[Any]:
        """New adapters with the settings of the prototypes."""
        return [type(a)(a.settings) if hasattr(type(a), "Settings") else type(a)() for a in self.adapters]

    @property
    def learners(self) -> list[Any]:
        return [a for a in self.adapters if is_learner(a)]

    @property
    def lanes(self) -> int:
        """Documents that learn side by side; 0 when none of the learners works that way."""
        return max((lanes_of(a) for a in self.adapters), default=0)

    @property
    def isolated(self) -> bool:
        """Does this setup promise that documents do not see each other?"""
        return self.plan.name == "document" and all(lanes_of(a) for a in self.adapters)

    def chunked(self) -> int:
        """Targets a chunk, no longer than any learner asks for."""
        wishes = [getattr(a, "chunk_tokens", 0) for a in self.learners]
        return min([self.chunk_tokens, *[n for n in wishes if n]])

    def with_settings(self, **changes: Any) -> Setup:
        return replace(self, **changes)


def is_learner(adapter: Any) -> bool:
    """Chunk clock (a learner) or token clock (an expert)?"""
    return isinstance(adapter, Learner) and not hasattr(adapter, "row")


def lanes_of(adapter: Any) -> int:
    """Documents that a learner trains side by side, each with a state of its own."""
    return int(getattr(getattr(adapter, "settings", None), "lanes", 0))


def stream_of(tokens: Int64, tokenizer: Any) -> Stream:
    """A stream of bare tokens: documents begin at token 0 and after each BOS that owns a target."""
    starts = np.flatnonzero(tokens[:-1] == tokenizer.bos_id)
    starts = np.unique(np.concatenate([[0], starts])).astype(np.int64)
    pieces = tokenizer.pieces
    sizes = pieces.target_bytes(tokens[:-1], tokens[1:])
    owner = np.searchsorted(starts, np.arange(len(tokens) - 1), side="right") - 1
    by_document = np.bincount(owner, weights=sizes, minlength=len(starts)).astype(np.int64)
    names = tuple(f"document {i}" for i in range(len(starts)))
    return Stream(tokens.astype(np.int32), tokenizer, starts, by_document, names, "tokenizer", ("probe",))


class Nats:
    """Collects what is booked, in place of a score file."""

    def __init__(self) -> None:
        self.parts: list[Float64] = []

    def append(self, nats: Float64) -> None:
        """nats float64 [S+1, n]."""
        self.parts.append(nats.copy())

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Assembly:
    """A loop with fresh adapters, attached, and where its nats go."""

    loop: Loop
    kept: Nats

    def nats(self) -> Float64:
        """float64 [S+1, n], the model's stage first."""
        return np.concatenate(self.kept.parts, axis=1)

    def detach(self) -> None:
        for learner in reversed(self.loop.learners):
            learner.detach()


def assemble(setup: Setup, stream: Stream, sentinel: Sentinel | None = None, first_target: int = 1) -> Assembly:
    """Put a setup together over a stream, ready to book from ``first_target`` on."""
    adapters = setup.fresh()
    learners = [setup.wrap(a) for a in adapters if is_learner(a)]
    experts = [a for a in adapters if not is_learner(a)]
    info = stream_info(stream, setup.seed, setup.model.vocab_size, carried(setup.model, experts))
    stack, stages = Stack(experts), ("model", *(e.name for e in experts))
    stack.begin(info)
    model, kept = setup.model, Nats()
    for learner in learners:
        model = learner.attach(model, info)
    forward = open_forward(model, setup.plan, stream, stack.needs, info.groups, setup.batch_tokens)
    watch, ledger = (
        sentinel or Sentinel(setup.seed, stages, enabled=False),
        Ledger(stages, stream.tokens[:first_target]),
    )
    loop = Loop(stream, forward, stack, learners, ledger, watch, scores=kept)  # pyright: ignore[reportArgumentType]
    return Assembly(loop, kept)


def chunks_of(setup: Setup, stream: Stream) -> list[Chunk]:
    return list(setup.plan.chunks(stream.n_targets + 1, stream.doc_start, setup.chunked()))


def replay(setup: Setup, stream: Stream, sentinel: Sentinel | None = None) -> Float64:
    """Run the loop over a stream with fresh adapters; nats float64 [S+1, n_targets], the model's stage first."""
    made = assemble(setup, stream, sentinel)
    try:
        made.loop.run(chunks_of(setup, stream), [])
    finally:
        made.detach()
    return made.nats()


class EngineScorer:
    """A setup as a black box: ``score(tokens)`` runs the whole loop; token 0 is context and scores 0."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.vocab_size: int = setup.model.vocab_size
        self.bos_id: int = setup.tokenizer.bos_id
        self.document_isolation = setup.isolated
        self.stages = stages_of(setup.adapters)

    def score(self, tokens: Int64) -> Float64:
        """int64 [T] -> float64 [T], natural logs after the last stage."""
        if len(tokens) < 2:
            return np.zeros(len(tokens))
        return np.concatenate([[0.0], -replay(self.setup, stream_of(tokens, self.setup.tokenizer))[-1]])

    def ledger(self, tokens: Int64) -> tuple[Int64, Float64]:
        """Bookings in order: the engine's ledger refuses any other order, so it is the targets in turn."""
        return np.arange(1, len(tokens)), self.score(tokens)[1:]

    def strict(self, tokens: Int64) -> tuple[Int64, Float64]:
        """A replay with the target withheld: at DENSE targets in a row, and at SPREAD others all over a long stream.

        Returns counts int64 [2] (rows looked at, learners' updates watched) and breaches float64 [n, 5]: number of the
        law in the verdict's order, target, stage (-1: a learner), value, limit.
        """
        from evalkit.legality.engine.witness import WatchedLearner, Witness, encode, new_record, watch_hints

        record, n = new_record(), len(tokens) - 1
        targets = np.arange(max(1, n + 1 - DENSE), n + 1)
        targets = np.union1d(targets, 1 + np.arange(SPREAD) * n // SPREAD) if n > DENSE else targets
        watched = self.setup.with_settings(wrap=lambda learner: WatchedLearner(learner, record))
        replay(watched, stream_of(tokens, self.setup.tokenizer), Witness(self.stages, targets, record))
        first = np.ascontiguousarray(tokens[1 : 1 + self.setup.chunked()], dtype=np.int32)
        watch_hints(lambda: self._stack(tokens), first, self.stages, record)
        return encode(record, self.stages)

    def _stack(self, tokens: Int64) -> Stack:
        """Fresh experts at the start of a stream."""
        experts = [a for a in self.setup.fresh() if not is_learner(a)]
        stream, corpus = stream_of(tokens, self.setup.tokenizer), carried(self.setup.model, experts)
        stack = Stack(experts)
        stack.begin(stream_info(stream, self.setup.seed, self.vocab_size, corpus))
        return stack


def stages_of(adapters: Sequence[Any]) -> tuple[str, ...]:
    return ("model", *(a.name for a in adapters if not is_learner(a)))
