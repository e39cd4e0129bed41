"""Run ``evalkit eval`` in children that kill themselves in the middle of a training step; stdin: a list of cases.

A case is {"argv": [...], "step": "module:Class.method", "tensor": ".name of self, or 0: the first argument",
"at": n, "note": FILE}.  At the n-th call half of the tensor has moved when SIGKILL comes; FILE says how much of it, and how
many chunks the journal held.  The children are forked after the imports, so that a case costs no start of Python.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from evalkit.cli.main import main
from evalkit.scoring import loop


def arm(case: dict[str, Any]) -> None:
    """Put a step in place of the real one that dies at its ``at``-th call."""
    module, _, path = case["step"].partition(":")
    owner, name = path.split(".")
    cls = getattr(importlib.import_module(module), owner)
    real, calls = getattr(cls, name), [0]

    def step(self: Any, *args: Any) -> Any:
        calls[0] += 1
        moving = args[0] if case["tensor"] == 0 else getattr(self, case["tensor"])
        before = moving.clone()
        result = real(self, *args)
        if calls[0] == case["at"]:
            with torch.no_grad():
                flat, half = moving.view(-1), moving.numel() // 2
                flat[half:] = before.view(-1)[half:]
            note = {"moved": int((moving != before).sum()), "of": moving.numel()}
            Path(case["note"]).write_text(json.dumps(note), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(cls, name, step)


def die(case: dict[str, Any]) -> int:
    """The signal that ended a child, or minus its exit code."""
    child = os.fork()
    if not child:
        arm(case)
        os._exit(main(case["argv"]))
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    loop.SNAPSHOT_SECONDS = loop.SNAPSHOT_SHARE = 0.0  # a snapshot after every chunk
    print(json.dumps([die(case) for case in json.load(sys.stdin)]))
