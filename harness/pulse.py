"""Heartbeats: each rank writes one with what it does, and watches the next rank in a ring.

A killed rank is noticed by torchrun and by its connections.  A stopped one (SIGSTOP, a frozen machine) is not: its
heart stands still, and the rank before it in the ring says so and ends it, so that torchrun can stop the job.
Heartbeats lie in torchrun's store; the thread has a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any

from evalkit.harness.faults import last_words, leave

BEAT = 1.0
"""Seconds between heartbeats, at most; a quarter of the limit when that is shorter."""


class Pulse:
    """``hang_seconds``: a heart that stands still so long is a hung rank.  ``stuck_seconds``: one that beats while its
    work does not move."""

    def __init__(self, store: Any, rank: int, size: int, hang_seconds: float, stuck_seconds: float) -> None:
        self.rank, self.size = rank, size
        self._store = store.clone() if store is not None and size > 1 else None
        self._hang, self._stuck = hang_seconds, stuck_seconds
        self._place, self._since = "starting", time.monotonic()
        self._ended = threading.Event()
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> Pulse:
        self._thread.start()
        return self

    def at(self, place: str) -> None:
        """Say what this rank does now; "" when it waits for others."""
        self._place, self._since = place, time.monotonic()

    @property
    def place(self) -> str:
        return self._place

    def stop(self) -> None:
        """Tell the watcher that this rank ends as it should."""
        self._ended.set()
        self._thread.join(5 * BEAT)

    def _run(self) -> None:
        beat, count = min(BEAT, self._hang / 4), 0
        watch = _Watch(self._hang)
        while not self._ended.is_set():
            count += 1
            began = time.monotonic()
            try:
                self._write(f"{count}|{os.getpid()}|{socket.gethostname()}|{self._place}")
                self._look_at_next(watch, began)
            except Exception as fault:  # the store is gone, and the job with it
                self._store_gone(fault)
            self._check_own()
            self._ended.wait(beat)
        with contextlib.suppress(Exception):
            self._write("ended")

    def _write(self, text: str) -> None:
        if self._store is not None:
            self._store.set(f"pulse/{self.rank}", text)

    def _look_at_next(self, watch: _Watch, now: float) -> None:
        other = (self.rank + 1) % self.size
        if self._store is None or not self._store.check([f"pulse/{other}"]):
            return
        seen = self._store.get(f"pulse/{other}").decode()
        if seen == "ended" or not watch.stale(seen, now):
            return
        _, pid, host, place = seen.split("|", 3)
        message = (
            f"rank {other} has hung: no heartbeat for {self._hang:g} s, it was last seen at: {place or 'waiting'}; "
            "the same command with the same --out goes on from the journal"
        )
        last_words(message, 3)
        if host == socket.gethostname():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)
        leave(message, 3)

    def _check_own(self) -> None:
        if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != self._parent:
            os._exit(3)
        if self._place and time.monotonic() - self._since > self._stuck:
            leave(
                f"rank {self.rank} has been at the same work for {self._stuck:g} s ({self._place}); "
                "if that work is honest, raise stuck_seconds in the recipe",
                3,
            )

    def _store_gone(self, fault: Exception) -> None:
        if self._ended.wait(1.0):
            return
        leave(f"rank {self.rank} lost the store of torchrun ({type(fault).__name__}): its launcher or node is gone", 3)


class _Watch:
    """Remembers when a heartbeat last changed, by our own clock."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._seen, self._changed, self._looked = "", 0.0, 0.0

    def stale(self, seen: str, now: float) -> bool:
        """True when ``seen`` has not changed for the limit.  If we slept ourselves, the clock starts again."""
        slept = self._looked > 0 and now - self._looked > self._limit / 2
        self._looked = now
        if seen != self._seen or slept:
            self._seen, self._changed = seen, now
        return now - self._changed > self._limit
