"""What is measured: the bundled model on its text, shapes of the 16 MB class with random weights, and how a call is timed."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benches.card.sheet import Card
from evalkit.cli.recipe import ASSETS
from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.container import Artifact, read_artifact
from evalkit.models.ek.door import ArtifactModel
from evalkit.models.ek.model import GPT
from evalkit.stream import Stream, open_stream, open_tokenizer
from evalkit.train.recipe import load_recipe

SMALLEST = GPTConfig(vocab_size=260, layers=2, width=64, head_dim=32, kv_heads=1, max_seq_len=64)
"""For ``--smoke``: every path, no work."""


def shapes(card: Card) -> dict[str, GPTConfig]:
    """The 16 MB class by name: the recipe for one GPU, and the field's first baseline (9 layers, 1,024 ids)."""
    if card.smoke:
        return {"smallest": SMALLEST}
    big = load_recipe("h200-10min", []).model
    small = GPTConfig(
        vocab_size=1024, layers=9, width=512, head_dim=64, kv_heads=4, mlp_ratio=2, max_seq_len=2048, xsa=False,
        value_residual=False, smear=False, head_gate=False,
    )  # fmt: skip
    return {"11x512, 8,192 ids": big, "9x512, 1,024 ids": small}


@lru_cache(maxsize=3)
def _random_weights(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    module = GPT(config)
    for name, weight in module.named_parameters():
        if name.endswith(("attn.out.weight", "mlp.down.weight", "embed.weight")):
            torch.nn.init.normal_(weight, std=0.05)
    return module.eval()


def random_gpt(config: GPTConfig, device: str) -> GPT:
    """A model of this shape whose every weight matters: outputs are not zero, as they are when training begins."""
    return copy.deepcopy(_random_weights(config)).to(device)


def random_model(card: Card, device: str, config: GPTConfig | None = None) -> ArtifactModel:
    """As a model of the engine.  Its ids are those of the bytes (``--smoke``) or of the field's 1,024 pieces."""
    if config is None:
        config = SMALLEST if card.smoke else shapes(card)["9x512, 1,024 ids"]
    tokenizer = b"" if card.smoke else (ASSETS / "fineweb_1024_bpe.model").read_bytes()
    header: Any = None
    artifact = Artifact(config, {}, tokenizer, header, f"random {config.layers}x{config.width}", 0)
    return ArtifactModel(artifact, random_gpt(config, device), torch.device(device))


@lru_cache(maxsize=1)
def _bundled() -> Artifact:
    return read_artifact(ASSETS / "tiny.ek")


def subject(card: Card, device: str) -> ArtifactModel:
    """The bundled model; of a smoke run the smallest one."""
    if card.smoke:
        return random_model(card, device)
    return loaded(_bundled(), device)


def loaded(artifact: Artifact, device: str) -> ArtifactModel:
    """Without its corpus: what counts brought from elsewhere is not what a device is asked about."""
    artifact = artifact._replace(corpus=None)
    module = GPT(artifact.config)
    module.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in artifact.tensors.items()})
    return ArtifactModel(artifact, module.to(device).eval(), torch.device(device))


def text_of(card: Card, model: ArtifactModel, targets: int) -> Stream:
    """The head of ``--text`` (default: the bundled sample) in the model's own ids."""
    return _opened(card.text or (str(ASSETS / "sample.jsonl.xz"),), model.tokenizer_model or b"", targets)


@lru_cache(maxsize=8)
def _opened(paths: tuple[str, ...], tokenizer: bytes, targets: int) -> Stream:
    return open_stream(paths, open_tokenizer(tokenizer or "byte"), limit_targets=targets)


@dataclass(frozen=True)
class RandomText:
    """What a forward pass reads of a stream: random ids, documents of 700 tokens."""

    tokens: np.ndarray
    doc_start: np.ndarray

    @property
    def n_targets(self) -> int:
        return len(self.tokens) - 1


def random_text(vocab: int, n: int) -> RandomText:
    tokens = np.random.default_rng(0).integers(2, vocab, n + 1).astype(np.int32)
    starts = np.arange(0, n, 700)
    tokens[starts] = 1
    return RandomText(tokens, starts)


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds_of(card: Card, call: Callable[[], Any], repeats: int = 20, at_most: float = 2.0) -> dict[str, Any]:
    """Median wall seconds of a call, the device waited for; three calls before, which pay for what is made once."""
    found, began = list[float](), time.perf_counter()
    for i in range(card.size(3, 1) + card.size(repeats, 1)):
        begin = time.perf_counter()
        call()
        synchronise(card.device)
        if i >= card.size(3, 1):
            found.append(time.perf_counter() - begin)
        if found and time.perf_counter() - began > at_most:
            break
    spread = (max(found) - min(found)) / 2 if len(found) > 1 else None
    return {"seconds": statistics.median(found), "calls": len(found), "half_range": spread}


def furthest(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors, in float64 on the host."""
    return float((a.detach().double().cpu() - b.detach().double().cpu()).abs().max())
