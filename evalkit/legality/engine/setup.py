"""What is replayed: a model, adapters, a plan and its chunks, run through the engine's own loop on any tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from evalkit.adapters.base import Expert, Float64, Learner, settings_struct
from evalkit.adapters.info import carried, stream_info
from evalkit.adapters.stack import Stack
from evalkit.errors import InputError
from evalkit.legality.scorer import Int64
from evalkit.plan import Plan
from evalkit.scoring.environment import code_fingerprint
from evalkit.scoring.loop import Loop
from evalkit.scoring.run import Run, ScoreOptions, families, settled
from evalkit.scoring.sentinel import Sentinel
from evalkit.stream import Stream

DENSE, SPREAD = 2048, 256
"""Targets of a strict replay: so many in a row (a gate that opens at every thousandth is met twice), so many others."""


@dataclass(frozen=True)
class Setup:
    """Everything that decides a score.  ``adapters`` are prototypes: every replay makes fresh ones."""

    model: Any
    tokenizer: Any
    adapters: tuple[Expert | Learner, ...]
    plan: Plan
    chunk_tokens: int = 8192
    batch_tokens: int = 8192
    seed: int = 0
    wrap: Callable[[Learner], Learner] = field(default=lambda learner: learner)
    """Put around each learner of a replay, to watch it."""

    def __post_init__(self) -> None:
        """InputError for lanes that share a forward call: their rows are not fixed to the bit by their own prefix."""
        for adapter in self.learners:
            if adapter.batched:
                raise InputError(
                    f"adapter {adapter.name}: with batched=true the last digits of a row move with the documents beside it, "
                    "some of them yet to come, so it can be neither audited nor certified; give batched=false"
                )

    def fresh(self) -> list[Any]:
        """New adapters with the settings of the prototypes."""
        return [fresh(a) for a in self.adapters]

    @property
    def learners(self) -> list[Learner]:
        return families(self.adapters)[0]

    @property
    def lanes(self) -> int:
        """Documents that learn side by side; 0 when none of the learners works that way."""
        return max((a.lanes for a in self.learners), default=0)

    @property
    def isolated(self) -> bool:
        """Does this setup promise that documents do not see each other?"""
        return self.plan.name == "document" and all(lanes_of(a) for a in self.adapters)

    @property
    def options(self) -> ScoreOptions:
        """Of every replay: no sentinel and no pass of the model before its learners."""
        sizes = ScoreOptions(self.chunk_tokens, self.batch_tokens, self.seed, sentinel=False, base_pass=False)
        return settled(self.model, self.plan, self.adapters, sizes)[0]

    def code_fingerprint(self) -> str:
        """Of the code that computes this setup's scores."""
        return code_fingerprint([self.model, self.plan, *self.adapters])

    def chunked(self) -> int:
        """Targets a chunk, no longer than any learner asks for."""
        return self.options.chunk_tokens

    def with_settings(self, **changes: Any) -> Setup:
        return replace(self, **changes)


def fresh(adapter: Any, **changes: Any) -> Any:
    """A new adapter with the settings of this one, some of them changed; one whose class has no ``Settings`` takes none."""
    if settings_struct(type(adapter)) is None:
        return type(adapter)()
    return type(adapter)(msgspec.structs.replace(adapter.settings, **changes))


def lanes_of(adapter: Expert | Learner) -> int:
    """Documents that a learner trains side by side, each with a state of its own; 0 for an expert."""
    return adapter.lanes if isinstance(adapter, Learner) else 0


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
        self._parts: list[Float64] = []

    def append(self, nats: Float64) -> None:
        """nats float64 [S+1, n]."""
        self._parts.append(nats.copy())

    def nats(self) -> Float64:
        """All of it, float64 [S+1, targets], the model's stage first."""
        return np.concatenate(self._parts, axis=1)


def assemble(setup: Setup, stream: Stream, first_target: int = 1) -> Run:
    """A setup with fresh adapters over a stream, ready to book from ``first_target`` on."""
    adapters = [setup.wrap(a) if isinstance(a, Learner) else a for a in setup.fresh()]
    return Run.assemble(setup.model, stream, adapters, setup.plan, setup.options, first_target=first_target)


def replay(setup: Setup, stream: Stream, sentinel: Sentinel | None = None) -> Float64:
    """Run the loop over a stream with fresh adapters; nats float64 [S+1, n_targets], the model's stage first."""
    run, kept = assemble(setup, stream), Nats()
    try:
        Loop.of(run, sentinel or run.sentinel(), scores=kept).run(run.chunks(), [])
    finally:
        run.detach()
    return kept.nats()


def resumed(setup: Setup, stream: Stream, after: int) -> Float64:
    """Score a stream, but throw everything away after chunk ``after`` and go on from its snapshot; nats [S+1, n]."""
    run, kept = assemble(setup, stream), Nats()
    try:
        Loop.of(run, run.sentinel(), scores=kept).run(itertools.islice(run.chunks(), after + 1), [])
        parts = run.forward.snapshot(), run.stack.snapshot(), [learner.snapshot() for learner in run.learners]
        lo = run.ledger.next_target
    finally:
        run.detach()
    run = assemble(setup, stream, first_target=lo)
    try:
        run.forward.restore(parts[0])
        run.stack.restore(parts[1], np.ascontiguousarray(stream.tokens[1:lo], dtype=np.int32))
        for learner, state in zip(run.learners, parts[2], strict=True):
            learner.restore(state)
        Loop.of(run, run.sentinel(), scores=kept).run(itertools.islice(run.chunks(), after + 1, None), [])
    finally:
        run.detach()
    return kept.nats()


def worst_after_resume(setup: Setup, stream: Stream) -> float:
    """Largest difference in nats between a run and one resumed in its middle; 0.0 when the bits are the same."""
    chunks = sum(1 for _ in setup.plan.chunks(stream.n_targets + 1, stream.doc_start, setup.chunked()))
    if chunks < 2:
        return 0.0
    return float(np.abs(replay(setup, stream) - resumed(setup, stream, (chunks - 1) // 2)).max())


class EngineScorer:
    """A setup as a black box: ``score(tokens)`` runs the whole loop; token 0 is context and scores 0."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.vocab_size: int = setup.model.vocab_size
        self.bos_id: int = setup.tokenizer.bos_id
        self.document_isolation = setup.isolated

    def score(self, tokens: Int64) -> Float64:
        """int64 [T] -> float64 [T], natural logs after the last stage."""
        if len(tokens) < 2:
            return np.zeros(len(tokens))
        return np.concatenate([[0.0], -replay(self.setup, stream_of(tokens, self.setup.tokenizer))[-1]])

    def ledger(self, tokens: Int64) -> tuple[Int64, Float64]:
        """Bookings in order: the engine's ledger refuses any other order, so it is the targets in turn."""
        return np.arange(1, len(tokens)), self.score(tokens)[1:]

    def strict(self, tokens: Int64) -> bytes:
        """A replay with the target withheld: at DENSE targets in a row, and at SPREAD others all over a long stream.

        Returns the JSON of a :class:`evalkit.legality.probes.strict.Replay`.
        """
        from evalkit.legality.engine.witness import WatchedLearner, Witness, watch_hints
        from evalkit.legality.probes.strict import Replay

        seen, n = Replay(), len(tokens) - 1
        targets = np.arange(max(1, n + 1 - DENSE), n + 1)
        targets = np.union1d(targets, 1 + np.arange(SPREAD) * n // SPREAD) if n > DENSE else targets
        watched = self.setup.with_settings(wrap=lambda learner: WatchedLearner(learner, seen))
        replay(watched, stream_of(tokens, self.setup.tokenizer), Witness(stages_of(self.setup.adapters), targets, seen))
        first = np.ascontiguousarray(tokens[1 : 1 + self.setup.chunked()], dtype=np.int32)
        watch_hints(lambda: self._stack(tokens), first, seen)
        return msgspec.json.encode(seen)

    def _stack(self, tokens: Int64) -> Stack:
        """Fresh experts at the start of a stream."""
        experts = families(self.setup.fresh())[1]
        stream, corpus = stream_of(tokens, self.setup.tokenizer), carried(self.setup.model, experts)
        stack = Stack(experts)
        stack.begin(stream_info(stream, self.setup.seed, self.vocab_size, corpus))
        return stack


def stages_of(adapters: Sequence[Expert | Learner]) -> tuple[str, ...]:
    return ("model", *(a.name for a in families(adapters)[1]))
