"""Do the files of a run tell one story?  Journal against text, ``run.json``, ``scores.f64`` and documents against journal.

Nothing is scored here.  Every number of ``run.json`` that follows from the journal is computed again and must be the same
float64; every sum in the journal must be the sum of the kept scores.
"""

from __future__ import annotations

import math
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


def record_checks(
    folder: Path, run: RunRecord, header: dict[str, Any], chunks: list[BookedChunk], stream: Stream
) -> list[Check]:
    """All of them; those that need the documents' names only where the text is the run's."""
    stages = list(header.get("stages") or ["model"])
    table = DocumentTable.from_chunks(chunks, len(stages))
    found = [coverage(chunks, stream), _header(run, header), _totals(table, run), _stages(table, run)]
    if (folder / "scores.f64").is_file():
        found.append(_scores(folder, chunks, len(stages)))
    if run.fingerprint["text"] == stream.fingerprint:
        found += [_owners(chunks, stream), _documents(folder, table, stages, stream)]
    return found


def coverage(chunks: list[BookedChunk], stream: Stream) -> Check:
    """T7: the journal books 1..n once, in order."""
    expected = 1
    for chunk in chunks:
        if chunk.lo != expected:
            what = f"chunk {chunk.index} books targets from {chunk.lo} on, expected {expected}: "
            what += f"{chunk.lo - expected:,} are missing" if chunk.lo > expected else "some are booked twice"
            return check("T7", "journal", "violated", what, "coverage")
        expected = chunk.hi
    missing = stream.n_targets + 1 - expected
    detail = f"{len(chunks)} chunks book targets 1..{expected - 1:,} once, in order"
    if missing:
        return check(
            "T7", "journal", "violated", f"{detail}; {missing:,} of {stream.n_targets:,} are missing", "coverage"
        )
    return check("T7", "journal", "ok", detail, "coverage")


def _header(run: RunRecord, header: dict[str, Any]) -> Check:
    """Settings and fingerprints of run.json against those that the journal began with."""
    for part, said in (("settings", run.settings), ("fingerprint", run.fingerprint)):
        kept = header.get(part) or {}
        wrong = [k for k in kept if said.get(k) != kept[k]]
        if wrong:
            k = wrong[0]
            what = f"run.json says {part} {k} = {str(said.get(k))[:80]}, the journal began with {str(kept[k])[:80]}"
            return check("P7", "header", "violated", what, "record")
    return check(
        "P7", "header", "ok", "run.json has the settings and fingerprints that the journal began with", "record"
    )


def _totals(table: DocumentTable, run: RunRecord) -> Check:
    """The totals of run.json from the journal, to the last bit."""
    found, said = msgspec.structs.asdict(totals(table)), msgspec.structs.asdict(run.totals)
    wrong = [k for k in found if found[k] != said[k]]
    if wrong:
        k = wrong[0]
        return check("P7", "totals", "violated", f"run.json says {k} = {said[k]}, the journal {found[k]}", "record")
    detail = f"run.json agrees with the journal: {found['nats']:.6f} nats, {found['bytes']:,} bytes"
    return check("P7", "totals", "ok", detail, "record")


def _stages(table: DocumentTable, run: RunRecord) -> Check:
    """The stages of run.json from the journal, their intervals too."""
    said = run.stages
    if len(said) != table.nats.shape[1] - 1:
        what = f"run.json lists {len(said)} stages after the model, the journal books {table.nats.shape[1] - 1}"
        return check("P7", "stages", "violated", what, "record")
    found = stage_rows(table, [(s.adapter, s.settings) for s in said], run.settings["seed"])
    for mine, other in zip(map(msgspec.structs.asdict, found), map(msgspec.structs.asdict, said), strict=False):
        for k in ("bpb", "delta_bpb", "ci95"):
            if mine[k] != other[k]:
                what = f"run.json says {k} = {other[k]} for stage '{other['adapter']}', the journal {mine[k]}"
                return check("P7", "stages", "violated", what, "record")
    return check(
        "P7",
        "stages",
        "ok",
        f"stages {[s.adapter for s in said]} agree with the journal, intervals too",
        "record",
    )


def kept_scores(folder: Path, stages: int) -> Float64:
    """``scores.f64`` [targets, stages]; empty when it is not whole rows."""
    try:
        return read_scores(folder / "scores.f64", stages)
    except InputError:
        return np.empty((0, stages))


def _scores(folder: Path, chunks: list[BookedChunk], stages: int) -> Check:
    """scores.f64 against the digest of every chunk in the journal, and against its sums."""
    try:
        kept = read_scores(folder / "scores.f64", stages)
    except InputError as fault:
        return check("P7", "scores", "violated", str(fault), "record")
    for chunk in chunks:
        nats = np.ascontiguousarray(np.asarray(kept[chunk.lo - 1 : chunk.hi - 1]).T)
        if nats.shape[1] != chunk.hi - chunk.lo or score_digest(nats) != chunk.digest:
            what = (
                f"scores.f64 of chunk {chunk.index} (targets {chunk.lo}..{chunk.hi - 1}) are not those that were booked"
            )
            return check("P7", "scores", "violated", what, "record")
        if wrong := _wrong_sum(nats, chunk):
            return check("P7", "scores", "violated", wrong, "record")
    return check("P7", "scores", "ok", f"scores.f64 has the digests and sums of all {len(chunks)} chunks", "record")


def _wrong_sum(nats: Float64, chunk: BookedChunk) -> str:
    """nats float64 [S+1, n]: the first document of the chunk whose booked sums are not those of its scores, or ""."""
    at = 0
    for part in chunk.parts:
        sums = tuple(math.fsum(stage[at : at + part.targets]) for stage in nats)
        if sums != part.nats:
            k = next(i for i, (a, b) in enumerate(zip(sums, part.nats, strict=True)) if a != b)
            return (
                f"the journal books {part.nats[k]!r} nats for document {part.doc} in chunk {chunk.index} (stage {k}); "
                f"its kept scores sum to {sums[k]!r}"
            )
        at += part.targets
    return "" if at == nats.shape[1] else f"chunk {chunk.index} books {nats.shape[1]} targets, its documents {at}"


def _owners(chunks: list[BookedChunk], stream: Stream) -> Check:
    """T8: targets and bytes of every document in the journal against the text."""
    for chunk in chunks:
        hi = min(chunk.hi, stream.n_targets + 1)
        docs, sizes = stream.doc_of_target(chunk.lo, hi), stream.target_bytes(chunk.lo, hi)
        for part in chunk.parts:
            own = docs == part.doc
            if int(own.sum()) != part.targets or int(sizes[own].sum()) != part.bytes:
                what = (
                    f"chunk {chunk.index} of the journal gives document {part.doc} {part.targets} targets and {part.bytes} "
                    f"bytes; the text has {int(own.sum())} and {int(sizes[own].sum())} there"
                )
                return check("T8", "journal bytes", "violated", what, "bytes")
    return check("T8", "journal bytes", "ok", "targets and bytes of every document are those of the text", "bytes")


def _documents(folder: Path, table: DocumentTable, stages: list[str], stream: Stream) -> Check:
    """The file of documents against the journal."""
    try:
        said = read_documents(folder)
    except (OSError, ValueError, ImportError) as fault:
        return check("P7", "documents", "not-tested", f"the documents cannot be read ({fault})")
    for name, values in document_columns(table, tuple(stages), list(stream.doc_names)).items():
        other = said.get(name)
        if other != values:
            at = next((i for i, (a, b) in enumerate(zip(values, other or [], strict=False)) if a != b), 0)
            what = f"the documents' column '{name}' parts from the journal at row {at}"
            return check("P7", "documents", "violated", what, "record")
    return check("P7", "documents", "ok", f"{len(table.doc)} rows of documents agree with the journal", "record")
