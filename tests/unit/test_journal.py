"""The journal survives torn tails, refuses other runs, and gives back exactly what was booked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalkit.errors import DivergenceError, InputError, LegalityError
from evalkit.scoring.journal import Journal, read_journal
from evalkit.scoring.ledger import BookedChunk, Ledger
from evalkit.scoring.scores import ScoreFile, read_scores
from evalkit.scoring.state import Snapshot, load_snapshot, save_snapshot

HEADER = {"fingerprint": {"model": "m", "text": "t"}, "settings": {}}
FIRST = np.zeros(1, np.int32)
"""Token 0 of a stream: context, never a target."""


def booked_chunks(n: int = 3) -> list[BookedChunk]:
    ledger, rng = Ledger(("model", "ppm"), FIRST), np.random.default_rng(0)
    for i in range(n):
        nats = rng.exponential(size=(2, 10))
        ledger.book(i, 1 + 10 * i, np.arange(10), nats, np.repeat([i, i + 1], 5), np.full(10, 3))
    return ledger.chunks


def write(path: Path, chunks: list[BookedChunk]) -> None:
    journal, _ = Journal.open(path, HEADER)
    for chunk in chunks:
        journal.append(chunk)
    journal.close()


def test_reopening_gives_back_the_same_bits(tmp_path: Path) -> None:
    chunks = booked_chunks()
    write(tmp_path / "journal.jsonl", chunks)
    journal, found = Journal.open(tmp_path / "journal.jsonl", HEADER)
    journal.close()
    assert found == chunks


@pytest.mark.parametrize("cut", [1, 2, 17, 60])
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    path, chunks = tmp_path / "journal.jsonl", booked_chunks()
    write(path, chunks)
    path.write_bytes(path.read_bytes()[:-cut])
    journal, found = Journal.open(path, HEADER)
    assert found == chunks[:-1]
    journal.append(chunks[-1])
    journal.close()
    assert read_journal(path)[1] == chunks


def test_damage_before_the_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, booked_chunks())
    data = bytearray(path.read_bytes())
    data[data.index(b'"lo":11') + 5] = ord("9")
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="line 3 of 4 is damaged"):
        Journal.open(path, HEADER)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "journal.jsonl", booked_chunks())
    other = {"fingerprint": {"model": "m", "text": "u"}, "settings": {}}
    with pytest.raises(InputError, match="another text"):
        Journal.open(tmp_path / "journal.jsonl", other)


def test_a_journal_torn_in_its_header_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, [])
    path.write_bytes(path.read_bytes()[:-4])
    journal, found = Journal.open(path, HEADER)
    journal.close()
    assert found == []
    assert read_journal(path)[0] is not None


@pytest.mark.parametrize(("lo", "word"), [(1, "twice"), (12, "out of order")])
def test_the_ledger_books_every_target_once_in_order(lo: int, word: str) -> None:
    ledger = Ledger(("model",), FIRST)
    ledger.book(0, 1, np.arange(10), np.ones((1, 10)), np.zeros(10, int), np.ones(10, int))
    with pytest.raises(LegalityError, match=word):
        ledger.book(1, lo, np.arange(10), np.ones((1, 10)), np.zeros(10, int), np.ones(10, int))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_names_its_target(bad: float) -> None:
    nats = np.ones((2, 10))
    nats[1, 4] = bad
    with pytest.raises(DivergenceError, match="stage 'ppm' gave target 5"):
        Ledger(("model", "ppm"), FIRST).book(0, 1, np.arange(10), nats, np.zeros(10, int), np.ones(10, int))


def test_snapshots_fall_back_to_the_last_sound_one(tmp_path: Path) -> None:
    for chunk in range(4):
        save_snapshot(tmp_path, Snapshot(chunk, 10 * chunk, {"stack": bytes([chunk]) * 9}))
    assert len(list(tmp_path.glob("*.bin"))) == 2
    newest = load_snapshot(tmp_path, 3)
    assert newest is not None
    assert (newest.chunk, newest.parts["stack"]) == (3, b"\x03" * 9)
    damaged = sorted(tmp_path.glob("*.bin"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    older = load_snapshot(tmp_path, 3)
    assert older is not None
    assert older.chunk == 2
    assert load_snapshot(tmp_path, 1) is None


def test_the_score_file_is_cut_to_what_the_journal_knows(tmp_path: Path) -> None:
    path, nats = tmp_path / "scores.f64", np.arange(20.0).reshape(2, 10)
    scores = ScoreFile(path, 2, 0)
    scores.append(nats)
    scores.append(nats)
    scores.close()
    ScoreFile(path, 2, 10).close()
    assert np.array_equal(read_scores(path, 2), nats.T)
    with pytest.raises(InputError, match="start again"):
        ScoreFile(path, 2, 11)
