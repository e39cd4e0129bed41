"""Does resident memory stay within what an expert was allowed, when its tables are full?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="resident memory is read from /proc")
@pytest.mark.skipif(bool(os.environ.get("EVALKIT_SANITIZE")), reason="the sanitizers' own memory is counted too")
@pytest.mark.parametrize("spec", ["ppm:escape=dirichlet,memory_mib=16", "tilt:memory_mib=16"])
def test_a_full_expert_grows_no_further(spec: str) -> None:
    command = [sys.executable, "-m", "benches.full_table", "--memory-mib", "16", "--spec", spec]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["full_at"] > 0
    assert found["grown_mib"] > 4, "it took memory at all"
    assert found["grown_mib"] <= 16 + 8
