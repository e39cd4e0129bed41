"""Ranks started on this node by torchrun's own agent, and one message when one of them fails.

The agent runs in this process: it starts the ranks in sessions of their own, passes their output through, watches them,
restarts them when asked to, and ends all when one dies.  Several nodes: torchrun itself, see docs/scaling.md.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from evalkit.harness.faults import LAUNCHED, NOTES, STOPPED

SHUTDOWN_SECONDS = 15
"""From a signal to this process to the end of the last rank."""


def threads_wanted(ranks: int) -> int:
    """OMP_NUM_THREADS where the user set it, else the CPUs shared by the ranks."""
    from evalkit.harness.job import threads_per_rank

    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else threads_per_rank(ranks)


def launch(argv: list[str], ranks: int, environ: dict[str, str], *, max_restarts: int, resumable: str) -> int:
    """Start ``python -m evalkit.harness ARGV`` on ``ranks`` ranks and wait.  Returns the job's exit code."""
    with tempfile.TemporaryDirectory(prefix="evalkit-ranks-") as notes:
        quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR", "GLOO_SOCKET_IFNAME": _loopback()}
        os.environ.update({k: os.environ.get(k) or v for k, v in quiet.items() if v})
        os.environ.update({**environ, LAUNCHED: "1", NOTES: notes})
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

        logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            elastic_launch(_config(ranks, max_restarts, notes), sys.executable)("-m", "evalkit.harness", *argv)
        except ChildFailedError as failed:
            return _explain(failed.failures, resumable)
        except SignalException as asked:
            return _asked(asked.sigval, Path(notes), resumable)
        return _asked(signal.SIGTERM, Path(notes), resumable) if (Path(notes) / STOPPED).exists() else 0


def _config(ranks: int, max_restarts: int, notes: str) -> Any:
    """One node, as ``torchrun --standalone`` has it."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    more: dict[str, Any] = {}
    if "shutdown_timeout" in LaunchConfig.__dataclass_fields__:  # torch 2.9 has not got it yet
        more["shutdown_timeout"] = SHUTDOWN_SECONDS
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=max_restarts,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=notes),
        **more,
    )


def _loopback() -> str:
    """gloo asks the name service for its own address unless told; on one node the loopback is enough."""
    return next((name for name in ("lo", "lo0") if Path(f"/sys/class/net/{name}").exists()), "")


def _explain(failures: dict[int, Any], resumable: str) -> int:
    """One message that names the rank and the cause: who wrote last words knows best, else who died first."""
    spoken = [(rank, _words(f)) for rank, f in failures.items()]
    told = [words for _, words in spoken if words is not None]
    said = [words for words in told if words["said"]]
    if said:
        return int(said[0]["code"])
    if told:
        words = min(told, key=lambda w: w["timestamp"])
        print(f"evalkit: {words['message']}", file=sys.stderr)
        return int(words["code"])
    rank, failure = next(iter(failures.items()))  # the agent lists them as it found them
    cause = f"exited with code {failure.exitcode}"
    if failure.exitcode < 0:
        name = failure.signal_name()
        hint = " (the kernel does so when memory runs out)" if name == "SIGKILL" else ""
        cause = f"was ended by {name}{hint}"
    print(f"evalkit: rank {rank} {cause}; {resumable}", file=sys.stderr)
    return 3


def _words(failure: Any) -> dict[str, Any] | None:
    """The last words of a rank, if it is ours that wrote them."""
    message = failure.error_file_data.get("message")
    if not isinstance(message, dict) or "code" not in message.get("extraInfo", {}):
        return None
    extra = message["extraInfo"]
    return {"message": message["message"], "timestamp": int(extra["timestamp"]), **extra}


def _asked(number: signal.Signals, notes: Path, resumable: str) -> int:
    """The job was asked to stop and did: 0 for SIGTERM, because nothing is lost; 130 for Ctrl-C."""
    try:
        booked = json.loads((notes / STOPPED).read_text(encoding="utf-8"))["targets"]
        how_far = f" after {booked:,} targets"
    except (OSError, ValueError):
        how_far = ""
    print(f"evalkit: stopped by {number.name}{how_far}; {resumable}", file=sys.stderr)
    return 130 if number == signal.SIGINT else 0
