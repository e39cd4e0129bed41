"""Documents that learn by themselves score what each would alone, whatever the number of lanes and the chunk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evalkit.adapters.base import TokenLedger
from evalkit.adapters.info import stream_info
from evalkit.errors import DivergenceError, InputError
from evalkit.plan import parse_plan
from evalkit.scoring import loop as loop_module
from evalkit.scoring.score import ScoreOptions, score
from evalkit.scoring.scores import read_scores
from tests.kit import adapters_of, golf, tiny_stream

PLAN = "document:seq_len=32,stride=16"
SPEC = "lora_lanes:targets=[q,v,mlp],rank=3,chunk=16,lr=0.05"


def run(lanes: int, out: Path, tokens: int = 128, stream: Any = None, more: str = "", **options: Any) -> np.ndarray:
    stream = tiny_stream(out.parent) if stream is None else stream
    adapters = adapters_of(f"{SPEC},lanes={lanes}{more}")
    opts = ScoreOptions(chunk_tokens=tokens, **options)
    result = score(golf(), stream, adapters, parse_plan(PLAN), out=out, options=opts)
    return np.array(read_scores(out / "scores.f64", len(result.stage_names)))


def plain(stream: Any) -> np.ndarray:
    """Each document by itself: pieces of 16 targets in windows of 32, one torch AdamW step after each piece."""
    tokens = torch.from_numpy(np.asarray(stream.tokens).astype(np.int64))
    out = np.full(len(tokens), np.nan)
    ends = [*(int(s) for s in stream.doc_start[1:]), len(tokens) - 1]
    for start, last in zip(stream.doc_start, ends, strict=True):
        model = copy.deepcopy(golf())
        parts: dict[str, list[torch.Tensor]] = {"A": [], "B": []}
        generator = torch.Generator().manual_seed(0)
        for block in model.blocks:
            for layer in (block.attn.c_q, block.attn.c_v, block.mlp.fc, block.mlp.proj):  # type: ignore[union-attr]
                a = torch.rand(3, layer.in_features, generator=generator) * 2 - 1
                a = (a * layer.in_features**-0.5).requires_grad_(True)
                b = torch.zeros(layer.out_features, 3, requires_grad=True)
                layer.register_forward_hook(lambda _m, x, y, a=a, b=b: y + (x[0] @ a.T) @ b.T)
                parts["A"].append(a)
                parts["B"].append(b)
        params = parts["A"] + parts["B"]
        opt = torch.optim.AdamW(params, lr=0.05, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
        for window in parse_plan(PLAN).windows(len(tokens), stream.doc_start):
            if not int(start) < window.lo <= last:
                continue
            for lo in range(window.lo, window.hi, 16):
                hi = min(lo + 16, window.hi)
                rows = model.logits(tokens[None, window.start : hi - 1])[0, lo - window.start - 1 :]
                nats = F.cross_entropy(rows, tokens[lo:hi], reduction="none")
                out[lo:hi] = nats.detach().numpy()
                opt.zero_grad()
                nats.mean().backward()
                torch.nn.utils.clip_grad_norm_(params, 1.0)
                opt.step()
    return out[1:]


def test_lanes_are_a_plain_loop_over_documents(tmp_path: Path) -> None:
    stream = tiny_stream(tmp_path)
    betas = ",betas=[0.9,0.95],clip=1"
    alone = plain(stream)
    first = run(1, tmp_path / "first", 128, stream, betas)
    np.testing.assert_allclose(first[:, -1], alone, rtol=0, atol=3e-4)
    for lanes, tokens in ((3, 128), (4, 64), (9, 8192)):
        booked = run(lanes, tmp_path / f"{lanes}-{tokens}", tokens, stream, betas)
        assert np.array_equal(booked[:, -1], first[:, -1]), "a row depends on the documents beside it"
        shared = run(lanes, tmp_path / f"{lanes}-{tokens}-batched", tokens, stream, betas + ",batched=true")
        np.testing.assert_allclose(shared[:, -1], alone, rtol=0, atol=3e-4)
    assert np.abs(booked[:, -1] - booked[:, 0]).max() > 0.05


@pytest.mark.parametrize("at", [70, 201])
def test_a_changed_suffix_changes_no_earlier_score(at: int, tmp_path: Path) -> None:
    """The same bits; documents that share a batch with later ones, whose shape follows theirs, up to rounding."""
    from dataclasses import replace

    stream = tiny_stream(tmp_path)
    tokens = np.array(stream.tokens)
    tokens[at:] = np.random.default_rng(at).integers(4, 260, len(tokens) - at)
    tokens[at + 5 :: 17] = 1
    starts = np.flatnonzero(tokens[:-1] == 1).astype(np.int64)
    other = replace(
        stream,
        tokens=tokens,
        doc_start=starts,
        doc_bytes=np.ones(len(starts), np.int64),
        doc_names=("x",) * len(starts),
    )
    for more, most in (("", 0.0), (",batched=true", 2e-5)):
        one = run(4, tmp_path / f"one{more}", stream=stream, more=more)
        two = run(4, tmp_path / f"two{more}", stream=other, more=more)
        assert np.abs(one[: at - 1] - two[: at - 1])[:, -1].max() <= most
        assert not np.allclose(one[at:], two[at:], atol=0.1)


def test_cut_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that a chunk cuts keeps its state over a resume."""
    monkeypatch.setattr(loop_module, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(loop_module, "SNAPSHOT_SHARE", 0.0)
    whole = run(3, tmp_path / "whole", 64)
    real = loop_module.Loop._observe
    for cut in (1, 3):

        def dies(self: Any, chunk: Any, *rest: Any, cut: int = cut) -> None:
            if chunk.index == cut:
                raise KeyboardInterrupt
            real(self, chunk, *rest)

        out = tmp_path / f"cut{cut}"
        monkeypatch.setattr(loop_module.Loop, "_observe", dies)
        with pytest.raises(KeyboardInterrupt):
            run(3, out, 64)
        monkeypatch.setattr(loop_module.Loop, "_observe", real)
        assert np.array_equal(run(3, out, 64), whole)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (",epochs=2", "has no setting 'epochs'"),
        (",clip=-1", "setting clip must be at least 0, got -1"),
        (" + slot", "must be the last learner"),
    ],
)
def test_what_lanes_cannot_do_is_one_sentence(more: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        run(2, tmp_path / "r", more=more)


@pytest.mark.parametrize("first", ["slot", "lora_ttt:reset=document,chunk=64"])
def test_lanes_behind_another_document_state_are_one_sentence(first: str, tmp_path: Path) -> None:
    stack = adapters_of(f"{first} + {SPEC},lanes=2")
    with pytest.raises(InputError, match="cannot stand behind slot or another learner of low-rank terms"):
        score(golf(), tiny_stream(tmp_path), stack, parse_plan(PLAN))


def test_lanes_need_their_plan_and_stop_when_they_diverge(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'lanes' became an adapter of its own; write lora_lanes:lanes=16"):
        adapters_of("lora_ttt:reset=document,lanes=2")
    stream = tiny_stream(tmp_path)
    with pytest.raises(InputError, match="scores across them; give --plan document"):
        score(golf(), stream, adapters_of(f"{SPEC},lanes=2"), parse_plan("disjoint:seq_len=32"))
    lanes: Any = adapters_of(f"{SPEC},lanes=2")[0].attach(golf(), stream_info(stream, 0, 260))
    receipt = TokenLedger(np.ones(2, np.int32), 7).book(7, np.ones(3, np.int32), np.ones(3))
    grad = torch.full((1, lanes.values.shape[1]), float("inf"))
    with pytest.raises(DivergenceError, match=r"training on booked targets 7\.\.9: .*lower lr, or set clip"):
        lanes._step(torch.tensor([1]), grad, [(0, 0, receipt)])
