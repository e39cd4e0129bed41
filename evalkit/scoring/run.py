"""A run, put together: the one assembly of model, stream, adapters and plan that score, audit, certificate and profile share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from evalkit.adapters.base import Expert, Learner, Needs, StreamInfo
from evalkit.adapters.info import carried, stream_info
from evalkit.adapters.stack import Stack
from evalkit.errors import InputError
from evalkit.models.base import Model, require_protocol
from evalkit.models.rows import Forward
from evalkit.plan import Banded, Chunk, Plan, Sliding
from evalkit.scoring.environment import code_fingerprint
from evalkit.scoring.ledger import Ledger
from evalkit.scoring.lock import one_writer
from evalkit.scoring.sentinel import Sentinel, rows_a_chunk
from evalkit.stream import Stream


@dataclass(frozen=True)
class ScoreOptions:
    """Everything about a run that is neither model, text nor adapter."""

    chunk_tokens: int = 8192
    """At most this many targets per chunk, the unit of journal and learning."""
    batch_tokens: int = 8192
    """At most this many input tokens per forward call."""
    seed: int = 0
    sentinel: bool = True
    budget_seconds: float | None = None
    """Stop after the chunk in which this many seconds of scoring are reached."""
    save_scores: bool | None = None
    """Keep scores.f64; None: when the stream has at most 8 million targets."""
    base_pass: bool = True
    """With learners: score the same windows with the model as it was before each of them, one more forward per learner.
    Without it the base of the result is the adapted model, and the learners' own gain is not known."""
    ranks: int | str = "any"
    """Number of ranks that a run must be resumed on; fixed by learners that sum gradients in any order."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Written into ``settings`` as they are (how the run was called)."""


MakeForwards = Callable[[Sequence[Model], Plan, Stream, Sequence[Needs], StreamInfo, ScoreOptions], Sequence[Forward]]
"""Makes the forward passes of a run, one for each model and what is read of its rows."""


@dataclass(frozen=True)
class Run:
    """Everything that a run is made of: learners attached, stack begun, nothing scored yet.  End it with :meth:`detach`."""

    model: Model
    """As it was given; learners score with ``models[-1]``."""
    stream: Stream
    plan: Plan
    options: ScoreOptions
    adapters: tuple[Expert | Learner, ...]
    """In stack order."""
    info: StreamInfo
    learners: list[Learner]
    models: list[Model]
    """The bare model, then the one after each learner."""
    stack: Stack
    before: list[Forward]
    """With a base pass: of the model before each learner, on the same windows."""
    forward: Forward
    stages: tuple[str, ...]
    """What is booked for each target: the model (before the first learner, with a base pass), then each adapter."""
    ledger: Ledger

    @classmethod
    def assemble(
        cls,
        model: Model,
        stream: Stream,
        adapters: Sequence[Expert | Learner] = (),
        plan: Plan | None = None,
        options: ScoreOptions | None = None,
        *,
        forwards: MakeForwards | None = None,
        first_target: int = 1,
    ) -> Run:
        """Attach the learners, begin the experts, make the forward passes; ready to book from ``first_target`` on.

        ``plan`` None and chunks longer than a learner wants are settled first (:func:`settled`).  ``forwards`` makes the
        forward passes where several processes share them.  InputError when the parts do not go together.
        """
        from evalkit.models.device import threads

        options, plan = settled(model, plan, adapters, options or ScoreOptions())
        learners, experts = families(adapters)
        _check_fit(model, stream, plan, options)
        _check_chunks(plan, learners)
        info = stream_info(stream, options.seed, model.vocab_size, carried(model, experts))
        stack = Stack(experts, threads())
        stack.begin(info)
        models, attached = [model], list[Learner]()
        try:
            for learner in learners:
                models.append(learner.attach(models[-1], info))
                attached.append(learner)
            compared = learners if options.base_pass else []
            passes = [*((m, Needs()) for m in models[: len(compared)]), (models[-1], stack.needs)]
            make = forwards or own_forwards
            *before, forward = make([m for m, _ in passes], plan, stream, [n for _, n in passes], info, options)
        except BaseException:
            _detach(attached)
            raise
        stages = ("model", *(a.name for a in [*compared, *experts]))
        ledger = Ledger(stages, stream.tokens[:first_target])
        whole = tuple(adapters)
        return cls(model, stream, plan, options, whole, info, learners, models, stack, before, forward, stages, ledger)

    @property
    def staged(self) -> list[Expert | Learner]:
        """The adapters behind stages 1, 2, ..."""
        return [*self.learners[: len(self.before)], *self.stack.experts]

    def chunks(self) -> Iterator[Chunk]:
        """All chunks of the stream, in order."""
        return self.plan.chunks(self.stream.n_targets + 1, self.stream.doc_start, self.options.chunk_tokens)

    def sentinel(self) -> Sentinel:
        """The sentinel that the options ask for."""
        rows = rows_a_chunk(self.stream.n_targets, self.options.chunk_tokens, self.model.vocab_size)
        stages = ("model", *(e.name for e in self.stack.experts))
        return Sentinel(self.options.seed, stages, self.options.sentinel, rows)

    def settings(self) -> dict[str, Any]:
        """All settings, resolved, in JSON's types."""
        o = self.options
        found = {
            "plan": {"name": self.plan.name, **msgspec.to_builtins(self.plan)},
            "adapters": [{"adapter": a.name, **msgspec.to_builtins(a.settings)} for a in self.adapters],
            "chunk_tokens": o.chunk_tokens,
            "batch_tokens": o.batch_tokens,
            "seed": o.seed,
            "sentinel": o.sentinel,
            "base_pass": o.base_pass,
            "budget_seconds": o.budget_seconds,
            **o.extra,
        }
        return json.loads(json.dumps(found))  # tuples become lists, as in the files

    def fingerprint(self) -> dict[str, Any]:
        """What must agree for a run to be resumed.  Budget and the way of calling may differ."""
        from evalkit.models.device import device_kind, threads

        settings = self.settings()
        keep = ("plan", "adapters", "chunk_tokens", "batch_tokens", "seed", "sentinel", "base_pass")
        return {
            "model": self.model.fingerprint,
            "tokenizer": self.stream.tokenizer.fingerprint,
            "text": self.stream.fingerprint,
            **{key: settings[key] for key in keep},
            "device": device_kind(str(self.model.device)),
            "threads": threads(),
            "ranks": self.options.ranks,
            "code": code_fingerprint([self.model, self.plan, *self.adapters]),
        }

    def notes(self) -> list[str]:
        """What a reader must know about these numbers."""
        notes = [note for learner in self.learners for note in learner.notes]
        if self.learners and not self.options.base_pass:
            names = ", ".join(learner.name for learner in self.learners)
            notes.append(f"base_pass is off: the base of this result is the model adapted by {names}")
        return [*notes, *filter(None, (self.stack.late(), str(self.stream.folding or "")))]

    def state_bytes(self) -> dict[str, int]:
        """Memory held by the experts together and by each learner."""
        return {"experts": self.stack.state_bytes(), **{x.name: x.state_bytes() for x in self.learners}}

    def detach(self) -> None:
        """Leave the model as it was given."""
        _detach(self.learners)


def _detach(learners: Sequence[Learner]) -> None:
    for learner in reversed(learners):
        learner.detach()


def families(adapters: Sequence[Expert | Learner]) -> tuple[list[Learner], list[Expert]]:
    """(learners, experts), each in stack order."""
    return [a for a in adapters if isinstance(a, Learner)], [a for a in adapters if not isinstance(a, Learner)]


def settled(
    model: Model, plan: Plan | None, adapters: Sequence[Expert | Learner], options: ScoreOptions
) -> tuple[ScoreOptions, Plan]:
    """The chunk size and the plan of a run: chunks no longer than the shortest time between two updates of a learner."""
    wishes = [learner.chunk_tokens for learner in families(adapters)[0] if learner.chunk_tokens]
    options = replace(options, chunk_tokens=min([options.chunk_tokens, *wishes]))
    return options, plan or default_plan(model, options.chunk_tokens)


def default_plan(model: Model, chunk_tokens: int = 8192) -> Plan:
    """banded:window=512 where the model can, else sliding 512/64; shorter for models made for less."""
    if "banded" in model.can:
        return Banded(window=min(512, model.max_seq_len or 512), segment=min(8192, chunk_tokens))
    seq_len = min(512, model.max_seq_len or 512)
    return Sliding(seq_len=seq_len, stride=min(64, seq_len))


def own_forwards(
    models: Sequence[Model], plan: Plan, stream: Stream, needs: Sequence[Needs], info: StreamInfo, options: ScoreOptions
) -> Sequence[Forward]:
    """One process: a forward a model."""
    from evalkit.models.lanes import open_forward

    return [
        open_forward(model, plan, stream, need, info.groups, options.batch_tokens)
        for model, need in zip(models, needs, strict=True)
    ]


def run_folder(out: Path | str | None) -> Path | None:
    """Make the run directory; InputError when it cannot be written, or another process is writing it."""
    if out is None:
        return None
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as fault:
        raise InputError(f"--out {folder}: cannot write there ({fault.strerror}); choose another folder") from None
    with one_writer(folder):
        return folder


def _check_fit(model: Model, stream: Stream, plan: Plan, options: ScoreOptions) -> None:
    require_protocol(model, "score")
    if stream.tokenizer.vocab_size > model.vocab_size:
        raise InputError(
            f"tokenizer {stream.tokenizer.name} has {stream.tokenizer.vocab_size} ids but the model only "
            f"{model.vocab_size}; give the tokenizer the model was trained with: --tokenizer FILE.model"
        )
    if options.chunk_tokens < plan.step:
        raise InputError(
            f"chunk_tokens {options.chunk_tokens} is shorter than one step of plan {plan.name} ({plan.step} targets); "
            f"give --chunk-tokens {plan.step}, or --plan {plan.name} with a shorter {plan.step_option}"
        )


def _check_chunks(plan: Plan, learners: Sequence[Learner]) -> None:
    for learner in learners:
        chunk = learner.chunk_tokens
        if chunk % plan.step:
            near = max(1, round(chunk / plan.step)) * plan.step
            raise InputError(
                f"adapter {learner.name}: chunk {chunk} is not a multiple of the {plan.step} targets of one step of plan "
                f"{plan.name} ({plan.step_option}); choose chunk={near}"
            )
