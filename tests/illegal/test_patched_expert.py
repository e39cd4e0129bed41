"""Somebody changes one line of an expert.  Does ``evalkit eval`` stop, and does ``evalkit audit`` say what it was?"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evalkit
from evalkit.adapters.experts.ppm import Ppm
from evalkit.cli.main import main

PLAN = ["--plan", "sliding:seq_len=32,stride=16", "--threads", "1", "--adapter", "ppm"]
SCORE, ROW = Ppm.score, Ppm.row


def peeks(expert: Any, chunk: Any, p: Any) -> Any:
    """The target's own column is raised."""
    q = SCORE(expert, chunk, p)
    return q ** np.where(np.arange(q.shape[1]) == 0, 0.99, 1.0)


def learns_first(expert: Any, chunk: Any, p: Any) -> Any:
    """The chunk is counted before it is scored."""
    SCORE(expert, chunk, p)
    return SCORE(expert, chunk, p)


def looks_ahead(expert: Any, chunk: Any, p: Any) -> Any:
    """The next token of the chunk moves the score."""
    odd = np.append(chunk.tokens[1:], 0)[:, None] % 2
    return SCORE(expert, chunk, p) * np.where(odd, 0.999, 1.0)


def too_much(expert: Any, chunk: Any, p: Any) -> Any:
    """Row and score are two thousandths too large."""
    return 1.002 * SCORE(expert, chunk, p)


def too_much_row(expert: Any, *parts: Any) -> Any:
    return 1.002 * ROW(expert, *parts)


def now_and_then(expert: Any, chunk: Any, p: Any) -> Any:
    """Every thousandth target is raised."""
    expert.counted = getattr(expert, "counted", 0) + len(p)
    thousandth = np.arange(expert.counted - len(p), expert.counted) % 1000 == 7
    return SCORE(expert, chunk, p) ** np.where(thousandth[:, None], 0.8, 1.0)


def flags(checkpoint: Path, text: Path, out: Path) -> list[str]:
    base = ["--checkpoint", str(checkpoint), "--tokenizer", "byte", "--text", str(text), "--limit-tokens", "400"]
    return [*base, *PLAN, "--out", str(out)]


@pytest.mark.parametrize(
    ("score", "row", "law"),
    [
        (peeks, ROW, "causal"),
        (learns_first, ROW, "causal"),
        (looks_ahead, ROW, "causal"),
        (too_much, too_much_row, "normalised"),
    ],
)
def test_the_run_stops_with_law_and_target_and_books_nothing(
    score: Callable[..., Any],
    row: Callable[..., Any],
    law: str,
    checkpoint: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Ppm, "score", score)
    monkeypatch.setattr(Ppm, "row", row)
    assert main(["eval", *flags(checkpoint, text, tmp_path / "run")]) == 1
    said = capsys.readouterr()
    last = said.err.strip().splitlines()[-1]
    assert last.startswith(f"evalkit: {law}: stage 'ppm'")
    assert "target " in last
    assert last.endswith("evalkit audit ppm")
    assert not said.out
    assert (tmp_path / "run" / "journal.jsonl").read_text().count("\n") == 1, "the header and no chunk"
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_gate_at_every_thousandth_target_is_met_by_the_audit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Ppm, "score", now_and_then)
    assert main(["audit", "ppm", "--probes", "100", "--json", str(tmp_path / "v.json")]) == 1
    found = json.loads((tmp_path / "v.json").read_text())
    first = next(e for e in found["evidence"] if e["law"] == "causal")
    assert first["position"] % 1000 == 8
    capsys.readouterr()
    assert main(shlex.split(first["reproduce"])[1:]) == 1
    assert "violated" in capsys.readouterr().out


@pytest.mark.slow
def test_a_patched_copy_of_the_checkout(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    """As a person would: copy, change one line, score, audit, paste the command of the verdict."""
    shutil.copytree(Path(evalkit.__file__).parent, tmp_path / "evalkit", ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "evalkit" / "adapters" / "experts" / "native.py"
    line = "return self._core.score(tokens=as_int32(chunk.tokens), cands=cands, p=as_float64(p), **more)"
    assert source.read_text().count(line) == 1
    source.write_text(source.read_text().replace(line, f"{line} * np.where(cands == chunk.tokens[:, None], 1.01, 1.0)"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evalkit", *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    done = run("eval", *flags(checkpoint, text, tmp_path / "run"))
    assert done.returncode == 1
    assert "causal: stage 'ppm'" in done.stderr
    done = run("audit", "ppm", "--probes", "100")
    assert done.returncode == 1
    commands = [row.strip() for row in done.stdout.splitlines() if row.strip().startswith("evalkit audit")]
    again = run(*shlex.split(commands[0])[1:])
    assert again.returncode == 1
    assert again.stdout.startswith("violated:")
