"""Does a run reach the same bits whether or not it was interrupted, and does it learn at all?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evalkit.errors import DivergenceError, InputError
from evalkit.train import data
from evalkit.train.loop import Trainer
from evalkit.train.recipe import Recipe, load_recipe

SMALL = [
    "run.steps=12",
    "run.tokens_per_step=128",
    "run.checkpoint_every=4",
    "run.eval_every=6",
    "model.vocab_size=320",
]


def corpus_of(text_file: Path, recipe: Recipe) -> data.Corpus:
    cache = text_file.parent / "cache"
    return data.prepare([text_file], cache, recipe.model.vocab_size, recipe.data.held_out_permille)


def make(text_file: Path, out: Path, *overrides: str) -> Trainer:
    recipe = load_recipe("smoke", [*SMALL, *overrides])
    out.mkdir(exist_ok=True)
    return Trainer(recipe, corpus_of(text_file, recipe), out)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()} | trainer.average


def test_an_interrupted_run_ends_with_the_same_bits(text_file: Path, tmp_path: Path) -> None:
    whole = make(text_file, tmp_path / "whole")
    whole.run()
    for _ in range(6):  # the checkpoint is of step 4; the two steps after it are lost, as by kill -9
        broken = make(text_file, tmp_path / "broken")
        while broken.step < 6:
            broken.train_step()
            if broken.step % 4 == 0:
                broken.save()
        break
    resumed = make(text_file, tmp_path / "broken")
    assert resumed.step == 4
    resumed.run()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert whole.history[-1]["val_bpb"] == resumed.history[-1]["val_bpb"]


def test_a_run_learns(text_file: Path, tmp_path: Path) -> None:
    trainer = make(text_file, tmp_path, "run.steps=30")
    before = trainer.val_bpb()
    trainer.run()
    assert trainer.val_bpb() < 0.7 * before
    chosen = trainer.choose_weights()
    assert trainer.val_bpb() == min(chosen["val_bpb"].values())


def test_another_recipe_does_not_continue_the_run(text_file: Path, tmp_path: Path) -> None:
    make(text_file, tmp_path).save()
    with pytest.raises(InputError, match="another recipe"):
        make(text_file, tmp_path, "run.seed=5")


def test_a_damaged_checkpoint_is_refused(text_file: Path, tmp_path: Path) -> None:
    make(text_file, tmp_path).save()
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        make(text_file, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(text_file: Path, tmp_path: Path) -> None:
    trainer = make(text_file, tmp_path)
    with torch.no_grad():
        trainer.model.embed.weight[5] = float("nan")
    with pytest.raises(DivergenceError, match="step 0"):
        trainer.run()


def test_sequence_length_grows_within_the_same_batch_size(text_file: Path, tmp_path: Path) -> None:
    trainer = make(text_file, tmp_path)
    shapes = set()
    for trainer.step in range(12):
        shapes.add((trainer._seq_len(), trainer._batch().numel() - trainer._batch().shape[0]))
    assert shapes == {(32, 128), (64, 128)}
