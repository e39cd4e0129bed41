"""The base of trackers: a dashboard follows a run and never harms it.

A tracker has four calls.  One that raises is reported once and dropped: a dashboard must never stop a measurement, and
no measurement depends on one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from evalkit.errors import InputError, nearest
from evalkit.settings import make_settings, split_spec
from evalkit.units import bits_per_byte

BUILT_IN = {name: f"evalkit.report.trackers.{name}:Tracker" for name in ("tensorboard", "wandb", "trackio")}
ROWS = 10_000
"""Rows of a table that are sent, at most."""


class Tracker(Protocol):
    """One dashboard.  ``package``: what must be installed; ``settings``: the struct behind ``NAME:key=value``."""

    package: ClassVar[str]

    def __init__(self, settings: Any) -> None: ...

    def start(self, settings: dict[str, Any]) -> None:
        """Open a run; ``settings``: everything the run was asked to do."""
        ...

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """``step``: targets booked so far."""
        ...

    def table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Rows with the same keys."""
        ...

    def finish(self, totals: dict[str, Any] | None) -> None:
        """Close; ``totals``: those of run.json, or None when the run did not get that far."""
        ...


def open_trackers(specs: Sequence[str], say: Callable[[str], None]) -> Trackers:
    """``NAME[:key=value,...]`` each.  InputError for an unknown name or setting, or a package that is missing."""
    return Trackers([(split_spec(spec)[0], _open(spec)) for spec in specs], say)


def _open(spec: str) -> Tracker:
    name, raw = split_spec(spec)
    if name not in BUILT_IN:
        raise InputError(f"no tracker is called '{name}'{nearest(name, BUILT_IN)}")
    module = importlib.import_module(BUILT_IN[name].partition(":")[0])
    settings = make_settings(module.Settings, raw, f"tracker {name}")
    if importlib.util.find_spec(module.Tracker.package) is None:
        package = module.Tracker.package
        raise InputError(
            f"tracker {name}: the package {package} is not installed; install it with: pip install {package}"
        )
    return module.Tracker(settings)


class Trackers:
    """Those that still work, followed from start to finish; a context that closes them however the run ends."""

    def __init__(self, named: list[tuple[str, Tracker]], say: Callable[[str], None]) -> None:
        self._named, self._say = named, say
        self._known: set[int] = set()
        self._nats, self._bytes, self._targets = [0.0, 0.0], 0, 0
        self._began = time.perf_counter()
        self._finished = False

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._each(lambda tracker: tracker.finish(None))

    def start(self, settings: dict[str, Any], out: str | None = None) -> None:
        """Tell them the settings; chunks that an earlier process booked in ``out`` count towards the running rates."""
        if not self._named:
            return
        self._each(lambda tracker: tracker.start({**settings, "out": out}))
        for booked in _booked(out):
            self._add(booked)
        self._targets, self._began = 0, time.perf_counter()

    def chunk(self, booked: Any) -> None:
        """Send the running rates after a booked chunk."""
        if not self._named:
            return
        self._add(booked)
        numbers = {"targets_per_second": self._targets / max(time.perf_counter() - self._began, 1e-9)}
        if self._bytes:
            base, last = (bits_per_byte(nats, self._bytes) for nats in self._nats)
            numbers |= {"bpb_base": base, "bpb": last, "bpb_difference": last - base}
        size = sum(part.bytes for part in booked.parts)
        if size:
            numbers["bpb_chunk"] = bits_per_byte(math.fsum(part.nats[-1] for part in booked.parts), size)
        self._each(lambda tracker: tracker.log(booked.hi - 1, numbers))

    def finish(self, result: Any) -> None:
        """Send stages, documents and totals."""
        if not self._named:
            return
        self._finished = True
        stages = [{"adapter": s.adapter, "bpb": s.bpb, "delta_bpb": s.delta_bpb} for s in result.record.stages]
        for name, rows in (("stages", stages), ("documents", _documents(result))):
            if rows:
                self._each(lambda tracker, name=name, rows=rows: tracker.table(name, rows))
        self._each(lambda tracker: tracker.finish(result.run["totals"]))

    def _add(self, booked: Any) -> None:
        """A chunk that is replayed after a resume was counted when the journal was read."""
        self._targets += booked.hi - booked.lo
        if booked.index in self._known:
            return
        self._known.add(booked.index)
        self._bytes += sum(part.bytes for part in booked.parts)
        self._nats[0] += math.fsum(part.nats[0] for part in booked.parts)
        self._nats[1] += math.fsum(part.nats[-1] for part in booked.parts)

    def _each(self, call: Callable[[Tracker], None]) -> None:
        working = []
        for name, tracker in self._named:
            try:
                with contextlib.redirect_stdout(sys.stderr):  # stdout is the result's
                    call(tracker)
            except (Exception, SystemExit) as fault:  # whatever it is, the run goes on
                line = (str(fault).strip() or "no message").splitlines()[0][:200]
                self._say(f"tracker {name} failed and is dropped ({type(fault).__name__}: {line}); the run goes on")
            else:
                working.append((name, tracker))
        self._named = working


def _booked(out: str | None) -> list[Any]:
    """Chunks in the journal; what is wrong with it is for the run itself to say."""
    from evalkit.scoring.journal import read_journal

    path = Path(out) / "journal.jsonl" if out else None
    try:
        return read_journal(path)[1] if path is not None and path.exists() else []
    except (InputError, OSError):
        return []


def _documents(result: Any) -> list[dict[str, Any]]:
    table = result.documents
    columns = {"document": table.doc, "bytes": table.bytes, "targets": table.targets}
    columns |= {"nats_base": table.nats[:, 0], "nats": table.nats[:, -1]}
    return [
        dict(zip(columns, row, strict=True)) for row in zip(*(c[:ROWS].tolist() for c in columns.values()), strict=True)
    ]
