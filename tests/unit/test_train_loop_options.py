"""Do the loop's options change what they should and nothing else?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.errors import DivergenceError, InputError
from evalkit.train import checkpoint
from evalkit.train.data import Corpus
from evalkit.train.loop import Trainer
from evalkit.train.recipe import load_recipe

SMALL = ["run.steps=10", "run.tokens_per_step=256", "run.checkpoint_every=4", "run.eval_every=5", "run.eval_tokens=0"]


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    tokens = np.minimum(3 + rng.zipf(1.3, 20000), 300).astype(np.uint16)
    tokens[::97] = 1
    return Corpus(shards=(tokens,), val=tokens[:600], val_bytes=1800, tokenizer_model=b"", fingerprint="x")


def make(out: Path, *overrides: str) -> Trainer:
    out.mkdir(exist_ok=True)
    return Trainer(load_recipe("smoke", [*SMALL, *overrides]), corpus(), out)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


EVERYTHING = (
    "loss.mtp=0.1", "loss.complementary=0.5", "loss.crown_q=0.01", "optim.swa_from=0.3", "optim.swa_every=2",
    "optim.lawa_keep=2", "optim.lawa_every=3", "optim.normuon=0.9", "optim.row_norm=false", "optim.newton=turbo",
    "optim.muon_lr_late=0.02", "optim.cautious=true", "optim.decay_taper=0.5", "optim.momentum_down_steps=4",
    "optim.table_weight_decay=0.1", "run.accumulate=2", "data.prefetch=2", "data.loader=coprime",
    "model.loop_last=1", "model.loop_passes=2", "run.looping_from=0.5", "model.unet=true", "model.bigram_buckets=64",
)  # fmt: skip


@pytest.mark.parametrize(
    "options", [EVERYTHING, ("loss.qat=soft", "loss.qat_below=0.8", "loss.qat_sharpening_steps=6")]
)
def test_an_interrupted_run_with_options_ends_with_the_same_bits(options: tuple[str, ...], tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", *options)
    whole.run()
    broken = make(tmp_path / "broken", *options)
    while broken.step < 10:
        broken.train_step()
        if broken.step == 8:
            broken.save()
    resumed = make(tmp_path / "broken", *options)
    assert resumed.step == 8
    resumed.run()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert whole.choose_weights() == resumed.choose_weights()


def test_accumulation_is_the_whole_batch(tmp_path: Path) -> None:
    one, four = make(tmp_path / "a"), make(tmp_path / "b", "run.accumulate=4")
    for _ in range(3):
        assert float(one.train_step()) == pytest.approx(float(four.train_step()), rel=1e-5)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(four)[name], tensor, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns about its own tracing
def test_compiled_steps_are_the_plain_ones(tmp_path: Path) -> None:
    plain = make(tmp_path / "a", "model.loop_last=1", "model.loop_passes=2", "run.looping_from=0.2")
    other = make(
        tmp_path / "b", "model.loop_last=1", "model.loop_passes=2", "run.looping_from=0.2", "run.compile=aot_eager"
    )
    other._compile()
    assert other.model.embed.weight.grad is None
    for _ in range(4):
        assert float(plain.train_step()) == pytest.approx(float(other.train_step()), rel=1e-4)
    assert plain.model.looping
    assert other.model.looping


def test_layers_are_replayed_from_the_fraction_on(tmp_path: Path) -> None:
    trainer = make(tmp_path, "model.loop_last=1", "model.loop_passes=2", "run.looping_from=0.5")
    seen = []
    for _ in range(10):
        trainer.train_step()
        seen.append(trainer.model.looping)
    assert seen == [False] * 5 + [True] * 5


def test_the_early_evaluation_stops_a_bad_run(tmp_path: Path) -> None:
    good = make(tmp_path / "a", "run.early_eval_step=3", "run.early_abort_bpb=99")
    good.run()
    assert "early evaluation at step 3: val_bpb" in (tmp_path / "a" / "train.log").read_text()
    bad = make(tmp_path / "b", "run.early_eval_step=3", "run.early_abort_bpb=0.01")
    with pytest.raises(DivergenceError, match=r"step 3 is above run.early_abort_bpb 0.01"):
        bad.run()
    assert bad.step == 3


def test_the_wall_clock_ends_a_run(tmp_path: Path) -> None:
    trainer = make(tmp_path, "run.seconds=100", "run.reserve_seconds=20", "run.steps=1000")
    trainer.elapsed = 40.0
    assert trainer.f == 0.5
    trainer.elapsed = 80.0
    assert trainer.f == 1.0
    trainer.run()
    assert trainer.step == 0


def test_nothing_that_is_not_finite_is_saved(tmp_path: Path) -> None:
    trainer = make(tmp_path, "run.check_every=100")
    trainer.train_step()
    with torch.no_grad():
        trainer.model.embed.weight[5] = float("nan")
    trainer.train_step()
    with pytest.raises(DivergenceError, match=r"lower optim\.muon_lr"):
        trainer.save()
    assert checkpoint.read(tmp_path) is None


def test_the_best_average_is_kept(tmp_path: Path) -> None:
    trainer = make(tmp_path, "optim.swa_from=0.3", "optim.swa_every=1", "optim.lawa_keep=2", "optim.lawa_every=1")
    trainer.run()
    chosen = trainer.choose_weights()
    assert set(chosen["val_bpb"]) == {"raw", "ema", "swa", "lawa"}
    assert trainer.val_bpb() == min(chosen["val_bpb"].values()) == chosen["val_bpb"][chosen["kept"]]


def test_a_run_of_an_older_release_goes_on(tmp_path: Path) -> None:
    """Its identity lacks the fields that came later; they count as their defaults."""
    trainer = make(tmp_path)
    trainer.save()
    saved = checkpoint.read(tmp_path)
    assert saved is not None
    recipe, *rest = json.loads(saved.facts["identity"])
    del recipe["loss"], recipe["model"]["unet"], recipe["run"]["compile"]
    checkpoint.write(
        tmp_path, checkpoint.Checkpoint(saved.tensors, saved.facts | {"identity": json.dumps([recipe, *rest])})
    )
    assert make(tmp_path).step == 0
    with pytest.raises(InputError, match="another recipe"):
        make(tmp_path, "model.unet=true")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.accumulate=3", "must divide the 4 sequences"),
        ("optim.newton=polar_expres", "did you mean 'polar_express'"),
        ("loss.qat=hard", "unknown loss.qat"),
        ("data.loader=block", "did you mean 'blocks'"),
        ("run.looping_from=1.0", "never in training"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(override: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_recipe("smoke", [*SMALL, "model.loop_last=1", "model.loop_passes=2", override])
