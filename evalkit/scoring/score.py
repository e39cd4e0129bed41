"""``score(model, stream, adapters, plan)``: the public entry to the scoring loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from evalkit.adapters.base import CountsCorpus, Expert, Learner, StreamInfo
from evalkit.machine import peak_memory_bytes
from evalkit.models.base import Model
from evalkit.plan import Plan
from evalkit.scoring.environment import environment
from evalkit.scoring.guard import Deadline, Guard
from evalkit.scoring.journal import Journal
from evalkit.scoring.ledger import BookedChunk
from evalkit.scoring.lock import one_writer
from evalkit.scoring.loop import Loop
from evalkit.scoring.result import (
    SCHEMA,
    Budget,
    Coverage,
    DocumentTable,
    Result,
    RunRecord,
    document_columns,
    perplexities,
    stage_rows,
    totals,
    write_documents,
)
from evalkit.scoring.run import MakeForwards, Run, ScoreOptions, run_folder
from evalkit.scoring.scores import ScoreFile
from evalkit.scoring.sentinel import Sentinel
from evalkit.scoring.trace import write_trace
from evalkit.stream import Stream

SCORE_FILE_TARGETS = 8_000_000
"""Up to this many targets, the scores of single targets are kept by default (8 bytes per stage and target)."""


def score(
    model: Model,
    stream: Stream,
    adapters: Sequence[Expert | Learner] = (),
    plan: Plan | None = None,
    *,
    out: Path | str | None = None,
    options: ScoreOptions | None = None,
    on_chunk: Callable[[BookedChunk], None] = lambda booked: None,
    forwards: MakeForwards | None = None,
    guard: Guard | None = None,
) -> Result:
    """Score every target of the stream once, in order, and return totals, stages and documents.

    ``adapters``: experts and learners, in stack order.  ``out``: run directory; an interrupted run there
    resumes with the same bits.  ``forwards(models, plan, stream, needs, info, options)`` makes the forward passes, one per model
    (used with several processes); ``guard`` decides whether to continue, and with what work.  Whether a model is causal is asked
    where a checkpoint is opened; for one made in Python call :func:`evalkit.models.causality.require_causal`.  Raises InputError
    (wrong input), LegalityError (a law was broken; booked chunks stay booked), DivergenceError (a score that is not finite).
    """
    folder = run_folder(out)
    with one_writer(folder) if folder is not None else nullcontext():
        run = Run.assemble(model, stream, adapters, plan, options, forwards=forwards)
        try:
            overlaps = check_provenance(run.stack.experts, stream, run.info)
            fingerprint = run.fingerprint() | ({"corpora": [o["corpus"] for o in overlaps]} if overlaps else {})
            with open_files(folder, run, fingerprint) as files:
                limit = run.options.budget_seconds
                guard = guard or (Guard() if limit is None else Deadline(limit))
                guard.check(run.learners)
                guard.begin(files.booked[-1].hi - 1 if files.booked else 0, stream.n_targets)
                sentinel = run.sentinel()
                loop = Loop.of(run, sentinel, guard, files.journal, files.scores, folder, on_chunk)
                began = time.perf_counter()
                complete = loop.run(run.chunks(), files.booked)
                wall = time.perf_counter() - began
        finally:
            run.detach()
        table = DocumentTable.from_chunks(run.ledger.chunks, len(run.stages))
        seconds = {**{k: round(v, 6) for k, v in loop.spans.seconds.items()}, "wall": wall}
        done = {"complete": complete, "seconds": seconds, "resumed_chunks": len(files.booked)}
        record = _record(run, table, sentinel, guard, **done)
        record.fingerprint, record.provenance = fingerprint, overlaps
        record.notes += [f"corpus of {o['adapter']}: {o['detail']}" for o in overlaps]
        if folder is not None:
            write_trace(folder / "trace.json", loop.tracks())
            write_documents(folder, document_columns(table, run.stages, list(stream.doc_names)))
            record.write(folder)
    return Result(record, table, folder, run.stages, loop.spans)


def check_provenance(experts: Sequence[Expert], stream: Stream, info: StreamInfo) -> list[dict[str, Any]]:
    """What the experts counted before the first target, compared with the text: one row per expert that counted any.

    LegalityError, law provenance, when a scored document or a near copy of one was counted.
    """
    rows = []
    for expert in experts:
        found = expert.overlap(stream, info) if isinstance(expert, CountsCorpus) else None
        if found is not None:
            found.check(f"adapter {expert.name}")
            rows.append({"adapter": expert.name, **msgspec.to_builtins(found), "detail": found.sentence()})
    return rows


@dataclass(frozen=True)
class RunFiles:
    """The files of a run directory that grow while it is scored; ``booked``: the chunks that are in them already."""

    journal: Journal | None = None
    booked: Sequence[BookedChunk] = ()
    scores: ScoreFile | None = None


@contextmanager
def open_files(folder: Path | None, run: Run, fingerprint: dict[str, Any]) -> Iterator[RunFiles]:
    """Create them, or reopen those of the same run.  InputError when another run lives there; no folder, no files."""
    if folder is None:
        yield RunFiles()
        return
    header = {"fingerprint": fingerprint, "settings": run.settings(), "stages": list(run.stages)}
    journal, booked = Journal.open(folder / "journal.jsonl", header)
    keep, scores = run.options.save_scores, None
    try:
        if keep if keep is not None else run.stream.n_targets <= SCORE_FILE_TARGETS:
            scores = ScoreFile(folder / "scores.f64", len(run.stages), booked[-1].hi - 1 if booked else 0)
        yield RunFiles(journal, booked, scores)
    finally:
        journal.close()
        if scores is not None:
            scores.close()


def _record(
    run: Run,
    table: DocumentTable,
    sentinel: Sentinel,
    guard: Guard,
    *,
    complete: bool,
    seconds: dict[str, float],
    resumed_chunks: int,
) -> RunRecord:
    """What run.json says."""
    sums = totals(table)
    described = [(a.name, msgspec.to_builtins(a.settings)) for a in run.staged]
    return RunRecord(
        schema=SCHEMA,
        settings=run.settings(),
        fingerprint=run.fingerprint(),
        world_size=run.forward.world_size,
        complete=complete,
        coverage=Coverage(booked=[[1, run.ledger.next_target]], targets=[1, run.stream.n_targets + 1]),
        budget=msgspec.convert(guard.report(), Budget),
        totals=sums,
        perplexity=perplexities(sums, run.stream.words(sums.targets)),
        stages=stage_rows(table, described, run.options.seed),
        bytes_from=run.stream.bytes_from,
        folding=asdict(run.stream.folding) if run.stream.folding else None,
        documents=len(table.doc),
        notes=run.notes(),
        resumed_chunks=resumed_chunks,
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(),
        state_bytes=run.state_bytes(),
        verdicts={"sentinel": sentinel.verdict()},
        environment=environment(str(run.model.device)),
        ranks=run.forward.ranks() or msgspec.UNSET,
    )
