"""Does training keep to its device, from the first batch to the artifact?  On a card that refuses to mix, against the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fake_card import NAME, card

from evalkit.models.ek.door import ArtifactDoor
from evalkit.plan import parse_plan
from evalkit.scoring.score import ScoreOptions, score
from evalkit.stream import open_stream, open_tokenizer
from evalkit.train import data, export
from evalkit.train.loop import Trainer
from evalkit.train.recipe import load_recipe

SMALL = [
    "run.steps=8",
    "run.tokens_per_step=128",
    "run.checkpoint_every=4",
    "run.eval_every=4",
    "run.precision=fp32",
    "run.threads=1",
    "model.vocab_size=320",
    "optim.ema=0.9",
]
OPTIONS = {
    "as it is": [],
    "every switch of the model": [
        "model.layers=4",
        "model.xsa_last=3",
        "model.resid_lambdas=true",
        "model.tied=false",
        "model.unet=true",
        'model.parallel="lanes"',
        "model.parallel_from=3",
        "model.loop_first=1",
        "model.loop_last=2",
        "model.loop_passes=2",
        "model.value_embeds=2",
        "model.value_embed_dim=12",
        "model.bigram_buckets=50",
        "model.skipgram_buckets=40",
        "model.engram_buckets=30",
        "model.engram_dim=6",
    ],
    "losses and averages": [
        "loss.complementary=0.5",
        "loss.crown_q=0.01",
        'loss.qat="soft"',
        "loss.qat_below=0.9",
        "optim.swa_from=0.3",
        "optim.swa_every=1",
        "optim.lawa_keep=2",
        "optim.lawa_every=1",
    ],
    "token after next": ["loss.mtp=0.1"],
    "optimisers": [
        "optim.row_norm=false",
        "optim.normuon=0.95",
        "optim.cautious=true",
        "optim.muon_lr_late=0.01",
        'optim.newton="turbo"',
        "run.accumulate=2",
    ],
    "bfloat16": ["run.precision=bf16"],
}


def trainer(text_file: Path, out: Path, device: str, options: list[str]) -> Trainer:
    recipe = load_recipe("smoke", [*SMALL, *options, f'run.device="{device}"'])
    out.mkdir(exist_ok=True)
    vocabulary = recipe.model.vocab_size
    corpus = data.prepare([text_file], text_file.parent / "cache", vocabulary, recipe.data.held_out_permille)
    return Trainer(recipe, corpus, out)


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().cpu().clone() for n, p in made.model.named_parameters()}


@pytest.mark.parametrize("name", [n if n == "as it is" else pytest.param(n, marks=pytest.mark.slow) for n in OPTIONS])
def test_a_run_trains_resumes_and_exports_on_the_card(name: str, text_file: Path, tmp_path: Path) -> None:
    host = trainer(text_file, tmp_path / "host", "cpu", OPTIONS[name])
    host.train_step()
    with card() as device:
        first = trainer(text_file, tmp_path / "card", NAME, OPTIONS[name])
        first.train_step()
        assert {p.device for p in first.model.parameters()} == {device}
        close = 2e-2 if name == "bfloat16" else 2e-3  # Muon orthogonalises: rounding of a small gradient shows
        for key, tensor in weights(first).items():
            torch.testing.assert_close(tensor, weights(host)[key], rtol=0, atol=close, msg=key)
        while first.step < 5:
            first.train_step()
            if first.step == 4:
                first.save()
        again = trainer(text_file, tmp_path / "card", NAME, OPTIONS[name])
        assert again.step == 4
        again.train_step()
        for key, tensor in weights(first).items():
            assert torch.equal(tensor, weights(again)[key]), key
        again.run()
        path = export.finish(again, "smoke")
        facts = json.loads((tmp_path / "card" / "run.json").read_text())["totals"]
    assert 0 < facts["val_bpb_artifact"] < 8
    assert path.stat().st_size == facts["artifact_bytes"]


@pytest.mark.slow
def test_an_artifact_scores_on_the_card_as_on_the_host(text_file: Path, tmp_path: Path) -> None:
    made = trainer(text_file, tmp_path / "host", "cpu", [])
    made.run()
    path = export.finish(made, "smoke")
    text = tmp_path / "held.txt"
    text.write_text("the cat sat on a mat while seven dogs ran over the hill and back again. " * 8)

    def bpb(device: str) -> float:
        model = ArtifactDoor.load(path, device=device)
        stream = open_stream([text], open_tokenizer(model.tokenizer_model))
        plan = parse_plan("banded:window=32,block=32,segment=64")
        return score(model, stream, [], plan, options=ScoreOptions(chunk_tokens=64)).bpb

    host = bpb("cpu")
    with card():
        assert bpb(NAME) == pytest.approx(host, abs=1e-5)
