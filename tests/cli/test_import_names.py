"""The distribution owns one import name: files of the user's called train.py or harness.py are never run by evalkit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHADOWS = ("train", "harness", "data", "tests", "benches", "models")
SCRIPT = """\
import evalkit

model = evalkit.open_checkpoint(None)
print(model.vocab_size)
"""
FEW = ("--adapter", "none", "--limit-tokens", "300", "--json", "-")


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A user's folder: modules with common names, each of which raises when it is imported."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f'raise SystemExit("{name}.py of the user was run")\n', encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    notes = (
        json.dumps({"text": f"Note {i}: a sentence of the user's own, to be learned by heart. " * 8}) for i in range(80)
    )
    (tmp_path / "notes.jsonl").write_text("\n".join(notes), encoding="utf-8")
    return tmp_path


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environ, capture_output=True, text=True, timeout=600, check=False
    )


def _evalkit(*arguments: str) -> tuple[str, ...]:
    """The console script without its file, which lies elsewhere in every installation."""
    return "-c", "import sys; from evalkit.cli.main import main; sys.exit(main(sys.argv[1:]))", *arguments


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("-m", "evalkit", "eval", *FEW), id="module"),
        pytest.param(_evalkit("eval", *FEW), id="script", marks=pytest.mark.slow),
        pytest.param(_evalkit("eval", "--nproc", "2", *FEW), id="two-ranks", marks=pytest.mark.slow),
    ],
)
def test_eval_beside_files_of_the_same_names(crowded: Path, command: tuple[str, ...]):
    done = _run(crowded, *command)
    assert (done.returncode, json.loads(done.stdout)["totals"]["targets"]) == (0, 300), done.stderr


@pytest.mark.slow
def test_the_python_api_beside_files_of_the_same_names(crowded: Path):
    done = _run(crowded, "script.py")
    assert (done.returncode, done.stdout) == (0, "2048\n"), done.stderr


@pytest.mark.slow
def test_torchrun_beside_files_of_the_same_names(crowded: Path):
    launch = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "evalkit.harness")
    done = _run(crowded, *launch, *FEW)
    assert (done.returncode, json.loads(done.stdout)["totals"]["targets"]) == (0, 300), done.stderr


@pytest.mark.slow
def test_training_beside_files_of_the_same_names(crowded: Path):
    flags = ("--recipe", "smoke", "--data", "notes.jsonl", "--out", "run", "--set", "run.steps=2")
    done = _run(crowded, *_evalkit("train", *flags))
    assert (done.returncode, (crowded / "run" / "model.ek").is_file()) == (0, True), done.stdout + done.stderr


def test_the_wheel_owns_evalkit_alone():
    """What setup would install: packages below ``evalkit``, and the folders at the top of a checkout by that name."""
    from setuptools import find_packages

    root = Path(__file__).resolve().parents[2]
    found = find_packages(str(root), include=["evalkit*"])
    assert {name.partition(".")[0] for name in found} == {"evalkit"}
    assert {"evalkit.train", "evalkit.train.data", "evalkit.harness", "evalkit.models.ek"} <= set(found)
