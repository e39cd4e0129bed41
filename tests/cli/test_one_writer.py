"""A run directory has one writer: a second process is refused, and a killed one leaves no lock behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit.errors import InputError
from evalkit.scoring import lock
from evalkit.scoring.lock import HELD, LOCK, one_writer

HOLD = """
import sys
from pathlib import Path
from evalkit.scoring.lock import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the run directory until it is told to end."""
    folder.mkdir(exist_ok=True)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = hold(tmp_path / "run")
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_a_sentence(evalkit, holder, checkpoint, text, tmp_path: Path) -> None:
    flags = ["--checkpoint", checkpoint, "--tokenizer", "byte", "--text", text, "--limit-tokens", "300"]
    command = ["eval", *flags, "--plan", "disjoint:seq_len=32", "--adapter", "none", "--out", tmp_path / "run"]
    said = evalkit(*command)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert f"process {holder.pid} on " in said.err
    assert "is writing this run; wait for it to end or stop it" in said.err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [LOCK]
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert evalkit(*command).code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["complete"]
    assert evalkit(*command).code == 0


@pytest.mark.slow
def test_two_evals_into_one_folder_leave_one_run(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    """Two real processes at once: one scores and the other is refused, or starts when the first is done."""
    flags = [
        "--checkpoint",
        str(checkpoint),
        "--tokenizer",
        "byte",
        "--text",
        str(text),
        "--plan",
        "disjoint:seq_len=32",
    ]
    command = [sys.executable, "-m", "evalkit", "eval", *flags, "--adapter", "ppm", "--out", str(tmp_path / "run")]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, said
    assert all(code == 0 or (code == 2 and "is writing this run" in err) for code, err in zip(codes, said, strict=True))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["complete"]


def test_the_lock_is_free_after_the_writer_and_not_before(tmp_path: Path) -> None:
    with one_writer(tmp_path):
        assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == os.getpid()
        with pytest.raises(InputError, match="is writing this run"), one_writer(tmp_path):
            pytest.fail("two writers")
    with one_writer(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on "), one_writer(tmp_path):
        pytest.fail("two writers")


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


def left_by(folder: Path, host: str, pid: int, seconds_ago: float = 0.0) -> Path:
    path = folder / HELD
    path.write_text(json.dumps({"host": host, "pid": pid, "since": "then"}))
    at = path.stat().st_mtime - seconds_ago
    os.utime(path, (at, at))
    return path


@pytest.mark.usefixtures("no_flock")
def test_a_file_stands_in_where_there_are_no_locks(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with one_writer(tmp_path):
        assert "without locks" in capsys.readouterr().err
        with pytest.raises(InputError, match=f"process {os.getpid()} on "), one_writer(tmp_path):
            pytest.fail("two writers")
    assert [p.name for p in tmp_path.iterdir()] == [LOCK]


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize(
    ("host", "ago", "free"), [("elsewhere", 5.0, False), ("elsewhere", 3600.0, True), ("", 0.0, True)]
)
def test_the_stand_in_is_taken_over_from_the_dead_alone(host: str, ago: float, free: bool, tmp_path: Path) -> None:
    """Another host counts as dead without a heartbeat; a process of this one when it is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = left_by(tmp_path, host or lock.platform.node(), gone.pid, ago)
    if free:
        with one_writer(tmp_path):
            assert json.loads(path.read_bytes())["pid"] == os.getpid()
        return
    with pytest.raises(InputError, match="on elsewhere, since then, is writing this run"), one_writer(tmp_path):
        pytest.fail("two writers")
    assert path.exists()
