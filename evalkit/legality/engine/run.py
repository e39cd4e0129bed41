"""How is a run audited after the fact?  Its journal, its scores and its numbers must say the same, and so must a replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import InputError
from evalkit.legality.engine.setup import Setup, replay
from evalkit.legality.verdict import Check
from evalkit.scoring.journal import read_journal
from evalkit.scoring.ledger import BookedChunk, score_digest
from evalkit.scoring.result import DocumentTable, totals
from evalkit.scoring.scores import read_scores
from evalkit.stream import Stream

REPLAY_TARGETS = 16_384


def read_run(folder: Path) -> dict[str, Any]:
    """``run.json``; InputError when the folder is no run directory."""
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(
            f"{folder} is no run directory: run.json is missing; a run that was cut short writes it when it resumes"
        )
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        for key in ("settings", "totals", "fingerprint", "complete"):
            run[key]
    except (ValueError, KeyError, TypeError) as fault:
        raise InputError(f"{path}: cannot be read as a run ({fault}); score again with evalkit eval --out") from None
    return run


def run_checks(folder: Path, run: dict[str, Any], setup: Setup, stream: Stream) -> list[Check]:
    """Journal, coverage, totals, kept scores, fingerprints, a replay of the beginning, and the clock."""
    header, chunks, _ = read_journal(folder / "journal.jsonl")
    stages = list((header or {}).get("stages", ["model"]))
    checks = [_coverage(chunks, stream), _totals(chunks, run, len(stages)), _fingerprints(run, setup, stream)]
    scores = folder / "scores.f64"
    if scores.is_file():
        kept = read_scores(scores, len(stages))
        checks.append(_digests(chunks, kept))
        checks += [_replay(kept, chunks, setup, stream, run.get("world_size", 1))] if checks[2].status == "ok" else []
    else:
        checks.append(_check("T4", "replay", "not-tested", "the run kept no scores.f64"))
    return [*checks, *_clock(run)]


def _check(test: str, name: str, status: str, detail: str, ledger: str = "") -> Check:
    return Check(test=test, name=name, status=status, detail=detail, ledger=ledger)


def _coverage(chunks: list[BookedChunk], stream: Stream) -> Check:
    """T7: the journal books 1..n once, in order."""
    expected = 1
    for chunk in chunks:
        if chunk.lo != expected:
            return _check(
                "T7", "journal", "violated", f"chunk {chunk.index} books {chunk.lo}, expected {expected}", "coverage"
            )
        expected = chunk.hi
    missing = stream.n_targets + 1 - expected
    detail = f"{len(chunks)} chunks book targets 1..{expected - 1:,} once, in order"
    if missing:
        return _check(
            "T7", "journal", "violated", f"{detail}; {missing:,} of {stream.n_targets:,} are missing", "coverage"
        )
    return _check("T7", "journal", "ok", detail, "coverage")


def _totals(chunks: list[BookedChunk], run: dict[str, Any], stages: int) -> Check:
    """The totals of run.json from the journal, to the last bit."""
    found, said = totals(DocumentTable.from_chunks(chunks, stages)), run["totals"]
    wrong = [k for k in found if found[k] != said.get(k)]
    if wrong:
        k = wrong[0]
        return _check(
            "P7", "totals", "violated", f"run.json says {k} = {said.get(k)}, the journal {found[k]}", "record"
        )
    detail = f"run.json agrees with the journal: {found['nats']:.6f} nats, {found['bytes']:,} bytes"
    return _check("P7", "totals", "ok", detail, "record")


def _fingerprints(run: dict[str, Any], setup: Setup, stream: Stream) -> Check:
    """Do model, tokenizer and text that are opened now have the fingerprints of the run?"""
    now = {"model": setup.model.fingerprint, "tokenizer": stream.tokenizer.fingerprint, "text": stream.fingerprint}
    wrong = [k for k, v in now.items() if run["fingerprint"].get(k) != v]
    if wrong:
        return _check(
            "P7",
            "fingerprints",
            "violated",
            f"the {wrong[0]} found now is not the one of the run, so its numbers cannot be checked",
            "record",
        )
    return _check("P7", "fingerprints", "ok", "model, tokenizer and text are those of the run", "record")


def _digests(chunks: list[BookedChunk], kept: Any) -> Check:
    """scores.f64 against the digest of every chunk in the journal."""
    for chunk in chunks:
        nats = np.ascontiguousarray(np.asarray(kept[chunk.lo - 1 : chunk.hi - 1]).T)
        if nats.shape[1] != chunk.hi - chunk.lo or score_digest(nats) != chunk.digest:
            what = (
                f"scores.f64 of chunk {chunk.index} (targets {chunk.lo}..{chunk.hi - 1}) are not those that were booked"
            )
            return _check("P7", "scores", "violated", what, "record")
    return _check("P7", "scores", "ok", f"scores.f64 has the digests of all {len(chunks)} chunks", "record")


def _replay(kept: Any, chunks: list[BookedChunk], setup: Setup, stream: Stream, ranks: int) -> Check:
    """Score the first chunks again in one process, and compare target by target (T4; T10 when there were ranks)."""
    whole = [c.hi - 1 for c in chunks if c.hi - 1 <= REPLAY_TARGETS]
    n = min(whole[-1] if whole else REPLAY_TARGETS, len(kept))
    if any(c.shed for c in chunks if c.lo <= n):
        return _check("T4", "replay", "not-tested", "work was shed to keep the budget; the replay does all of it")
    again, last = replay(setup, stream.head(n))[-1], np.asarray(kept[:n, -1])
    moved = np.abs(again - last)
    worst, at = float(moved.max()), int(moved.argmax()) + 1
    exact = "bit for bit" if worst == 0.0 else f"within {worst:.2g} nats"
    if worst > 1e-3:
        what = f"target {at} was booked at {last[at - 1]:.6f} nats and scores {again[at - 1]:.6f} when replayed"
        return _check("T4", "replay", "violated", what, "record")
    where = f"booked on {ranks} ranks, replayed on one: " if ranks > 1 else ""
    detail = f"{where}the first {n:,} targets score alike, {exact}"
    return _check("T10" if ranks > 1 else "T4", "replay", "ok", detail, "record")


def _clock(run: dict[str, Any]) -> list[Check]:
    """T10, T16: ranks and seconds, as the run says them."""
    wall = float(run.get("seconds", {}).get("wall", 0.0))
    note = f"{wall:.1f} s of scoring on {run.get('world_size', 1)} rank(s); the field's limit is 600 s on 8xH100"
    left = "complete" if run["complete"] else "cut short: its numbers cover a part of the text"
    return [_check("T16", "clock", "ok", note), _check("T7", "complete", "ok" if run["complete"] else "warning", left)]
