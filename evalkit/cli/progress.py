"""Progress of a run: done, score so far, time left; a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from evalkit.units import bits_per_byte

LINE_EVERY = 5.0
"""Seconds between lines when stderr is not a terminal."""


class Progress:
    """Call :meth:`chunk` with each booked chunk."""

    def __init__(self, total_targets: int, quiet: bool = False) -> None:
        self.total, self.quiet = total_targets, quiet
        self.done = self.bytes = 0
        self.base = self.last = 0.0
        self._began = self._spoke = time.perf_counter()
        self._fresh = 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TaskProgressColumn(), BarColumn(None), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("scoring", total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def chunk(self, booked: Any) -> None:
        self.done = booked.hi - 1
        self._fresh += booked.hi - booked.lo
        self.bytes += sum(part.bytes for part in booked.parts)
        self.base += math.fsum(part.nats[0] for part in booked.parts)
        self.last += math.fsum(part.nats[-1] for part in booked.parts)
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=self._figures())
        elif time.perf_counter() - self._spoke >= LINE_EVERY or self.done == self.total:
            self._spoke = time.perf_counter()
            print(
                f"{self.done:,}/{self.total:,} targets  {self._figures()}  {self._left()}", file=sys.stderr, flush=True
            )

    def _figures(self) -> str:
        rate = self._fresh / max(time.perf_counter() - self._began, 1e-9)
        if not self.bytes:
            return f"{rate:,.0f} tok/s"
        base, last = bits_per_byte(self.base, self.bytes), bits_per_byte(self.last, self.bytes)
        return f"base {base:.4f} adapted {last:.4f} bpb  {rate:,.0f} tok/s"

    def _left(self) -> str:
        seconds = (self.total - self.done) * (time.perf_counter() - self._began) / max(self._fresh, 1)
        return f"{seconds:.0f} s left"
