"""What does ten-minute training give in the minutes that are left?  The recipe of one GPU, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benches.card.sheet import Absent, Card, Sheet
from evalkit.cli.recipe import ASSETS
from evalkit.train import checkpoint

EXPORT_SECONDS = 75.0
"""Kept for compiling before the clock starts, and for weights, quantisation and file after it stops."""
LEAST_SECONDS = 30.0
RECIPE = "h200-10min"
LINE = re.compile(r"step (\d+)/\d+  loss ([\d.]+).*?(\d+) tok/s(?:  MFU ([\d.]+) %)?")


def artifact_of(card: Card) -> Path | None:
    """What training left here."""
    path = card.out / "train" / "model.ek"
    return path if path.is_file() else None


def run(card: Card, sheet: Sheet) -> None:
    sheet.note = f"recipe {RECIPE} for the seconds that are left; another board than the recipe's is taken as it is"
    sheet.row("train", lambda: train(card))


def command(card: Card, seconds: float) -> list[str]:
    """The recipe's own settings, but for the clock, the board, and checkpoints that a cut run goes on from."""
    data = list(card.data) or [str(ASSETS / "sample.jsonl.xz")]
    sets = [
        f"run.seconds={seconds:.1f}", f"run.device={json.dumps(card.device.partition(':')[0])}", "run.checkpoint_every=500",
        "run.eval_every=500", "run.early_abort_bpb=0.0", 'expect.gpu_kind=""',
    ]  # fmt: skip
    name = RECIPE
    if card.smoke:
        name, sets = "smoke", ["run.steps=4", "run.eval_every=2", "model.vocab_size=512", 'run.device="cpu"']
        sets += ["data.held_out_permille=100"]
    elif not card.data:
        sets += ["model.vocab_size=1024"]  # a quarter of a megabyte of text has no 8,192 pieces
    words = [w for s in (*sets, *card.sets) for w in ("--set", s)]
    return [
        sys.executable,
        "-m",
        "evalkit.train",
        "--recipe",
        name,
        "--data",
        *data,
        "--out",
        str(card.out / "train"),
        *words,
    ]


def train(card: Card) -> dict[str, Any]:
    left = card.until - time.time()
    if not card.smoke and left < EXPORT_SECONDS + LEAST_SECONDS:
        raise Absent(f"{max(0.0, left):.0f} s are left, training needs {EXPORT_SECONDS + LEAST_SECONDS:.0f}")
    out, began = card.out / "train", time.time()
    asked = command(card, clock(card, max(left - EXPORT_SECONDS, 1.0)))
    log = card.out / "train.stderr"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(asked, stdout=file, stderr=file, check=False, timeout=max(60.0, left + 30.0))
    said = log.read_text(encoding="utf-8", errors="replace")
    words = [Path(w).name if w.startswith("/") else w for w in asked[3:]]
    found: dict[str, Any] = {"command": words, "whole_seconds": time.time() - began, "pace": pace(said)}
    found["checks"] = [line for line in said.splitlines() if line.startswith("check ")]
    if not (out / "run.json").exists() or artifact_of(card) is None:
        return {
            **found,
            "why": " / ".join(said.strip().splitlines()[-4:]),
            "status": "failed",
            "exit_code": done.returncode,
        }
    facts = json.loads((out / "run.json").read_text(encoding="utf-8"))
    kept = {k: facts[k] for k in ("totals", "seconds", "history", "environment")}
    return {**found, **kept, "exit_code": done.returncode}


def clock(card: Card, seconds: float) -> float:
    """Seconds of training: those of the run that a checkpoint is of, which goes on with the same recipe alone."""
    kept = card.out / "train" / "clock.json"
    if kept.exists() and (kept.parent / checkpoint.NAME).exists():
        return float(json.loads(kept.read_text(encoding="utf-8")))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(round(seconds, 1)), encoding="utf-8")
    return seconds


def pace(said: str) -> list[dict[str, float]]:
    """Steps, loss, tokens per second and share of the peak, from the log's lines."""
    return [
        {"step": int(m[1]), "loss": float(m[2]), "tokens_a_second": float(m[3]), "mfu": float(m[4] or 0.0) / 100.0}
        for m in map(LINE.search, said.splitlines())
        if m
    ]
