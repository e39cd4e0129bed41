"""Do the C++ tests pass?  They know no Python: built with the system's compiler, once, and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
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

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")
STRAYS = {"gram_table": [CSRC / "core" / "gram_table_memory.cpp"]}
"""Files whose header has another name."""


def compile_one(source: Path, target: Path) -> None:
    assert COMPILER is not None
    subprocess.run([COMPILER, *FLAGS, "-c", str(source), "-o", str(target)], check=True, env=PLAIN)


def parts(source: Path) -> set[Path]:
    """The files of csrc/core that a C++ file needs, by what it and they include."""
    found: set[Path] = set()
    todo = [source]
    while todo:
        path = todo.pop()
        for name in re.findall(r'^#include "(?:.*/)?([a-z_]+)\.hpp"', path.read_text(encoding="utf-8"), re.MULTILINE):
            new = {*(CSRC / "core").glob(f"{name}.[ch]pp"), *STRAYS.get(name, ())} - found
            found |= new
            todo += new
    return {path for path in found if path.suffix == ".cpp"}


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Compiles a file of csrc/core once and names its object file."""
    folder = tmp_path_factory.mktemp("core")

    @cache
    def compiled(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        compile_one(source, target)
        return str(target)

    return compiled


@pytest.mark.parametrize("name", sorted(p.stem for p in (CSRC / "tests").glob("test_*.cpp")))
def test_cpp(name: str, core: Callable[[Path], str], tmp_path: Path) -> None:
    assert COMPILER is not None
    program = tmp_path / name
    main = CSRC / "tests" / f"{name}.cpp"
    subprocess.run(
        [COMPILER, *FLAGS, str(main), *map(core, sorted(parts(main))), "-o", str(program)], check=True, env=PLAIN
    )
    done = subprocess.run([program], capture_output=True, text=True, check=False, env=PLAIN)
    assert done.returncode == 0, done.stderr
