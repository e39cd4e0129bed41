"""A run that was killed goes on, and its total is the same to the last bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalkit.scoring import loop as loop_module
from evalkit.scoring.journal import read_journal

FULL_STACK = ("ppm", "match", "best_agree", "tilt", "hedge", "backoff", "log_bias", "temperature")
PLANS = ("disjoint:seq_len=32", "sliding:seq_len=48,stride=16", "banded:window=40,block=64,segment=128")


class Killed(Exception):
    pass


@pytest.fixture
def long_text(tmp_path: Path) -> Path:
    lines = (f"Record {i}: value {i * i % 97} for key {i % 13}, seen {i % 5} times.\n" for i in range(240))
    path = tmp_path / "long.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def flags(checkpoint: Path, text: Path, plan: str, out: Path, stack: tuple[str, ...] = ("ppm",)) -> list[str]:
    common = ["--checkpoint", str(checkpoint), "--text", str(text), "--tokenizer", "byte", "--plan", plan]
    adapters = [word for name in stack for word in ("--adapter", name)]
    return ["eval", *common, "--chunk-tokens", "256", *adapters, "--threads", "1", "--out", str(out)]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("snapshots", ["every chunk", "never"])
def test_a_run_cut_at_any_chunk_resumes_with_the_same_bits(
    evalkit, checkpoint: Path, text: Path, tmp_path: Path, plan: str, snapshots: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "SNAPSHOT_SECONDS", 0.0 if snapshots == "every chunk" else 1e9)
    monkeypatch.setattr(loop_module, "SNAPSHOT_SHARE", 0.0)
    assert evalkit(*flags(checkpoint, text, plan, tmp_path / "whole")).code == 0
    whole = json.loads((tmp_path / "whole" / "run.json").read_text())
    real = loop_module.Loop._observe
    for cut in (1, 5, 13):

        def observe(self, entry, receipt, cut=cut):
            if entry.index == cut:
                raise Killed
            real(self, entry, receipt)

        out = tmp_path / f"cut{cut}"
        monkeypatch.setattr(loop_module.Loop, "_observe", observe)
        assert evalkit(*flags(checkpoint, text, plan, out)).code == 3
        monkeypatch.setattr(loop_module.Loop, "_observe", real)
        assert len(read_journal(out / "journal.jsonl")[1]) == cut + 1
        assert evalkit(*flags(checkpoint, text, plan, out)).code == 0
        resumed = json.loads((out / "run.json").read_text())
        assert resumed["totals"] == whole["totals"]
        assert resumed["resumed_chunks"] == cut + 1
        assert (out / "scores.f64").read_bytes() == (tmp_path / "whole" / "scores.f64").read_bytes()
        assert read_journal(out / "journal.jsonl")[1] == read_journal(tmp_path / "whole" / "journal.jsonl")[1]


@pytest.mark.parametrize(
    ("stack", "shares"), [pytest.param(("ppm",), (0.3, 0.6, 0.9), marks=pytest.mark.slow), (FULL_STACK, (0.5,))]
)
def test_kill_9_and_again(
    evalkit, checkpoint: Path, long_text: Path, tmp_path: Path, stack: tuple[str, ...], shares: tuple[float, ...]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert evalkit(*flags(checkpoint, long_text, PLANS[1], whole, stack)).code == 0
    command = [sys.executable, "-m", "evalkit", *flags(checkpoint, long_text, PLANS[1], out, stack)]
    total = json.loads((whole / "run.json").read_text())["totals"]
    chunks = len(read_journal(whole / "journal.jsonl")[1])
    for share in shares:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_lines(out / "journal.jsonl", 1 + int(share * chunks), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = evalkit(*flags(checkpoint, long_text, PLANS[1], out, stack))
    assert f"+ {stack[-1]}" in again.out
    run = json.loads((out / "run.json").read_text())
    assert run["totals"] == total
    assert run["resumed_chunks"] >= int(shares[-1] * chunks) - 1
    assert (out / "scores.f64").read_bytes() == (whole / "scores.f64").read_bytes()


def _wait_for_lines(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.002)
    assert process.poll() is None or path.read_bytes().count(b"\n") >= lines


def test_a_damaged_run_folder_is_refused(evalkit, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert evalkit(*flags(checkpoint, text, PLANS[0], out)).code == 0
    (out / "run.json").unlink()
    journal = out / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], lines[1].replace(b'"lo":1', b'"lo":2'), *lines[2:]]))
    said = evalkit(*flags(checkpoint, text, PLANS[0], out))
    assert said.code == 2
    assert "line 2" in said.err
