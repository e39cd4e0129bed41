"""Real ranks: processes under torchrun, sockets, signals.  What dies is named, and what was booked is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.scoring.journal import read_journal
from evalkit.scoring.scores import read_scores

PATIENCE = 180.0
RUN = ["--plan", "sliding:seq_len=48,stride=16", "--chunk-tokens", "256", "--batch-tokens", "400", "--threads", "1"]
STACK = ["--adapter", "full_ttt:chunk=256,lr=0.05,seq_len=32,batch=4", "--adapter", "ppm"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


class Job:
    """``evalkit eval`` as a user runs it."""

    def __init__(self, checkpoint: Path, text: Path, out: Path, *more: str) -> None:
        flags = ["--checkpoint", str(checkpoint), "--text", str(text), "--tokenizer", "byte", "--out", str(out)]
        self.out, self.mark = out, f"evalkit-test-{out}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "evalkit", "eval", *flags, *RUN, *STACK, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "EVALKIT_TEST_MARK": self.mark, "OMP_NUM_THREADS": "1"},
        )

    def wait_for_chunks(self, more: int) -> None:
        """Until the journal holds ``more`` chunks than now."""
        journal, give_up = self.out / "journal.jsonl", time.monotonic() + PATIENCE
        goal = _lines(journal) + more
        while _lines(journal) < goal:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def rank(self, rank: int) -> int:
        """Process id of a rank."""
        for pid, environ in self.ranks():
            if f"RANK={rank}" in environ:
                return pid
        raise AssertionError(f"no rank {rank}")

    def ranks(self) -> Iterator[tuple[int, list[str]]]:
        """Every living process that this job started, by what it inherited."""
        for folder in Path("/proc").iterdir():
            try:
                environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            except (OSError, ValueError):
                continue
            if f"EVALKIT_TEST_MARK={self.mark}" in environ and int(folder.name) != self.process.pid:
                yield int(folder.name), environ

    def end(self) -> tuple[int, str]:
        """(exit code, stderr) when the job is over and nothing of it is left."""
        _, said = self.process.communicate(timeout=PATIENCE)
        give_up = time.monotonic() + 10.0
        while left := list(self.ranks()):
            assert time.monotonic() < give_up, left
            time.sleep(0.05)
        return self.process.returncode, said


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ours(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("evalkit: ")]


@pytest.fixture(scope="module")
def whole(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run in one process that nothing happens to."""
    from evalkit.cli.main import main

    out = tmp_path_factory.mktemp("whole") / "run"
    flags = ["--checkpoint", str(checkpoint), "--text", str(text), "--tokenizer", "byte", "--out", str(out)]
    before = torch.get_num_threads()
    assert main(["eval", *flags, *RUN, *STACK]) == 0
    torch.set_num_threads(before)
    return {"out": out, "run": json.loads((out / "run.json").read_text())}


def assert_same_run(out: Path, whole: dict[str, Any]) -> dict[str, Any]:
    run = json.loads((out / "run.json").read_text())
    assert run["complete"]
    assert run["totals"] == whole["run"]["totals"]
    assert [s["bpb"] for s in run["stages"]] == [s["bpb"] for s in whole["run"]["stages"]]
    assert read_journal(out / "journal.jsonl")[1] == read_journal(whole["out"] / "journal.jsonl")[1]
    assert np.array_equal(read_scores(out / "scores.f64", 3), read_scores(whole["out"] / "scores.f64", 3))
    return run


@pytest.mark.slow
def test_killed_stopped_and_preempted_on_two_three_and_one_ranks_the_bits_are_the_same(
    checkpoint: Path, text: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    job = Job(checkpoint, text, out, "--nproc", "2")
    job.wait_for_chunks(5)
    os.kill(job.rank(1), signal.SIGKILL)
    code, said = job.end()
    assert code == 3
    assert ours(said) == [
        "evalkit: rank 1 was ended by SIGKILL (the kernel does so when memory runs out); "
        "the same command with the same --out goes on"
    ]
    assert not (out / "run.json").exists() or not json.loads((out / "run.json").read_text())["complete"]

    job = Job(checkpoint, text, out, "--nproc", "3")
    job.wait_for_chunks(5)
    job.process.send_signal(signal.SIGTERM)
    code, said = job.end()
    assert code == 0
    assert len(ours(said)) == 1
    assert "stopped by SIGTERM after " in said
    assert "the same command with the same --out goes on" in said
    run = json.loads((out / "run.json").read_text())
    booked = read_journal(out / "journal.jsonl")[1]
    assert not run["complete"]
    assert run["coverage"]["booked"] == [[1, booked[-1].hi]]

    job = Job(checkpoint, text, out, "--nproc", "2", "--hang-seconds", "3")
    job.wait_for_chunks(4)
    os.kill(job.rank(1), signal.SIGSTOP)
    code, said = job.end()
    assert code == 3
    assert len(ours(said)) == 1
    assert "rank 1 has hung: no heartbeat for 3 s, it was last seen at: " in said

    job = Job(checkpoint, text, out)
    code, said = job.end()
    assert (code, ours(said)) == (0, [])
    assert_same_run(out, whole)


def test_a_rank_that_dies_is_started_again(checkpoint: Path, text: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    out = tmp_path / "run"
    job = Job(checkpoint, text, out, "--nproc", "2", "--max-restarts", "1")
    job.wait_for_chunks(8)
    os.kill(job.rank(0), signal.SIGKILL)
    code, said = job.end()
    assert (code, ours(said)) == (0, [])
    run = assert_same_run(out, whole)
    assert run["world_size"] == 2
    assert run["resumed_chunks"] >= 7
    assert [rank["rank"] for rank in run["ranks"]] == [0, 1]
    assert all(rank["line_bytes"] > 0 and rank["collectives"] > 0 for rank in run["ranks"])
    names = {e["args"]["name"] for e in json.loads((out / "trace.json").read_text())["traceEvents"] if e["ph"] == "M"}
    assert {"rank 0", "rank 1", "loop", "forward"} <= names


LEARNER = """
import os

from evalkit.adapters.base import Learner

class Greedy(Learner):
    name = "greedy"
    def attach(self, model, info):
        return model
    def observe(self, receipt):
        if os.environ.get("RANK") == "1" and receipt.lo > 512:
            raise MemoryError
    def snapshot(self):
        return b""
    def restore(self, state): ...
    def detach(self): ...
    def state_bytes(self):
        return 0
"""


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_says_so_and_ends_the_job(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(LEARNER, encoding="utf-8")
    job = Job(checkpoint, text, tmp_path / "run", "--nproc", "2", "--adapter", f"{tmp_path}/greedy.py:Greedy")
    code, said = job.end()
    assert code == 2
    (line,) = ours(said)
    assert line.startswith("evalkit: rank 1 ran out of memory (learning target 513 and after)")
    assert "lower --batch-tokens" in line
    assert len(read_journal(tmp_path / "run" / "journal.jsonl")[1]) >= 3


@pytest.mark.slow
def test_wrong_input_is_refused_once_and_nothing_is_left(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    job = Job(checkpoint, text, tmp_path / "run", "--nproc", "2", "--plan", "banded:window=24,block=32,segment=0")
    code, said = job.end()
    assert code == 2
    assert len(ours(said)) == 1
    assert "2 ranks cannot share it; use segment=8192, or --nproc 1" in said


@pytest.mark.slow
def test_sums_over_three_ranks_are_those_of_one() -> None:
    script = Path(__file__).parent / "reduce_script.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run(
        [*torchrun, str(script)], capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["agreed-0", "agreed-1", "agreed-2"]
