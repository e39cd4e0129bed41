"""Does every learner score first, from the prefix alone, and leave the user's model as it was?"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from evalkit.errors import InputError
from evalkit.plan import parse_plan
from evalkit.scoring.score import score
from tests.kit import COMMON, LEARNERS, PLANS, adapters_of, fused, golf, strict, tiny_stream

CASES = [(name, "sliding") for name in LEARNERS] + [("slot", plan) for plan in PLANS if plan != "sliding"]
LATER = [("phased_ttt", plan) for plan in PLANS if plan != "sliding"]


@pytest.mark.parametrize(("name", "plan"), [*CASES, *(pytest.param(*c, marks=pytest.mark.slow) for c in LATER)])
def test_strict_is_fused_and_the_user_s_model_is_left_alone(name: str, plan: str, tmp_path: Path) -> None:
    model, stream = golf(), tiny_stream(tmp_path, 260)
    weights = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    booked = fused(model, stream, adapters_of(LEARNERS[name]), PLANS[plan], tmp_path / "run")
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not hasattr(model, "head") or "head" not in vars(model)
    alone = strict(model, stream, adapters_of(LEARNERS[name]), PLANS[plan])
    np.testing.assert_allclose(booked[:, -1], alone, rtol=0, atol=2e-4)
    base = fused(model, stream, [], PLANS[plan], tmp_path / "base")
    assert np.array_equal(booked[:, 0], base[:, 0])
    assert np.abs(booked[:64, -1] - base[:64, 0]).max() < 1e-5  # nothing is learned before the first chunk is booked
    assert np.abs(booked[64:, -1] - base[64:, 0]).max() > 1e-3


@cache
def unchanged(name: str) -> np.ndarray:
    """Nats of the stream as it is."""
    with TemporaryDirectory() as folder:
        stream = tiny_stream(Path(folder), 300)
        return fused(golf(), stream, adapters_of(LEARNERS[name]), PLANS["sliding"], Path(folder) / "run")


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("at", [70, pytest.param(201, marks=pytest.mark.slow), 255])
def test_a_changed_suffix_changes_no_earlier_score(name: str, at: int, tmp_path: Path) -> None:
    """Rows of targets up to ``at`` must be the same bits; the score of target ``at`` itself reads another entry."""
    model, stream = golf(), tiny_stream(tmp_path, 300)
    rng = np.random.default_rng(at)
    tokens = np.array(stream.tokens)
    tokens[at:] = rng.integers(4, 260, len(tokens) - at)
    tokens[at + 5 :: 17] = 1
    starts = np.flatnonzero(tokens[:-1] == 1).astype(np.int64)
    other = replace(
        stream,
        tokens=tokens,
        doc_start=starts,
        doc_bytes=np.ones(len(starts), np.int64),
        doc_names=("x",) * len(starts),
    )
    plan = PLANS["sliding"]
    one = unchanged(name)
    two = fused(model, other, adapters_of(LEARNERS[name]), plan, tmp_path / "two")
    assert np.array_equal(one[: at - 1], two[: at - 1])
    assert not np.array_equal(one[at:], two[at:])


def test_experts_and_learners_share_one_stream_order(tmp_path: Path) -> None:
    """Stages: the base, each learner, each expert; the base row is the model's own."""
    from evalkit.plan import parse_plan
    from evalkit.scoring.score import ScoreOptions, score

    model, stream = golf(), tiny_stream(tmp_path)
    stack = adapters_of("full_ttt:chunk=64,seq_len=32,lr=0.05 + ppm:orders=[2,3] + slot:chunk=64")
    result = score(model, stream, stack, parse_plan(PLANS["sliding"]), options=ScoreOptions())
    assert [s["adapter"] for s in result.run["stages"]] == ["full_ttt", "slot", "ppm"]
    assert result.run["stages"][-1]["bpb"] == result.bpb
    base = score(model, stream, [], parse_plan(PLANS["sliding"]), options=ScoreOptions(chunk_tokens=64))
    assert result.base_bpb == base.bpb
    steps = [s["delta_bpb"] for s in result.run["stages"]]
    assert result.base_bpb + sum(steps) == pytest.approx(result.bpb, abs=1e-12)
    assert result.run["settings"]["chunk_tokens"] == 64
    bare = score(
        model, stream, adapters_of("slot:chunk=64"), parse_plan(PLANS["sliding"]), options=ScoreOptions(base_pass=False)
    )
    assert bare.base_bpb == bare.bpb
    assert "base_pass is off" in bare.run["notes"][0]


def test_learners_stack_and_each_stage_is_its_own_model(tmp_path: Path) -> None:
    """With two learners the middle stage is the run with the first alone."""
    model, stream = golf(), tiny_stream(tmp_path)
    first, second = "full_ttt:chunk=64,seq_len=32,lr=0.05", "lora_ttt:chunk=64,seq_len=32,rank=2"
    both = fused(model, stream, adapters_of(f"{first} + {second}"), PLANS["sliding"], tmp_path / "both")
    alone = fused(model, stream, adapters_of(first), PLANS["sliding"], tmp_path / "alone")
    assert both.shape[1] == 3
    assert np.array_equal(both[:, :2], alone)


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (
            "slot:chunk=64 + full_ttt:chunk=64",
            "adapter full_ttt: it trains a copy of all weights, .*put adapter full_ttt first",
        ),
        ("full_ttt:chunk=64 + muon_ttt:chunk=64", "adapter muon_ttt: it trains a copy of all weights"),
        ("slot:chunk=64 + lora_ttt:chunk=64", "adapter lora_ttt: it cannot stand behind slot"),
    ],
)
def test_a_learner_that_would_leave_another_behind_is_one_sentence(stack: str, words: str, tmp_path: Path) -> None:
    """A copy stays as it was when it was taken: the score would be that of the second learner alone."""
    with pytest.raises(InputError, match=words):
        score(golf(), tiny_stream(tmp_path), adapters_of(stack), parse_plan(PLANS["sliding"]))


def test_low_rank_terms_follow_the_weights_that_the_learner_before_them_trains(tmp_path: Path) -> None:
    first = f"full_ttt:{COMMON},lr=0.05"
    both = fused(
        golf(),
        tiny_stream(tmp_path),
        adapters_of(f"{first} + lora_ttt:{COMMON},lr=1e-9"),
        PLANS["sliding"],
        tmp_path / "b",
    )
    np.testing.assert_allclose(both[:, 2], both[:, 1], atol=1e-4)
    assert np.abs(both[:, 1] - both[:, 0]).max() > 0.05
