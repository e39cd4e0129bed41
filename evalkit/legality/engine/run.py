"""The audit of a finished run: its journal, its scores and its numbers must say the same, and so must a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import InputError
from evalkit.legality.engine.record import Broken, check, kept_scores, record_checks, told
from evalkit.legality.engine.setup import Setup, replay
from evalkit.legality.verdict import Check
from evalkit.scoring.journal import read_journal
from evalkit.scoring.ledger import BookedChunk
from evalkit.scoring.result import RunRecord
from evalkit.stream import Stream

REPLAY_TARGETS = 16_384


def run_checks(folder: Path, run: RunRecord, setup: Setup, stream: Stream, *, whole: bool = False) -> list[Check]:
    """Journal, coverage, numbers, kept scores, fingerprints, a replay of the beginning (or of all), and the clock."""
    try:
        header, chunks, _ = read_journal(folder / "journal.jsonl")
    except (InputError, OSError, ValueError, KeyError, TypeError) as fault:
        return [check("P7", "journal", "violated", f"the journal is not the one that was written: {fault}", "record")]
    if header is None:
        return [check("P7", "journal", "violated", f"{folder / 'journal.jsonl'} holds no whole line", "record")]
    checks = record_checks(folder, run, header, chunks, stream)
    same = told("P7", "fingerprints", "record", lambda: _fingerprints(run, setup, stream))
    checks.append(same)
    if same.status == "ok" and (folder / "scores.f64").is_file():
        kept = kept_scores(folder, len(header["stages"]))
        checks.append(_replay(kept, chunks, setup, stream, run.world_size, whole=whole))
    elif same.status == "ok":
        checks.append(check("T4", "replay", "not-tested", "the run kept no scores.f64"))
    return [*checks, *_clock(run)]


def _fingerprints(run: RunRecord, setup: Setup, stream: Stream) -> str:
    """Do model, tokenizer and text that are opened now have the fingerprints of the run?"""
    now = {"model": setup.model.fingerprint, "tokenizer": stream.tokenizer.fingerprint, "text": stream.fingerprint}
    for name, found in now.items():
        if run.fingerprint[name] != found:
            raise Broken(f"the {name} found now is not the one of the run, so its numbers cannot be checked")
    return "model, tokenizer and text are those of the run"


def _replay(
    kept: Any, chunks: list[BookedChunk], setup: Setup, stream: Stream, ranks: int, *, whole: bool = False
) -> Check:
    """Score the first chunks again in one process, and compare target by target."""
    most = len(kept) if whole else REPLAY_TARGETS
    ends = [c.hi - 1 for c in chunks if c.hi - 1 <= most]
    n = min(ends[-1] if ends else most, len(kept), stream.n_targets)
    if not n:
        return check("T4", "replay", "not-tested", "no score was kept")
    if any(c.shed for c in chunks if c.lo <= n):
        return check("T4", "replay", "not-tested", "work was shed to keep the budget; the replay does all of it")
    again, last = replay(setup, stream.head(n))[-1], np.asarray(kept[:n, -1])
    moved = np.abs(again - last)
    worst, at = float(moved.max()), int(moved.argmax()) + 1
    exact = "bit for bit" if worst == 0.0 else f"within {worst:.2g} nats"
    if worst > 1e-3:
        what = f"target {at} was booked at {last[at - 1]:.6f} nats and scores {again[at - 1]:.6f} when replayed"
        return check("T4", "replay", "violated", what, "record")
    where = f"booked on {ranks} ranks, replayed on one: " if ranks > 1 else ""
    detail = f"{where}the first {n:,} of {stream.n_targets:,} targets score alike, {exact}"
    return check("T10" if ranks > 1 else "T4", "replay", "ok", detail, "record")


def _clock(run: RunRecord) -> list[Check]:
    """Ranks and seconds, as the run says them."""
    wall = run.seconds.get("wall", 0.0)
    note = f"{wall:.1f} s of scoring on {run.world_size} rank(s); the field's limit is 600 s on 8xH100"
    left = "complete" if run.complete else "cut short: its numbers cover a part of the text"
    return [check("T16", "clock", "ok", note), check("T7", "complete", "ok" if run.complete else "warning", left)]
