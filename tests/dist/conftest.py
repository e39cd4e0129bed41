"""A checkpoint of a few thousand weights and 250 short documents."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random baseline GPT over the 260 ids of the byte tokenizer."""
    import torch

    from evalkit.models.golf import GolfGPT, GolfOptions

    torch.manual_seed(0)
    shape = {"vocab": 260, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "hidden": 48}
    model = GolfGPT(shape, GolfOptions(), tied=True)
    torch.nn.init.normal_(model.tok_emb.weight, std=0.3)
    path = tmp_path_factory.mktemp("model") / "random.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = (f'{{"text": "Record {i}: value {i * i % 97} for key {i % 13}, seen {i % 5} times."}}' for i in range(250))
    path = tmp_path_factory.mktemp("text") / "records.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
