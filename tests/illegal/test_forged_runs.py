"""Somebody edits a run directory.  Is the forgery named: which file, which chunk, document, stage or target?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from evalkit.cli.main import main
from evalkit.cli.opening import open_run
from evalkit.legality.engine.run import run_checks
from evalkit.legality.verdict import Check
from evalkit.scoring.journal import decode_line, encode_line
from evalkit.scoring.ledger import score_digest
from evalkit.scoring.result import RunRecord

STAGES = 2


@pytest.fixture(scope="module")
def original(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forged")
    shutil.copy(text, folder / "text.jsonl")
    flags = ["--checkpoint", str(checkpoint), "--tokenizer", "byte", "--text", str(folder / "text.jsonl")]
    plan = ["--plan", "sliding:seq_len=32,stride=16", "--chunk-tokens", "256", "--threads", "1", "--adapter", "ppm"]
    assert main(["eval", *flags, *plan, "--out", str(folder / "run")]) == 0
    return folder


def edit_run(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    run = json.loads((folder / "run.json").read_text())
    change(run)
    (folder / "run.json").write_text(json.dumps(run))


def edit_journal(folder: Path, number: int, change: Callable[[dict[str, Any]], None] | None) -> None:
    """Change line ``number`` and put its checksum right; None: take it out."""
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    record = decode_line(lines[number])
    assert record is not None
    if change is not None:
        change(record)
    lines[number : number + 1] = [] if change is None else [encode_line(record)]
    (folder / "journal.jsonl").write_bytes(b"".join(lines))


def edit_score(folder: Path, target: int, by: float) -> np.ndarray:
    scores = np.fromfile(folder / "scores.f64", "<f8").reshape(-1, STAGES)
    scores[target - 1, -1] += by
    scores.tofile(folder / "scores.f64")
    return scores


def totals(folder: Path) -> None:
    edit_run(folder, lambda run: run["totals"].update(bpb=run["totals"]["bpb"] - 1e-9))


def stage(folder: Path) -> None:
    edit_run(folder, lambda run: run["stages"][0].update(delta_bpb=-0.5))


def interval(folder: Path) -> None:
    edit_run(folder, lambda run: run["stages"][0].update(ci95=[-0.1, -0.05]))


def setting(folder: Path) -> None:
    edit_run(folder, lambda run: run["settings"].update(seed=7))


def score(folder: Path) -> None:
    edit_score(folder, 300, -1.0)


def score_with_digest(folder: Path) -> None:
    """The digest of the chunk is made anew; the sums are not."""
    scores = edit_score(folder, 300, -1.0)
    edit_journal(folder, 2, lambda r: r.update(digest=score_digest(scores[r["lo"] - 1 : r["hi"] - 1].T)))


def everything(folder: Path) -> None:
    """Score, digest, sums, totals, stages and documents all agree with each other: only the replay can tell."""
    import math

    from evalkit.scoring.journal import read_journal
    from evalkit.scoring.result import DocumentTable, document_columns, stage_rows, write_documents
    from evalkit.scoring.result import totals as sums

    scores = edit_score(folder, 300, -1.0)

    def forge(record: dict[str, Any]) -> None:
        nats, at = scores[record["lo"] - 1 : record["hi"] - 1].T, 0
        for part in record["docs"]:
            part[3] = [math.fsum(row[at : at + part[1]]) for row in nats]
            at += part[1]
        record["digest"] = score_digest(nats)

    edit_journal(folder, 2, forge)
    _, chunks, _ = read_journal(folder / "journal.jsonl")
    table = DocumentTable.from_chunks(chunks, STAGES)
    new, stages = msgspec.to_builtins(sums(table)), msgspec.to_builtins(stage_rows(table, [("ppm", {})], 0))
    step = {k: stages[0][k] for k in ("bpb", "delta_bpb", "ci95")}
    edit_run(folder, lambda run: (run["totals"].update(new), run["stages"][0].update(step)))
    names = [str(n) for n in _names(folder)]
    write_documents(folder, document_columns(table, ("model", "ppm"), names))


def _names(folder: Path) -> tuple[str, ...]:
    return open_run(RunRecord.read(folder), "byte")[1].doc_names


def dropped(folder: Path) -> None:
    edit_journal(folder, 2, None)


def last_dropped(folder: Path) -> None:
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:-1]))


def twice(folder: Path) -> None:
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join([*lines[:3], lines[2], *lines[3:]]))


def edited_line(folder: Path) -> None:
    data = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(data.replace(b'"lo":257', b'"lo":258'))


def more_bytes(folder: Path) -> None:
    edit_journal(folder, 1, lambda r: r["docs"][0].__setitem__(2, r["docs"][0][2] + 50))


def text(folder: Path) -> None:
    path = folder.parent / "text.jsonl"
    path.write_text(path.read_text().replace("dog", "cow"))


def truncated(folder: Path) -> None:
    with (folder / "scores.f64").open("r+b") as file:
        file.truncate(1001)


def documents(folder: Path) -> None:
    from evalkit.scoring.result import read_documents, write_documents

    columns = read_documents(folder)
    columns["nats"][1] -= 3.0
    write_documents(folder, columns)


def checks_of(folder: Path) -> list[Check]:
    run = RunRecord.read(folder)
    return run_checks(folder, run, *open_run(run, "byte"))


@pytest.mark.parametrize(
    ("forge", "name", "words"),
    [
        (totals, "totals", "run.json says bpb ="),
        (stage, "stages", "delta_bpb = -0.5 for stage 'ppm'"),
        (interval, "stages", "ci95 = [-0.1, -0.05] for stage 'ppm'"),
        (setting, "header", "settings seed = 7, the journal began with 0"),
        (score, "scores", "chunk 1 (targets 257..512)"),
        (score_with_digest, "scores", "in chunk 1 (stage 1); its kept scores sum to"),
        (everything, "replay", "target 300 was booked at"),
        (dropped, "journal", "books targets from 513 on, expected 257: 256 are missing"),
        (last_dropped, "journal", "are missing"),
        (twice, "journal", "some are booked twice"),
        (edited_line, "journal", "line 3 of"),
        (more_bytes, "journal bytes", "gives document 0"),
        (text, "fingerprints", "the text found now is not the one of the run"),
        (truncated, "scores", "1001 bytes are not whole rows"),
        (documents, "documents", "column 'nats' parts from the journal at row 1"),
    ],
)
def test_a_forgery_is_named(
    forge: Callable[[Path], None], name: str, words: str, original: Path, tmp_path: Path
) -> None:
    shutil.copytree(original, tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    moved = str(original), str(tmp_path / "copy")
    for file in ("run.json", "journal.jsonl"):
        path = folder / file
        if file == "run.json":
            path.write_text(path.read_text().replace(*moved))
        else:
            lines = path.read_bytes().splitlines(keepends=True)
            header = json.loads(lines[0].decode().replace(*moved))
            header.pop("crc")
            path.write_bytes(b"".join([encode_line(header), *lines[1:]]))
    assert {c.status for c in checks_of(folder)} == {"ok"}
    forge(folder)
    broken = {c.name: c.detail for c in checks_of(folder) if c.status == "violated"}
    assert name in broken, broken
    assert words in broken[name]


def test_the_audit_of_a_forged_run_says_it_first(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(original / "run", tmp_path / "run")
    totals(tmp_path / "run")
    assert main(["audit", str(tmp_path / "run"), "--tokenizer", "byte", "--probes", "100"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("violation")
    assert "run.json says bpb =" in said
