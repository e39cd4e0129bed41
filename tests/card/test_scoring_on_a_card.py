"""Does every model, learner and expert keep to its device?  Runs on a card that refuses to mix, against runs on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_card import card

from evalkit.plan import parse_plan
from evalkit.scoring.score import ScoreOptions, score
from evalkit.scoring.scores import read_scores
from tests.kit import LEARNERS, PLANS, adapters_of, golf, tiny_stream

LANES = "lora_lanes:targets=[q,v,mlp],rank=3,chunk=16,lr=0.05,lanes=4"
EXPERTS = "ppm + match + best_agree + tilt + backoff + hedge + log_bias + temperature"
CLOSE = 2e-5
"""Nats: the host's attention kernel is fused, the card's is not."""


def run(model: Any, folder: Path, name: str, spec: str, plan: str, targets: int) -> np.ndarray:
    stream = tiny_stream(folder)
    out = folder / name
    options = ScoreOptions(chunk_tokens=64, budget_seconds=None)
    result = score(
        model, stream.head(targets), adapters_of(spec) if spec else [], parse_plan(plan), out=out, options=options
    )
    return np.array(read_scores(out / "scores.f64", len(result.stage_names)))


CASES = {name: ("", plan) for name, plan in PLANS.items()}
CASES |= {name: (spec, PLANS["sliding"]) for name, spec in LEARNERS.items()}
CASES |= {"lanes": (LANES, PLANS["document"]), "lanes, batched": (f"{LANES},batched=true", PLANS["document"])}
CASES |= {"experts": (EXPERTS, PLANS["disjoint"])}


FEW = ("lora_ttt and slot", "experts")
TARGETS = 260
"""Four chunks and a bit: what learns has learned twice before the last one."""


@pytest.mark.parametrize("case", [c if c in FEW else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_the_card_scores_as_the_host_does(case: str, tmp_path: Path) -> None:
    spec, plan = CASES[case]
    host = run(golf(), tmp_path, "host", spec, plan, TARGETS)
    with card() as device:
        model = golf().to(device)
        there = run(model, tmp_path, "card", spec, plan, TARGETS)
        assert {p.device for p in model.parameters()} == {device}
    np.testing.assert_allclose(there, host, rtol=0, atol=CLOSE)


def test_the_card_refuses_what_a_gpu_refuses() -> None:
    with card() as device:
        x = torch.ones(3, 4, device=device)
        with pytest.raises(RuntimeError, match="mixes tensors of fakecard"):
            x + torch.ones(4)
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        assert float((x * 2.0).sum()) == 24.0
        assert x[torch.tensor([0, 2])].device == device
        assert x.cpu().numpy().sum() == 12.0
