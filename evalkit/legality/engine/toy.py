"""The toy world in which an adapter is audited by itself: a model of a few thousand weights over 32 pieces, in short chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.adapters.base import Learner
from evalkit.legality.engine.setup import EngineScorer, Setup, fresh, lanes_of
from evalkit.plan import Document, Plan, Sliding
from evalkit.stream.pieces import PieceTable
from evalkit.stream.spmodel import PieceKind

PIECES = (" the", " a", " of", " cat", " dog", " sat", " on", " mat", " and", " is", " in", " to", " it", " so", " up")
TAILS = ("s", "ed", "ing", "er", "ly", "est", "un", "re", ",", ".", "!", "?", "\n", "e", "t")
CHUNK, STRIDE, WINDOW = 16, 8, 16
SHORT = {"chunk": CHUNK, "seq_len": WINDOW, "overlap": 0, "stride": STRIDE, "context": CHUNK, "every": 2 * CHUNK}
"""Settings of learners that decide when they learn, cut to the length of a probe stream."""
LANES_STRIDE = 4
"""Where documents learn side by side: targets of a piece, so that a document of a few tokens learns twice."""


class ToyTokenizer:
    """32 pieces: pad, BOS, words with a leading space, and tails."""

    name, bos_id, model_bytes = "toy", 1, b"toy"

    def __init__(self) -> None:
        texts = [b"", b"", *(p.encode() for p in (*PIECES, *TAILS))]
        kinds = [PieceKind.CONTROL] * 2 + [PieceKind.NORMAL] * (len(texts) - 2)
        self.pieces = PieceTable.build(texts, kinds, leading_space_is_free=True)
        self.vocab_size = len(texts)
        self.fingerprint = hashlib.sha256(b"".join(texts)).hexdigest()

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        raise AssertionError("the toy tokenizer only describes pieces")


@cache
def toy_model() -> Any:
    """A one-layer baseline GPT with random weights, float32."""
    import torch

    from evalkit.models.golf import GolfGPT, GolfOptions

    state = torch.random.get_rng_state()
    torch.manual_seed(20240520)
    shape = {"vocab": 32, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "hidden": 16}
    model = GolfGPT(shape, GolfOptions(), tied=True)
    torch.nn.init.normal_(model.tok_emb.weight, std=0.8)
    torch.random.set_rng_state(state)
    model.fingerprint = "toy"
    return model.eval().requires_grad_(False)


def shortened(adapter: Any) -> Any:
    """The adapter with a learner's clock cut to the length of a probe stream; experts as they are."""
    if not isinstance(adapter, Learner):
        return adapter
    if lanes_of(adapter):
        return fresh(adapter, chunk=LANES_STRIDE)
    fields = {f.name for f in msgspec.structs.fields(type(adapter.settings))}
    changes = {k: v for k, v in SHORT.items() if k in fields and getattr(adapter.settings, k) > v}
    return fresh(adapter, **changes)


def toy_setup(adapters: Sequence[Any]) -> Setup:
    """Adapters on the toy model: sliding windows of 16 at stride 8, chunks of 16 targets.

    Lanes: windows of 8 at stride 4 inside documents, and chunks of 64, which hold many documents and cut some.
    """
    plan: Plan = Sliding(seq_len=WINDOW, stride=STRIDE)
    chunk = CHUNK
    if any(lanes_of(a) for a in adapters):
        plan, chunk = Document(seq_len=2 * LANES_STRIDE, stride=LANES_STRIDE), 4 * CHUNK
    return Setup(
        model=toy_model(),
        tokenizer=ToyTokenizer(),
        adapters=tuple(shortened(a) for a in adapters),
        plan=plan,
        chunk_tokens=chunk,
        batch_tokens=256,
    )


def toy_scorer(adapters: Sequence[Any]) -> EngineScorer:
    """A black box around adapters."""
    return EngineScorer(toy_setup(adapters))
