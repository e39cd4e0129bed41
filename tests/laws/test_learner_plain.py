"""Do learners book what a plain script books: score a chunk, then step torch's own optimisers on it?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.kit import PLANS, adapters_of, fused, golf, tiny_stream
from tests.twins.newton_schulz import orthogonalise_by_svd

CHUNK, SEQ, CONTEXT, STRIDE = 64, 32, 48, 16
Step = Callable[[torch.Tensor, float], None]


@torch.no_grad()
def score_chunk(logits: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, lo: int, hi: int) -> list[float]:
    """Sliding windows of 48 at stride 16, written out: the first books 48 targets, each later one 16."""
    nats, at = [], lo
    while at < hi:
        end = CONTEXT + 1 if at == 1 else at + STRIDE
        start, end = max(0, end - 1 - CONTEXT), min(hi, end)
        rows = torch.log_softmax(logits(tokens[None, start : end - 1])[0].double(), -1)
        nats += [-float(rows[t - start - 1, tokens[t]]) for t in range(at, end)]
        at = end
    return nats


def run_plain(
    logits: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, epochs: int, step: Any
) -> np.ndarray:
    """Two sequences of 32 a chunk of 64 targets, one optimiser step an epoch; the last, short chunk never trains."""
    nats: list[float] = []
    for lo in range(1, len(tokens), CHUNK):
        hi = min(lo + CHUNK, len(tokens))
        nats += score_chunk(logits, tokens, lo, hi)
        if hi - lo < CHUNK:
            break
        inputs = tokens[lo - 1 : hi - 1].view(2, SEQ)
        targets = tokens[lo:hi].view(2, SEQ)
        for _ in range(epochs):
            step(lambda i=inputs, t=targets: F.cross_entropy(logits(i).flatten(0, 1), t.flatten()))
    return np.array(nats)


def compare(spec: str, plain: np.ndarray, folder: Path) -> None:
    stream = tiny_stream(folder)
    booked = fused(golf(), stream, adapters_of(spec), PLANS["sliding"], folder / "run")
    np.testing.assert_allclose(booked[:, -1], plain, rtol=0, atol=3e-4)
    assert np.abs(booked[:, -1] - booked[:, 0]).max() > 0.05


def tokens_of(folder: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(tiny_stream(folder).tokens).astype(np.int64))


def trained_copy() -> tuple[Any, list[torch.nn.Parameter]]:
    model = copy.deepcopy(golf()).requires_grad_(True)
    return model, list(model.parameters())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_full_ttt(optimiser: str, tmp_path: Path) -> None:
    model, params = trained_copy()
    if optimiser == "sgd":
        opt: torch.optim.Optimizer = torch.optim.SGD(params, lr=0.05, momentum=0.9)
    else:
        opt = torch.optim.AdamW(params, lr=0.002, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)

    def step(loss: Callable[[], torch.Tensor]) -> None:
        opt.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()

    plain = run_plain(model.logits, tokens_of(tmp_path), 3, step)
    more = "lr=0.05" if optimiser == "sgd" else "lr=0.002,optimiser=adamw,weight_decay=0.1"
    compare(f"full_ttt:chunk=64,seq_len=32,batch=0,epochs=3,clip=1,{more}", plain, tmp_path)


def test_muon_ttt(tmp_path: Path) -> None:
    model, params = trained_copy()

    def step(loss: Callable[[], torch.Tensor]) -> None:
        model.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        with torch.no_grad():
            for p in params:
                assert p.grad is not None
                g = p.grad
                move = torch.from_numpy(orthogonalise_by_svd(g.numpy(), 5)).float() if g.ndim == 2 else g
                p.sub_(0.01 * move)

    plain = run_plain(model.logits, tokens_of(tmp_path), 2, step)
    compare("muon_ttt:chunk=64,seq_len=32,batch=0,epochs=2,lr=0.01,steps=5", plain, tmp_path)


def test_lora_ttt(tmp_path: Path) -> None:
    model = copy.deepcopy(golf())
    lora: dict[str, list[torch.Tensor]] = {"A": [], "B": []}
    generator = torch.Generator().manual_seed(0)
    for block in model.blocks:
        for layer in (block.attn.c_q, block.attn.c_v):  # type: ignore[union-attr]
            bound = layer.in_features**-0.5
            a = ((torch.rand(4, layer.in_features, generator=generator) * 2 - 1) * bound).requires_grad_(True)
            b = torch.zeros(layer.out_features, 4, requires_grad=True)
            layer.register_forward_hook(lambda _m, x, y, a=a, b=b: y + 2.0 * (x[0] @ a.T) @ b.T)
            lora["A"].append(a)
            lora["B"].append(b)
    params = lora["A"] + lora["B"]
    opt = torch.optim.AdamW(params, lr=0.02, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)

    def step(loss: Callable[[], torch.Tensor]) -> None:
        opt.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()

    plain = run_plain(model.logits, tokens_of(tmp_path), 2, step)
    compare(
        "lora_ttt:chunk=64,seq_len=32,batch=0,epochs=2,rank=4,alpha=8,targets=[q,v],lr=0.02,clip=1", plain, tmp_path
    )


def test_slot(tmp_path: Path) -> None:
    """The stream's bias alone, by the update rule written out; steps of 8 targets that never span two documents."""
    model, tokens = golf(), tokens_of(tmp_path)
    bias, spread = torch.zeros(260), torch.zeros(260)
    rows: list[torch.Tensor] = []

    def logits(ids: torch.Tensor) -> torch.Tensor:
        rows.append(model.logits(ids)[0])
        return rows[-1][None] + bias

    nats: list[float] = []
    for lo in range(1, len(tokens), CHUNK):
        hi = min(lo + CHUNK, len(tokens))
        rows.clear()
        nats += score_chunk(logits, tokens, lo, hi)
        last = (hi - lo) % STRIDE or STRIDE
        z = torch.cat([*(rows if lo == 1 else [r[-STRIDE:] for r in rows])[:-1], rows[-1][-last:]])
        assert len(z) == hi - lo
        begin = lo
        for target in range(lo, hi):
            if target + 1 == hi or tokens[target] == 1 or target + 1 - begin == 8:
                ids = tokens[begin : target + 1]
                p = torch.softmax(z[begin - lo : target + 1 - lo] + bias, -1)
                spread += (p * (1 - p)).sum(0)
                bias -= 0.7 * (p.sum(0) - F.one_hot(ids, 260).sum(0)) / (spread + 3.0)
                begin = target + 1
    compare("slot:chunk=64,stride=8,scope=[stream],delta=0,bias=0.7,damp_bias=3", np.array(nats), tmp_path)
