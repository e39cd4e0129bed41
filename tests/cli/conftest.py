"""What does a test need that acts as a user?  A text to score, and a call of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from evalkit.cli.main import main

TEXT = "".join(f"Line {i}: the cat sat on the mat, and the dog saw item {i % 7} of {i % 5}.\n" for i in range(60))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def evalkit(capsys: pytest.CaptureFixture[str]):
    """Run a verb in this process: code, stdout, stderr."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as leave:
            code = int(leave.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run
