"""How a run ends when asked to: SIGTERM sets a flag; the run stops at the next safe place."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields ``asked() -> bool``.  Outside the main thread signals cannot be caught: it stays False."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def last_resort(seconds: float, leave: Callable[[], None]) -> None:
    """Call ``leave`` in a thread of its own, ``seconds`` after the first SIGTERM.

    A Python handler waits for the main thread, which may be inside a collective that a dead rank will never join.
    Call once, in the main thread, for the rest of the process's life.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    kept.append(writer)

    def watch() -> None:
        while (got := reader.recv(1)) and got[0] != signal.SIGTERM:
            pass
        timer = threading.Timer(seconds, leave)
        timer.daemon = True
        timer.start()

    threading.Thread(target=watch, name="last-resort", daemon=True).start()


kept: list[socket.socket] = []
"""The writing ends, which must stay open."""
