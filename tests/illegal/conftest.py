"""A checkpoint of a few thousand weights over bytes, a short text, and adapters that cheat."""

from __future__ import annotations

from pathlib import Path

import pytest

CHEATS = '''
import numpy as np
from evalkit.adapters.strict import StrictExpert


class Honest(StrictExpert):
    """Counts of single tokens, mixed in at one fifth."""

    name = "honest"

    def begin(self, info):
        super().begin(info)
        self.counts = np.ones(info.vocab_size)

    def row(self, p, side, history=()):
        return 0.8 * p + 0.2 * self.counts / self.counts.sum()

    def observe(self, receipt):
        self.counts[receipt.tokens[0]] += 1


class Peek(Honest):
    """The fused spelling raises the target's own probability."""

    name = "peek"

    def score(self, chunk, p):
        out = super().score(chunk, p)
        at = np.arange(len(p)), chunk.tokens
        out[at] = np.minimum(1.2 * out[at], 1.0)
        return out


class Excess(Honest):
    name = "excess"

    def row(self, p, side, history=()):
        return 1.002 * super().row(p, side, history)


class AskedTwice(Honest):
    """Asking for a row changes what the next row says."""

    name = "asked_twice"

    def row(self, p, side, history=()):
        self.counts[3] += 1
        return super().row(p, side, history)


class HintsAhead(Honest):
    """Proposes the target itself as its hint; its rows do not use it."""

    name = "hints_ahead"

    @property
    def needs(self):
        from evalkit.adapters.base import Needs

        return Needs(rows=True, hints=1)

    def propose(self, tokens):
        return tokens[:, None].copy()


class Forgets(Honest):
    """Keeps nothing of what it learned when it is resumed."""

    name = "forgets"

    def restore(self, state, tokens):
        pass
'''


@pytest.fixture(scope="session")
def cheats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of third-party experts, honest and not."""
    path = tmp_path_factory.mktemp("cheats") / "cheats.py"
    path.write_text(CHEATS)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random baseline GPT over the 260 ids of the byte tokenizer."""
    from tests.kit import golf_file

    return golf_file(tmp_path_factory.mktemp("model") / "random.pt", hidden=16)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents."""
    lines = [f"Item {i}: the cat sat on mat {i % 3}, the dog on mat {i % 4}. Caf\u00e9 \U0001f600\n" for i in range(24)]
    path = tmp_path_factory.mktemp("text") / "lines.jsonl"
    import json

    documents = ["".join(lines[:10]), "".join(lines[10:])]
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def calm() -> None:
    """One thread a process: these tests make thousands of short calls."""
    import torch

    torch.set_num_threads(1)
