"""How does one score a stream?  ``score(model, stream, adapters, plan)``: the public face of the loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from evalkit.adapters.base import CountsCorpus, Learner, Needs, StreamInfo
from evalkit.errors import InputError
from evalkit.machine import peak_memory_bytes
from evalkit.models.base import Forward, require_protocol
from evalkit.plan import Banded, Plan, Sliding
from evalkit.scoring.environment import code_fingerprint, environment
from evalkit.scoring.guard import Deadline, Guard
from evalkit.scoring.journal import Journal
from evalkit.scoring.ledger import BookedChunk, Ledger
from evalkit.scoring.loop import Loop, Spans
from evalkit.scoring.result import (
    SCHEMA,
    DocumentTable,
    Result,
    document_columns,
    perplexities,
    stage_rows,
    totals,
    write_documents,
    write_json,
)
from evalkit.scoring.scores import ScoreFile
from evalkit.scoring.sentinel import Sentinel, rows_a_chunk
from evalkit.scoring.trace import write_trace

SCORE_FILE_TARGETS = 8_000_000
"""Up to here the scores of single targets are kept by default (8 bytes a stage and target)."""


@dataclass(frozen=True)
class ScoreOptions:
    """Everything about a run that is neither model, text nor adapter."""

    chunk_tokens: int = 8192
    """Targets a chunk, at most: the unit of journal and learning."""
    batch_tokens: int = 8192
    """Input tokens a forward call, at most."""
    seed: int = 0
    sentinel: bool = True
    budget_seconds: float | None = None
    """Stop after the chunk in which this many seconds of scoring were reached."""
    save_scores: bool | None = None
    """Keep scores.f64; None: when the stream has at most 8 million targets."""
    base_pass: bool = True
    """With learners: score the same windows with the model as it was before each of them, one more forward a learner.
    Without it the base of the result is the adapted model, and the learners' own gain is not known."""
    ranks: int | str = "any"
    """Number of ranks that a run must be resumed on: learners that sum gradients in any order tie it down."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Written into ``settings`` as they are (how the run was called)."""


def default_plan(model: Any, chunk_tokens: int = 8192) -> Plan:
    """banded:window=512 where the model can, else sliding 512/64; shorter for models made for less."""
    if "banded" in model.can:
        return Banded(window=min(512, model.max_seq_len or 512), segment=min(8192, chunk_tokens))
    seq_len = min(512, model.max_seq_len or 512)
    return Sliding(seq_len=seq_len, stride=min(64, seq_len))


def score(
    model: Any,
    stream: Any,
    adapters: Sequence[Any] = (),
    plan: Plan | None = None,
    *,
    out: Path | str | None = None,
    options: ScoreOptions | None = None,
    on_chunk: Callable[[BookedChunk], None] | None = None,
    forwards: Callable[..., Sequence[Forward]] | None = None,
    guard: Guard | None = None,
) -> Result:
    """Score every target of the stream once, in order, and return totals, stages and documents.

    ``adapters``: experts and learners, in stack order.  ``out``: run directory; a run that was cut short there goes on,
    with the same bits.  ``forwards(models, plan, stream, needs, info, options)`` makes the forward passes, one a model
    (several processes do); ``guard`` says whether to go on, and with what work.  Raises InputError (wrong input),
    LegalityError (a law was broken; booked chunks stay booked), DivergenceError (a score that is not finite).
    """
    from evalkit.adapters.info import carried, stream_info
    from evalkit.adapters.stack import Stack

    learners, experts = _families(adapters)
    options, plan = settled(model, plan, adapters, options or ScoreOptions())
    _check_fit(model, stream, plan, options)
    _check_chunks(plan, learners)
    info = stream_info(stream, options.seed, model.vocab_size, carried(model, experts))
    overlaps = check_provenance(experts, stream, info)
    stack = Stack(experts)
    stack.begin(info)
    compared = learners if options.base_pass else []
    stages = ("model", *(a.name for a in [*compared, *experts]))
    settings = json.loads(json.dumps(_settings(plan, adapters, options)))  # tuples become lists, as in the files
    fingerprint = _fingerprint(model, stream, settings, options.ranks)
    if overlaps:
        fingerprint["corpora"] = [o["corpus"] for o in overlaps]
    folder = run_folder(out)
    models = [model]
    for learner in learners:
        models.append(learner.attach(models[-1], info))
    passes = [*((m, Needs()) for m in models[: len(compared)]), (models[-1], stack.needs)]
    make = forwards or _own_forwards
    *before, forward = make([m for m, _ in passes], plan, stream, [n for _, n in passes], info, options)
    journal, booked, scores = _open_files(folder, fingerprint, settings, stream, stages, options)
    rows = rows_a_chunk(stream.n_targets, options.chunk_tokens, model.vocab_size)
    sentinel = Sentinel(options.seed, ("model", *(e.name for e in experts)), options.sentinel, rows)
    loop = Loop(
        stream,
        forward,
        stack,
        learners,
        Ledger(stages, stream.tokens[:1]),
        sentinel,
        before,
        journal=journal,
        scores=scores,
        folder=folder,
        guard=guard or (Guard() if options.budget_seconds is None else Deadline(options.budget_seconds)),
    )
    if on_chunk is not None:
        loop.on_chunk = on_chunk
    loop.guard.check(learners)
    loop.guard.begin(booked[-1].hi - 1 if booked else 0, stream.n_targets)
    began = time.perf_counter()
    try:
        complete = loop.run(plan.chunks(stream.n_targets + 1, stream.doc_start, options.chunk_tokens), booked)
    finally:
        for learner in reversed(learners):
            learner.detach()
        if journal is not None:
            journal.close()
        if scores is not None:
            scores.close()
    wall = time.perf_counter() - began
    described = [{"adapter": a.name, "settings": msgspec.to_builtins(a.settings)} for a in [*compared, *experts]]
    table = DocumentTable.from_chunks(loop.ledger.chunks, len(stages))
    sums = totals(table)
    run = {
        "schema": SCHEMA,
        "settings": settings,
        "fingerprint": fingerprint,
        "world_size": forward.world_size,
        "complete": complete,
        "coverage": {"booked": [[1, loop.ledger.next_target]], "targets": [1, stream.n_targets + 1]},
        "budget": loop.guard.report(),
        "totals": sums,
        "perplexity": perplexities(sums, stream.words(sums["targets"])),
        "stages": stage_rows(table, described, options.seed),
        "bytes_from": stream.bytes_from,
        "folding": asdict(stream.folding) if stream.folding else None,
        "documents": len(table.doc),
        "provenance": overlaps,
        "notes": [
            *_notes(learners, options),
            *filter(None, (stack.late(), str(stream.folding or ""))),
            *(f"corpus of {o['adapter']}: {o['detail']}" for o in overlaps),
        ],
        "resumed_chunks": len(booked),
        "seconds": {**{k: round(v, 6) for k, v in loop.spans.seconds.items()}, "wall": wall},
        "peak_memory_bytes": peak_memory_bytes(),
        "state_bytes": {"experts": stack.state_bytes(), **{x.name: x.state_bytes() for x in learners}},
        "verdicts": {"sentinel": sentinel.verdict()},
        "environment": environment(str(model.device)),
    }
    if ranks := forward.ranks():
        run["ranks"] = ranks
    result = Result(run, table, folder, stages, loop.spans)
    if folder is not None:
        write_trace(folder / "trace.json", _tracks(loop.spans, forward))
        names = list(stream.doc_names)
        write_documents(folder, document_columns(table, stages, names))
        write_json(folder / "run.json", run)
    return result


def check_provenance(experts: Sequence[Any], stream: Any, info: StreamInfo) -> list[dict[str, Any]]:
    """What the experts counted before the first target, compared with the text: a row an expert that counted any.

    LegalityError, law provenance, when a scored document or a near copy of one was counted.
    """
    rows = []
    for expert in experts:
        found = expert.overlap(stream, info) if isinstance(expert, CountsCorpus) else None
        if found is not None:
            found.check(f"adapter {expert.name}")
            rows.append({"adapter": expert.name, **msgspec.to_builtins(found), "detail": found.sentence()})
    return rows


def settled(model: Any, plan: Plan | None, adapters: Sequence[Any], options: ScoreOptions) -> tuple[ScoreOptions, Plan]:
    """The chunk size and the plan that :func:`score` takes for this stack."""
    options = chunked(options, _families(adapters)[0])
    return options, plan or default_plan(model, options.chunk_tokens)


def _families(adapters: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """(learners, experts), each in stack order."""
    learners = [a for a in adapters if isinstance(a, Learner) and not hasattr(a, "row")]
    return learners, [a for a in adapters if a not in learners]


def _own_forwards(
    models: Sequence[Any], plan: Plan, stream: Any, needs: Sequence[Needs], info: Any, options: ScoreOptions
) -> Sequence[Forward]:
    """One process: a forward a model."""
    from evalkit.models.lanes import open_forward

    return [
        open_forward(model, plan, stream, need, info.groups, options.batch_tokens)
        for model, need in zip(models, needs, strict=True)
    ]


def _tracks(spans: Spans, forward: Forward) -> dict[tuple[int, str], list[Any]]:
    """The loop's verbs, and the forward of each rank where ranks share it, on one clock."""
    tracks = {(0, "loop"): spans.events}
    for rank, events in forward.tracks().items():
        tracks[rank, "forward"] = [(verb, begin - spans.epoch, end - spans.epoch) for verb, begin, end in events]
    return tracks


def _check_fit(model: Any, stream: Any, plan: Plan, options: ScoreOptions) -> None:
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


def chunked(options: ScoreOptions, learners: Sequence[Any]) -> ScoreOptions:
    """Chunks no longer than the shortest time between two updates that a learner asks for."""
    wishes = [n for n in (getattr(learner, "chunk_tokens", 0) for learner in learners) if n]
    return replace(options, chunk_tokens=min([options.chunk_tokens, *wishes]))


def _check_chunks(plan: Plan, learners: Sequence[Any]) -> None:
    for learner in learners:
        chunk = getattr(learner, "chunk_tokens", 0)
        if chunk % plan.step:
            near = max(1, round(chunk / plan.step)) * plan.step
            raise InputError(
                f"adapter {learner.name}: chunk {chunk} is not a multiple of the {plan.step} targets of one step of plan "
                f"{plan.name} ({plan.step_option}); choose chunk={near}"
            )


def _notes(learners: Sequence[Any], options: ScoreOptions) -> list[str]:
    """What a reader must know about these numbers."""
    notes = [note for learner in learners for note in getattr(learner, "notes", [])]
    if learners and not options.base_pass:
        names = ", ".join(learner.name for learner in learners)
        notes.append(f"base_pass is off: the base of this result is the model adapted by {names}")
    return notes


def _settings(plan: Plan, adapters: Sequence[Any], options: ScoreOptions) -> dict[str, Any]:
    return {
        "plan": {"name": plan.name, **msgspec.to_builtins(plan)},
        "adapters": [{"adapter": a.name, **msgspec.to_builtins(a.settings)} for a in adapters],
        "chunk_tokens": options.chunk_tokens,
        "batch_tokens": options.batch_tokens,
        "seed": options.seed,
        "sentinel": options.sentinel,
        "base_pass": options.base_pass,
        "budget_seconds": options.budget_seconds,
        **options.extra,
    }


def _fingerprint(model: Any, stream: Any, settings: dict[str, Any], ranks: int | str) -> dict[str, Any]:
    """What must agree for a run to be resumed.  Budget and the way of calling may differ."""
    from evalkit.models.device import device_kind, threads

    keep = ("plan", "adapters", "chunk_tokens", "batch_tokens", "seed", "sentinel", "base_pass")
    return {
        "model": model.fingerprint,
        "tokenizer": stream.tokenizer.fingerprint,
        "text": stream.fingerprint,
        **{key: settings[key] for key in keep},
        "device": device_kind(str(model.device)),
        "threads": threads(),
        "ranks": ranks,
        "code": code_fingerprint(),
    }


def run_folder(out: Path | str | None) -> Path | None:
    """Make the run directory; InputError when it cannot be written."""
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
    return folder


def _open_files(
    folder: Path | None,
    fingerprint: dict[str, Any],
    settings: dict[str, Any],
    stream: Any,
    stages: tuple[str, ...],
    options: ScoreOptions,
) -> tuple[Journal | None, list[BookedChunk], ScoreFile | None]:
    if folder is None:
        return None, [], None
    header = {"fingerprint": fingerprint, "settings": settings, "stages": list(stages)}
    journal, booked = Journal.open(folder / "journal.jsonl", header)
    keep = options.save_scores if options.save_scores is not None else stream.n_targets <= SCORE_FILE_TARGETS
    done = booked[-1].hi - 1 if booked else 0
    return journal, booked, ScoreFile(folder / "scores.f64", len(stages), done) if keep else None
