"""Do scoring and training keep to their device?  Runs tests/card in a process where a device beside the host is known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

CARD = Path(__file__).parents[1] / "card"


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices written in Python",
)
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_all_that_runs_on_a_device_keeps_to_it(which: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-m", which, str(CARD)]
    environ = {**os.environ, "EVALKIT_CARD": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stdout[-8000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
