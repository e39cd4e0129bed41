"""How a rank says why it stopped, so that one message names the rank and the cause.

torchrun gives every rank a file for its last words (``TORCHELASTIC_ERROR_FILE``).  The rank that knows the cause writes
there; the launcher reads all of them and prints one sentence.  Without our launcher, torchrun shows the same file.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from evalkit.errors import DivergenceError, EvalkitError, InputError, NoError
from evalkit.stream.files import write_atomic

LAUNCHED = "EVALKIT_LAUNCHED"
"""Set by our launcher: it speaks for the job, ranks write their words down."""

NOTES = "EVALKIT_NOTES"
"""A folder of our launcher, for what is no failure."""

STOPPED = "stopped.json"

GONE = "rank {} is gone; the same command with the same --out goes on from the journal"

GRACE = 5.0
"""Seconds that a rank which lost another waits to be stopped by torchrun, before it speaks itself."""


class RankFailed(EvalkitError):
    """Another rank could not go on; the sentence names it."""

    def __init__(self, message: str, exit_code: int = 3) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def last_words(message: str, code: int, said: bool = False) -> None:
    """Write the error file, once: the first cause is the true one.  ``said``: the user has read it already."""
    name = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not name or Path(name).exists():
        return
    extra = {"timestamp": str(int(time.time())), "py_callstack": message, "code": code, "said": said}
    write_atomic(name, json.dumps({"message": {"message": message, "extraInfo": extra}}).encode())


def note_stop(targets: int) -> None:
    """Tell the launcher how far a run came that was asked to stop."""
    folder = os.environ.get(NOTES)
    if folder:
        (Path(folder) / STOPPED).write_text(json.dumps({"targets": targets}), encoding="utf-8")


def leave(message: str, code: int) -> None:
    """Stop this process at once, whatever its other threads wait for."""
    last_words(message, code)
    if not os.environ.get(LAUNCHED):
        print(f"evalkit: {message}", file=sys.stderr, flush=True)
    os._exit(code)


def leave_unless_stopped(message: str, code: int, seconds: float = GRACE) -> threading.Timer:
    """:func:`leave` after ``seconds``, unless the process ended before: the main thread may be stuck in a collective."""
    timer = threading.Timer(seconds, leave, (message, code))
    timer.daemon = True
    timer.start()
    return timer


def sentence(fault: BaseException, rank: int, place: str) -> tuple[str, int]:
    """(what to tell the user, exit code) for an exception on a rank.  ``place``: what the rank was doing."""
    if isinstance(fault, EvalkitError):
        return str(fault), fault.exit_code
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError":
        return f"rank {rank} ran out of memory ({place}); lower --batch-tokens, or use fewer ranks on this machine", 2
    first = (str(fault).splitlines() or [""])[0]
    return f"rank {rank} failed ({place}) with {type(fault).__name__}: {first}", 3


def breaks_a_line(fault: BaseException) -> bool:
    """True for what a collective raises when another rank is gone: that rank is the cause, not this one."""
    if not isinstance(fault, RuntimeError):
        return False
    words = ("connection", "gloo", "nccl", "socket", "peer", "store")
    return any(word in str(fault).lower() for word in words)


def pack_fault(fault: BaseException, rank: int, place: str) -> dict[str, Any]:
    """An exception as values for the wire."""
    message, code = sentence(fault, rank, place)
    return {"message": message, "code": code, "diverged": isinstance(fault, DivergenceError)}


def unpack_fault(values: dict[str, Any]) -> EvalkitError:
    """The same kind of failure, to be raised by the sequencer when the stream gets there."""
    message, code = str(values["message"]), int(values["code"])
    if values.get("diverged"):
        return DivergenceError(message)
    kinds: dict[int, type[EvalkitError]] = {1: NoError, 2: InputError}
    return kinds[code](message) if code in kinds else RankFailed(message, code)
