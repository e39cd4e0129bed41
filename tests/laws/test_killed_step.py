"""Does a run whose process dies by SIGKILL inside a training step, half of the weights moved, end with the same bits?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from evalkit.cli.main import main
from evalkit.scoring.journal import read_journal
from evalkit.scoring.scores import read_scores
from evalkit.scoring.state import load_snapshot
from tests.kit import COMMON, PLANS, golf

SGD, ADAMW = "evalkit.adapters.learners.optim:Sgd.step", "evalkit.adapters.learners.optim:AdamW.step"
MUON, SLOT = "evalkit.adapters.learners.whole:MuonStep.step", "evalkit.adapters.learners.slot:SlotState.step"
LANES = "evalkit.adapters.learners.lora_lanes:LaneModel._step"
N = 300


class Case(NamedTuple):
    """``at``: the call that dies.  ``booked``: chunks in the journal then, so the step is the last one's (lanes: the next's)."""

    adapter: str
    step: str
    at: int
    booked: int
    tensor: int | str = 0
    plan: str = PLANS["sliding"]


CASES = {
    "full_ttt": Case("full_ttt:chunk=64,seq_len=32,epochs=2,lr=0.05", SGD, 11, 3),
    "full_ttt adamw": Case(f"full_ttt:{COMMON},epochs=3,optimiser=adamw,lr=0.003", ADAMW, 8, 3),
    "muon_ttt": Case("muon_ttt:chunk=64,seq_len=32,lr=0.01,momentum=0.5", MUON, 5, 3),
    "lora_ttt": Case("lora_ttt:chunk=64,seq_len=32,rank=4,targets=[q,v,mlp,head]", ADAMW, 6, 3),
    "lora_ttt per document": Case(f"lora_ttt:{COMMON},rank=4,reset=document,epochs=3", ADAMW, 8, 3),
    "lora_ttt lanes": Case(
        "lora_lanes:lanes=3,chunk=16,rank=3,lr=0.05,targets=[q,v,mlp]", LANES, 9, 2, "values", PLANS["document"]
    ),
    "phased_ttt, its document": Case(f"phased_ttt:{COMMON},rank=4,every=128,base_lr=0.05,epochs=2", ADAMW, 6, 3),
    "phased_ttt, its base": Case(f"phased_ttt:{COMMON},rank=4,every=128,base_lr=0.05,base_epochs=2", SGD, 2, 2),
    "slot": Case("slot:chunk=64,stride=16", SLOT, 21, 3, "bias"),
    "slot steps": Case("slot:chunk=64,form=steps,scope=[document],delta=0.02,bias=0.02,warm=true", ADAMW, 26, 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a few thousand weights, and documents of 40 to 120 bytes."""
    folder = tmp_path_factory.mktemp("killed")
    torch.save(golf().state_dict(), folder / "m.pt")
    texts = ["".join(f"Item {i * j % 7} of {i}; the cat sat. " for j in range(2 + i % 4)) for i in range(12)]
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return folder


def argv(world: Path, name: str, out: Path) -> list[str]:
    case = CASES[name]
    flags = ["--checkpoint", str(world / "m.pt"), "--tokenizer", "byte", "--text", str(world / "t.jsonl")]
    flags += ["--plan", case.plan, "--chunk-tokens", "64", "--limit-tokens", str(N), "--threads", "1"]
    return ["eval", *flags, "--adapter", case.adapter, "--adapter", "ppm", "--out", str(out)]


ALWAYS = ("full_ttt", "lora_ttt", "lora_ttt lanes", "slot")
"""One of each optimiser and clock; the others are run by make test-all."""


@pytest.fixture(scope="module")
def killed(world: Path, request: pytest.FixtureRequest) -> dict[str, int]:
    """Every case that was asked for has run until it died: the signal that ended it."""
    here = {item.callspec.params["name"] for item in request.session.items if item.path == request.path}
    asked = [name for name in CASES if name in here]
    cases = [
        {
            "argv": argv(world, name, world / name / "cut"),
            "step": CASES[name].step,
            "tensor": CASES[name].tensor,
            "at": CASES[name].at,
            "note": str(world / f"{name}.json"),
        }
        for name in asked
    ]
    script = Path(__file__).parent / "killed_step.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps(cases),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    return dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", [n if n in ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_kill_9_inside_a_training_step(name: str, world: Path, killed: dict[str, int]) -> None:
    case, cut, whole = CASES[name], world / name / "cut", world / name / "whole"
    note = json.loads((world / f"{name}.json").read_text())
    assert killed[name] == signal.SIGKILL
    assert 0 < note["moved"] <= (note["of"] + 1) // 2, "the step was not half done"
    booked = read_journal(cut / "journal.jsonl")[1]
    assert len(booked) == case.booked
    snapshot = load_snapshot(cut / "state", 1 << 30)
    assert snapshot is not None
    in_flight = case.booked if case.step == LANES else case.booked - 1
    assert snapshot.chunk == in_flight - 1, "the newest snapshot is older than the step that died"
    assert main(argv(world, name, cut)) == 0
    assert json.loads((cut / "run.json").read_text())["resumed_chunks"] == case.booked
    assert main(argv(world, name, whole)) == 0
    assert (cut / "scores.f64").read_bytes() == (whole / "scores.f64").read_bytes()
    assert read_journal(cut / "journal.jsonl")[1] == read_journal(whole / "journal.jsonl")[1]
    scores = np.array(read_scores(whole / "scores.f64", 3))
    assert len(scores) == N
    assert np.abs(scores[64 * case.booked :, 1] - scores[64 * case.booked :, 0]).max() > 1e-3, "nothing was learned"
