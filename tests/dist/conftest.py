"""What do ranks score?  250 short documents, by the random checkpoint that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = (f'{{"text": "Record {i}: value {i * i % 97} for key {i % 13}, seen {i % 5} times."}}' for i in range(250))
    path = tmp_path_factory.mktemp("text") / "records.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
