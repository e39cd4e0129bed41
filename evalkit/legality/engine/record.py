"""The record of a run: journal against text; ``run.json``, ``scores.f64`` and documents against the journal.

Nothing is scored here.  Every number of ``run.json`` that follows from the journal is computed again and must be the same
float64; every sum in the journal must be the sum of the kept scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from evalkit.adapters.base import Float64
from evalkit.errors import InputError
from evalkit.legality.verdict import Check
from evalkit.scoring.ledger import BookedChunk, score_digest
from evalkit.scoring.result import DocumentTable, RunRecord, document_columns, read_documents, stage_rows, totals
from evalkit.scoring.scores import read_scores
from evalkit.stream import Stream


def check(test: str, name: str, status: str, detail: str, ledger: str = "") -> Check:
    return Check(test=test, name=name, status=status, detail=detail, ledger=ledger)


class Broken(Exception):
    """A file of the run does not say what the others say; the message tells where and both values."""


def told(test: str, name: str, ledger: str, look: Callable[[], str]) -> Check:
    """``look`` returns what agrees, or raises :class:`Broken`."""
    try:
        return check(test, name, "ok", look(), ledger)
    except Broken as fault:
        return check(test, name, "violated", str(fault), ledger)


def record_checks(
    folder: Path, run: RunRecord, header: dict[str, Any], chunks: list[BookedChunk], stream: Stream
) -> list[Check]:
    """All of them; those that need the documents' names only where the text is the run's."""
    stages = list(header.get("stages") or ["model"])
    table = DocumentTable.from_chunks(chunks, len(stages))
    found = [
        told("T7", "journal", "coverage", lambda: coverage(chunks, stream)),
        told("P7", "header", "record", lambda: _header(run, header)),
        told("P7", "totals", "record", lambda: _totals(table, run)),
        told("P7", "stages", "record", lambda: _stages(table, run)),
    ]
    if (folder / "scores.f64").is_file():
        found.append(told("P7", "scores", "record", lambda: _scores(folder, chunks, len(stages))))
    if run.fingerprint["text"] == stream.fingerprint:
        found.append(told("T8", "journal bytes", "bytes", lambda: _owners(chunks, stream)))
        try:
            kept = read_documents(folder)
        except (OSError, ValueError, ImportError) as fault:
            found.append(check("P7", "documents", "not-tested", f"the documents cannot be read ({fault})"))
        else:
            columns = document_columns(table, tuple(stages), list(stream.doc_names))
            found.append(told("P7", "documents", "record", lambda: _documents(kept, columns)))
    return found


def coverage(chunks: list[BookedChunk], stream: Stream) -> str:
    """The journal books 1..n once, in order."""
    expected = 1
    for chunk in chunks:
        if chunk.lo != expected:
            what = f"chunk {chunk.index} books targets from {chunk.lo} on, expected {expected}: "
            raise Broken(
                what + (f"{chunk.lo - expected:,} are missing" if chunk.lo > expected else "some are booked twice")
            )
        expected = chunk.hi
    detail = f"{len(chunks)} chunks book targets 1..{expected - 1:,} once, in order"
    if missing := stream.n_targets + 1 - expected:
        raise Broken(f"{detail}; {missing:,} of {stream.n_targets:,} are missing")
    return detail


def _header(run: RunRecord, header: dict[str, Any]) -> str:
    """Settings and fingerprints of run.json against those that the journal began with."""
    for part, said in (("settings", run.settings), ("fingerprint", run.fingerprint)):
        for k, kept in (header.get(part) or {}).items():
            if said.get(k) != kept:
                raise Broken(
                    f"run.json says {part} {k} = {str(said.get(k))[:80]}, the journal began with {str(kept)[:80]}"
                )
    return "run.json has the settings and fingerprints that the journal began with"


def _totals(table: DocumentTable, run: RunRecord) -> str:
    """The totals of run.json from the journal, to the last bit."""
    found, said = msgspec.structs.asdict(totals(table)), msgspec.structs.asdict(run.totals)
    for k in found:
        if found[k] != said[k]:
            raise Broken(f"run.json says {k} = {said[k]}, the journal {found[k]}")
    return f"run.json agrees with the journal: {found['nats']:.6f} nats, {found['bytes']:,} bytes"


def _stages(table: DocumentTable, run: RunRecord) -> str:
    """The stages of run.json from the journal, their intervals too."""
    said, booked = run.stages, table.nats.shape[1] - 1
    if len(said) != booked:
        raise Broken(f"run.json lists {len(said)} stages after the model, the journal books {booked}")
    found = stage_rows(table, [(s.adapter, s.settings) for s in said], run.settings["seed"])
    for mine, other in zip(map(msgspec.structs.asdict, found), map(msgspec.structs.asdict, said), strict=False):
        for k in ("bpb", "delta_bpb", "ci95"):
            if mine[k] != other[k]:
                raise Broken(f"run.json says {k} = {other[k]} for stage '{other['adapter']}', the journal {mine[k]}")
    return f"stages {[s.adapter for s in said]} agree with the journal, intervals too"


def kept_scores(folder: Path, stages: int) -> Float64:
    """``scores.f64`` [targets, stages]; empty when it is not whole rows."""
    try:
        return read_scores(folder / "scores.f64", stages)
    except InputError:
        return np.empty((0, stages))


def _scores(folder: Path, chunks: list[BookedChunk], stages: int) -> str:
    """scores.f64 against the digest of every chunk in the journal, and against its sums."""
    try:
        kept = read_scores(folder / "scores.f64", stages)
    except InputError as fault:
        raise Broken(str(fault)) from None
    for chunk in chunks:
        nats = np.ascontiguousarray(np.asarray(kept[chunk.lo - 1 : chunk.hi - 1]).T)
        if nats.shape[1] != chunk.hi - chunk.lo or score_digest(nats) != chunk.digest:
            place = f"chunk {chunk.index} (targets {chunk.lo}..{chunk.hi - 1})"
            raise Broken(f"scores.f64 of {place} are not those that were booked")
        _sums(nats, chunk)
    return f"scores.f64 has the digests and sums of all {len(chunks)} chunks"


def _sums(nats: Float64, chunk: BookedChunk) -> None:
    """nats float64 [S+1, n]: Broken at the first document of the chunk whose booked sums are not those of its scores."""
    at = 0
    for part in chunk.parts:
        sums = tuple(math.fsum(stage[at : at + part.targets]) for stage in nats)
        if sums != part.nats:
            k = next(i for i, (a, b) in enumerate(zip(sums, part.nats, strict=True)) if a != b)
            raise Broken(
                f"the journal books {part.nats[k]!r} nats for document {part.doc} in chunk {chunk.index} (stage {k}); "
                f"its kept scores sum to {sums[k]!r}"
            )
        at += part.targets
    if at != nats.shape[1]:
        raise Broken(f"chunk {chunk.index} books {nats.shape[1]} targets, its documents {at}")


def _owners(chunks: list[BookedChunk], stream: Stream) -> str:
    """Targets and bytes of every document in the journal against the text."""
    for chunk in chunks:
        hi = min(chunk.hi, stream.n_targets + 1)
        docs, sizes = stream.doc_of_target(chunk.lo, hi), stream.target_bytes(chunk.lo, hi)
        for part in chunk.parts:
            own = docs == part.doc
            if int(own.sum()) != part.targets or int(sizes[own].sum()) != part.bytes:
                raise Broken(
                    f"chunk {chunk.index} of the journal gives document {part.doc} {part.targets} targets and {part.bytes} "
                    f"bytes; the text has {int(own.sum())} and {int(sizes[own].sum())} there"
                )
    return "targets and bytes of every document are those of the text"


def _documents(kept: dict[str, Any], columns: dict[str, Any]) -> str:
    """The file of documents against the journal."""
    for name, values in columns.items():
        if kept.get(name) != values:
            pairs = enumerate(zip(values, kept.get(name) or [], strict=False))
            at = next((i for i, (a, b) in pairs if a != b), 0)
            raise Broken(f"the documents' column '{name}' parts from the journal at row {at}")
    return f"{len(next(iter(columns.values())))} rows of documents agree with the journal"
