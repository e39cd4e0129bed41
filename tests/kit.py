"""What do tests share?  Models of a few thousand weights, random streams and rows, stacks, and the strict spelling of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalkit.adapters.base import TokenLedger
from evalkit.adapters.info import stream_info
from evalkit.adapters.registry import parse_adapter
from evalkit.legality.engine.toy import toy_scorer
from evalkit.legality.scorer import LocalBox
from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.model import GPT
from evalkit.models.golf import GolfGPT, GolfOptions
from evalkit.plan import Window, owners, parse_plan
from evalkit.scoring.score import ScoreOptions, score
from evalkit.stream import Stream, open_stream, open_tokenizer


def examples(n: int) -> int:
    """``n`` examples of hypothesis in make test-all, a third of them in make test."""
    return n if os.environ.get("EVALKIT_HYPOTHESIS") else max(1, n // 3)


SHAPE = {"vocab": 260, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "hidden": 24}
COMMON = "chunk=64,seq_len=32,batch=0"
LEARNERS = {
    "full_ttt": f"full_ttt:{COMMON},lr=0.05,epochs=2",
    "full_ttt adamw": "full_ttt:chunk=64,seq_len=32,batch=1,lr=0.003,optimiser=adamw,overlap=8,freeze_blocks=1,weight_decay=0.1",
    "lora_ttt": f"lora_ttt:{COMMON},rank=4,alpha=8,targets=[q,k,v,o,mlp,head]",
    "lora_ttt per document": f"lora_ttt:{COMMON},rank=4,reset=document,warm_a=true,targets=[q,v,head]",
    "muon_ttt": f"muon_ttt:{COMMON},lr=0.01,momentum=0.5,by_shape=true,adaptive=true,hard=0.01,easy=0.01",
    "phased_ttt": f"phased_ttt:{COMMON},rank=4,every=128,base_lr=0.05",
    "slot": "slot:chunk=64,stride=16",
    "slot steps": "slot:chunk=64,form=steps,scope=[document],delta=0.02,bias=0.02,warm=true",
    "lora_ttt and slot": f"lora_ttt:{COMMON},rank=2,reset=document + slot:chunk=64,stride=16",
}
PLANS = {
    "disjoint": "disjoint:seq_len=32",
    "sliding": "sliding:seq_len=48,stride=16",
    "document": "document:seq_len=32,stride=16",
    "banded": "banded:window=24,block=32,segment=64",
}


def golf(seed: int = 0, std: float | None = 0.3, tied: bool = True, **shape: int) -> GolfGPT:
    """A random baseline GPT: 2 layers of width 16 over the 260 ids of the byte tokenizer, unless ``shape`` says otherwise.

    ``std``: of the embedding; None leaves the model's own initialisation.
    """
    torch.manual_seed(seed)
    model = GolfGPT({**SHAPE, **shape}, GolfOptions(), tied=tied)
    if std is not None:
        torch.nn.init.normal_(model.tok_emb.weight, std=std)
    return model.eval().requires_grad_(False)


def golf_file(path: Path, **settings: Any) -> Path:
    """The weights of :func:`golf` in a checkpoint file; returns its path."""
    torch.save(golf(**settings).state_dict(), path)
    return path


def awake(config: GPTConfig, seed: int = 0, by: float = 0.2) -> GPT:
    """Our own network with its zero-initialised parts moved by noise of size ``by``, so that every path carries signal."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model


def toy_box(make: Callable[[], Any], longest: int = 64) -> LocalBox:
    """An adapter on the toy model as a black box that takes streams of ``longest`` tokens at most (0: any).

    Short streams alone spare an audit its handshake on long ones, half of the work where few probes are asked.
    """

    def scorer() -> Any:
        found: Any = toy_scorer([make()])
        found.max_tokens = longest
        return found

    return LocalBox(scorer)


def random_ids(length: int, seed: int = 0, *, vocab: int) -> torch.Tensor:
    """int64 [length], BOS (id 1) first and about every ten tokens."""
    torch.manual_seed(seed)
    ids = torch.randint(4, vocab, (length,))
    ids[torch.rand(length) < 0.1] = 1
    ids[0] = 1
    return ids


def random_rows(rng: np.random.Generator, n: int, vocab: int) -> np.ndarray:
    """float64 [n, V], peaked, each summing to 1 within a few ulp."""
    p = rng.gamma(0.3, size=(n, vocab)) + 1e-9
    p /= p.sum(axis=1, keepdims=True)
    return p / p.sum(axis=1, keepdims=True)


def phrases(rng: np.random.Generator, vocab: int, n: int, count: int = 12, bos: bool = False) -> np.ndarray:
    """int32 [n]: ``count`` phrases of 2 to 8 tokens in random order, a fifth of the time two random tokens instead.

    ``bos``: id 1 stands between some.
    """
    pool = [rng.integers(0, vocab, rng.integers(2, 9)) for _ in range(count)] + [np.array([1])] * bos
    picked = rng.integers(0, len(pool), n)
    parts = [pool[i] if rng.random() < 0.8 else rng.integers(0, vocab, 2) for i in picked]
    return np.concatenate(parts)[:n].astype(np.int32)


def tiny_stream(folder: Path, n: int = 420, seed: int = 0) -> Stream:
    """Documents of 1 to 90 bytes with repetitions, ``n`` targets in all."""
    rng = np.random.default_rng(seed)
    words = ["the cat ", "sat on ", "a mat. ", "Item ", "7 of 9; ", "so it is. "]
    parts = ["".join(rng.choice(words, int(rng.integers(1, 11)))) for _ in range(60)]
    paths = []
    for i, text in enumerate(parts):
        path = folder / f"{i:02d}.txt"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return open_stream(paths, open_tokenizer("byte")).head(n)


def adapters_of(spec: str) -> list[Any]:
    return [parse_adapter(part.strip()) for part in spec.split(" + ")]


def fused(model: Any, stream: Any, adapters: list[Any], plan: str, out: Path, **more: Any) -> np.ndarray:
    """Nats float64 [n, stages] of a run of the engine."""
    from evalkit.scoring.scores import read_scores

    options = ScoreOptions(chunk_tokens=64, **more)
    result = score(model, stream, adapters, parse_plan(plan), out=out, options=options)
    assert result.complete
    return np.array(read_scores(out / "scores.f64", len(result.stage_names)))


def strict(model: Any, stream: Any, learners: list[Any], plan: str) -> np.ndarray:
    """Nats float64 [n]: each row from its prefix alone, the rest of the stream not at hand; then book, then observe."""
    tokens = np.asarray(stream.tokens, dtype=np.int64)
    info, laid = stream_info(stream, 0, model.vocab_size), parse_plan(plan)
    for learner in learners:
        model = learner.attach(model, info)
    out = np.full(len(tokens), np.nan)
    for chunk in laid.chunks(len(tokens), stream.doc_start, 64):
        for group in laid.together(chunk.windows):
            state = None
            for window in group:
                out[window.lo : window.hi], state = _window(model, tokens, window, laid, state)
        booked = tokens[chunk.lo : chunk.hi].astype(np.int32)
        receipt = TokenLedger(tokens[: chunk.lo].astype(np.int32), chunk.lo).book(
            chunk.lo, booked, out[chunk.lo : chunk.hi]
        )
        for learner in learners:
            learner.observe(receipt)
    return out[1:]


@torch.no_grad()
def _window(model: Any, tokens: np.ndarray, window: Window, plan: Any, state: Any) -> tuple[np.ndarray, Any]:
    nats, after = [], None
    for target in range(window.lo, window.hi):
        prefix = torch.from_numpy(tokens[:target].copy())[window.start :]
        starts = np.flatnonzero(tokens[:target] == 1)
        of = torch.from_numpy(owners(starts, window.start, target))
        if plan.carries:
            rows, after = model.banded(prefix, of, state, plan.context)
        else:
            rows = model.logits(prefix[None], of[None])[0]
        if "scored" in model.can:
            model.scored([replace(window, hi=target + 1)])
        nats.append(-torch.log_softmax(rows[-1].double(), dim=-1)[tokens[target]])
    return np.array(nats), after
