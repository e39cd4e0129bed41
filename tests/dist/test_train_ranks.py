"""Do two ranks train as one does with the whole batch?  (torchrun, gloo, two CPU processes)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.errors import InputError
from evalkit.train import checkpoint
from evalkit.train.data import Blocks, Prefetch
from evalkit.train.ranks import ALONE, Ranks

SETTINGS = (
    "run.steps=8", "run.tokens_per_step=256", "run.threads=2", "run.precision=fp32", "run.eval_every=4",
    "run.checkpoint_every=4", "model.vocab_size=320", "model.unet=true", "optim.normuon=0.9", "run.device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "t.jsonl"
    path.write_text(
        "\n".join(json.dumps({"text": f"line {i} of a text about {i * 7 % 11} things. " * 8}) for i in range(150))
    )
    return path


def trained(text_file: Path, out: Path, ranks: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    start = (
        ["-m", "train"] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    )
    start += [] if ranks == 1 else ["-m", "train"]
    sets = [x for o in (*SETTINGS, *overrides) for x in ("--set", o)]
    command = [sys.executable, *start, "--recipe", "smoke", "--data", str(text_file), "--out", str(out), *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


@pytest.mark.slow
def test_two_ranks_train_as_one_with_the_whole_batch(text_file: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        done = trained(text_file, tmp_path / str(ranks), ranks)
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / str(n) / "run.json").read_bytes()) for n in (1, 2))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert [r["step"] for r in one["history"]] == [r["step"] for r in two["history"]] == list(range(1, 9))
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4)
    assert one["totals"]["val_bpb_artifact"] == pytest.approx(two["totals"]["val_bpb_artifact"], rel=2e-3)
    first, second = (checkpoint.read(tmp_path / str(n)) for n in (1, 2))
    assert first is not None
    assert second is not None
    for name, tensor in first.part("model.").items():
        torch.testing.assert_close(second.tensors[f"model.{name}"], tensor, atol=5e-3, rtol=5e-2)
    log = (tmp_path / "2" / "train.log").read_text()
    assert "2 ranks" in log
    assert log.count("step 8/8") == 1, "only rank 0 writes"


def test_each_ranks_batches_are_made_ahead_and_add_up_to_the_step() -> None:
    tokens = np.arange(5000, dtype=np.uint16)
    plain = Blocks(tokens, 16, 0)
    ranks = [Prefetch(plain, 2, stride=6) for _ in range(2)]
    for step in range(5):
        parts = []
        for rank, batches in enumerate(ranks):
            first, own = Ranks(rank, 2).share(6)
            if step:
                assert (step * 6 + first, own, 8) in batches._waiting, "foreseen"
            parts.append(batches.batch(step * 6 + first, own, 8))
        assert np.array_equal(np.concatenate(parts), plain.batch(step * 6, 6, 8))
    for batches in ranks:
        batches.close()


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert Ranks(1, 2).share(6) == (3, 3)
    assert ALONE.share(5) == (0, 5)
    with pytest.raises(InputError, match="5 blocks of a batch do not divide over 2 ranks"):
        Ranks(0, 2).share(5)
