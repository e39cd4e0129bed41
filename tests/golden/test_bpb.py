"""Scores that must not move: the bundled checkpoint, and a stranger's with its author's published figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.cli.main import main

BUNDLED_NATS = {"banded:window=512": 14238.211510706107, "sliding:seq_len=256,stride=128": 14372.206924418475}
"""First 4,096 targets of the bundled sample, adapters none, float32 on a CPU."""


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["eval", *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("plan", list(BUNDLED_NATS))
def test_the_bundled_checkpoint_scores_as_when_it_was_made(capsys: pytest.CaptureFixture[str], plan: str) -> None:
    run = run_json(capsys, "--adapter", "none", "--limit-tokens", "4096", "--plan", plan)
    assert run["totals"]["bytes"] == 11989
    # float32 kernels differ between processors in the last digits of a logit; 1e-6 of the sum is far above that
    assert run["totals"]["base_nats"] == pytest.approx(BUNDLED_NATS[plan], rel=1e-6)


@pytest.mark.slow
def test_the_published_score_of_a_strangers_checkpoint(capsys: pytest.CaptureFixture[str], shared_data: Path) -> None:
    """Author: val_bpb 2.63520512 in bfloat16; float32 on a CPU: 2.63499653; 159,910 target bytes."""
    checkpoint = shared_data / "checkpoints" / "tiny3x128_power3_seed1337.int8.ptz"
    text = shared_data / "val_fineweb_head_sp1024.bin.xz"
    flags = ("--limit-tokens", "65536", "--plan", "disjoint:seq_len=256", "--adapter", "none")
    run = run_json(capsys, "--checkpoint", str(checkpoint), "--text", str(text), *flags)
    assert run["totals"]["bytes"] == 159_910
    assert run["totals"]["targets"] == 65_536
    assert run["totals"]["bpb"] == pytest.approx(2.6349965, abs=2e-6)
    assert abs(run["totals"]["bpb"] - 2.63520512) < 0.0005
