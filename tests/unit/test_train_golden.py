"""Does ``tiny-cpu`` still compute what it computed when the bundled checkpoint was trained?

The losses were recorded before the switches, optimiser options and loss helpers came; on the machine of the record
the weights after five steps were equal bit for bit.  Other processors round a little differently, hence the tolerance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalkit.train.data import Corpus
from evalkit.train.loop import Trainer
from evalkit.train.recipe import load_recipe

GOLDEN = {
    "fp32": ([7.5200200, 7.3529482, 6.8775296, 6.1920161, 5.5125690], 2.7517456, 1e-4),
    "bf16": ([7.5201473, 7.3526202, 6.8769259, 6.1907401, 5.5135641], 2.7515911, 5e-3),
}


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    tokens = np.minimum(3 + rng.zipf(1.3, 20000), 2047).astype(np.uint16)
    tokens[::97] = 1
    return Corpus(shards=(tokens,), val=tokens[:600], val_bytes=1800, tokenizer_model=b"", fingerprint="golden")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_first_steps_are_those_of_the_bundled_checkpoint(precision: str, tmp_path: Path) -> None:
    overrides = ["run.tokens_per_step=1024", "run.threads=1", f"run.precision={precision}", "run.device=cpu"]
    trainer = Trainer(load_recipe("tiny-cpu", overrides), corpus(), tmp_path)
    losses, val_bpb, tolerance = GOLDEN[precision]
    assert [float(trainer.train_step()) for _ in losses] == pytest.approx(losses, rel=tolerance)
    assert trainer.val_bpb() == pytest.approx(val_bpb, rel=tolerance)
