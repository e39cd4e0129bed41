"""How does a run end when it is asked to?  SIGTERM sets a flag; the run stops at the next safe place."""

from __future__ import annotations

import signal
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
