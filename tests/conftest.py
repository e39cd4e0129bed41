"""What do all tests share?  A deterministic hypothesis profile, and the data that may or may not be there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("search", parent=settings.get_profile("ci"), derandomize=False, max_examples=2000)
settings.load_profile(os.environ.get("EVALKIT_HYPOTHESIS", "ci"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text, tokenizers and checkpoints: $EVALKIT_SHARED/data or ../shared/data; skips without it."""
    shared = Path(os.environ.get("EVALKIT_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    data = shared / "data"
    if not (data / "README.md").is_file():
        pytest.skip(f"no data in {data}; set EVALKIT_SHARED to run this test")
    return data
