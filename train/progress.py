"""Progress of training, one line per report: loss, BPB, tokens per second, MFU, time left."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO


@dataclass
class Log:
    """Progress lines: to the terminal and, without times of day or paths, to DIR/train.log.  Other ranks are silent."""

    path: Path
    echo: TextIO = field(default_factory=lambda: sys.stderr)
    silent: bool = False

    def say(self, line: str) -> None:
        if self.silent:
            return
        print(line, file=self.echo, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class Pace:
    """What the clock says of the steps of this process since ``run`` began."""

    tokens: int
    seconds: float
    flops: float
    """Arithmetic done in ``seconds``, all ranks together."""
    peak: float | None
    """Of all ranks together, FLOP/s; None when the device's is not known."""

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation, 0..1."""
        return self.flops / max(self.seconds, 1e-9) / self.peak if self.peak else None

    def words(self) -> str:
        if self.mfu is not None:
            return f"{self.rate:.0f} tok/s  MFU {100 * self.mfu:.1f} %"
        return f"{self.rate:.0f} tok/s  {self.flops / max(self.seconds, 1e-9) / 1e9:.0f} GFLOP/s"
