"""Do the C++ tests pass?  They know no Python: built with the system's compiler, once, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
COMPILER = shutil.which("g++") or shutil.which("c++")
SANITIZE = os.environ.get("EVALKIT_SANITIZE", "")
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
if SANITIZE:
    FLAGS += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-g"]
PLAIN = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
"""Compiler and programs bring what they need: a preloaded sanitizer is for Python."""

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine"),
]


def compile_one(source: Path, target: Path) -> None:
    assert COMPILER is not None
    subprocess.run([COMPILER, *FLAGS, "-c", str(source), "-o", str(target)], check=True, env=PLAIN)


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Object files of csrc/core."""
    folder = tmp_path_factory.mktemp("core")
    sources = sorted((CSRC / "core").glob("*.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, objects))
    return [str(o) for o in objects]


@pytest.mark.parametrize("name", sorted(p.stem for p in (CSRC / "tests").glob("test_*.cpp")))
def test_cpp(name: str, core: list[str], tmp_path: Path) -> None:
    assert COMPILER is not None
    program = tmp_path / name
    main = str(CSRC / "tests" / f"{name}.cpp")
    subprocess.run([COMPILER, *FLAGS, main, *core, "-o", str(program)], check=True, env=PLAIN)
    done = subprocess.run([program], capture_output=True, text=True, check=False, env=PLAIN)
    assert done.returncode == 0, done.stderr
