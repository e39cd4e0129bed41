"""Where does a result go the moment it is there?  One JSON file a section; a row that is on disk is not measured again."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.stream.files import write_atomic

SCHEMA = 1
GOOD = ("ok", "absent")
"""A second run takes rows of these states as they are; all others are measured again."""


class Absent(Exception):
    """What a row asks for is not on this machine; the message says what."""


class DeviceLost(Exception):
    """The device answers no call of this process any more: the section goes on in a new one."""


@dataclass(frozen=True)
class Card:
    """One invocation.  ``until`` and ``began``: seconds since the epoch; ``text``: scored, ``data``: trained on."""

    out: Path
    device: str
    smoke: bool
    minutes: float
    began: float
    until: float
    data: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()

    def size(self, real: int, smoke: int) -> int:
        """A number of targets, tokens or repeats: of the run itself, and of the run that only tries the code."""
        return smoke if self.smoke else real


@dataclass
class Sheet:
    """DIR/SECTION.json.  Rows by key, in the order in which they were first measured."""

    card: Card
    section: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""
    made_with: dict[str, Any] = field(default_factory=dict)
    """Rows of another device, torch, text or size do not go into one file with ours."""

    def __post_init__(self) -> None:
        import torch

        from evalkit.models.device import device_name

        device = device_name(self.card.device) or self.card.device
        self.made_with = {"device": device, "torch": torch.__version__, "smoke": self.card.smoke}
        self.made_with["text"] = [Path(name).name for name in self.card.text] or ["the bundled sample"]
        self._take(read(self.path))

    def about(self, what: str) -> None:
        """What the rows are of, where that may change from run to run; those of another thing are dropped."""
        self.made_with["about"] = what
        self.rows = {}
        self._take(read(self.path))

    def _take(self, kept: dict[str, Any]) -> None:
        if kept.get("made_with") == self.made_with:
            self.rows = {row["key"]: row for row in kept["rows"]}

    @property
    def path(self) -> Path:
        return self.card.out / f"{self.section}.json"

    def row(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Measure once and write.  What fails is written with its reason; None when the time is over or it failed before.

        Raises DeviceLost when the failure took the device with it.
        """
        known = self.rows.get(key)
        if known is not None and (known["status"] in GOOD or known["at"] >= self.card.began):
            return known if known["status"] in GOOD else None
        if time.time() > self.card.until:
            return self._put(key, "late", {"why": "no time was left for it"})
        begin = time.perf_counter()
        self._put(key, "under way", {})
        try:
            found = measure()
        except Absent as missing:
            return self._put(key, "absent", {"why": str(missing)})
        except Exception as fault:  # whatever a first contact with a device raises is a result
            where = traceback.extract_tb(fault.__traceback__)[-6:]
            places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in where]
            self._put(key, "failed", {"why": f"{type(fault).__name__}: {str(fault)[:2000]}", "where": places})
            self._still_there()
            return None
        status = found.pop("status", "ok")
        return self._put(key, status, {**found, "took_seconds": round(time.perf_counter() - begin, 4)})

    def _put(self, key: str, status: str, values: dict[str, Any]) -> dict[str, Any]:
        self.rows[key] = {"key": key, "status": status, "at": time.time(), **values}
        self.write()
        return self.rows[key]

    def _still_there(self) -> None:
        import torch

        if self.card.device.startswith("cuda"):
            try:
                torch.cuda.synchronize()
                torch.zeros(1, device=self.card.device).add_(1).item()
            except Exception as fault:
                raise DeviceLost(str(fault)) from None

    def write(self) -> None:
        content = {
            "schema": SCHEMA,
            "section": self.section,
            "made_with": self.made_with,
            "note": self.note,
            "rows": list(self.rows.values()),
        }
        write_atomic(self.path, [json.dumps(content, indent=1).encode(), b"\n"])


def read(path: Path) -> dict[str, Any]:
    """A section's file; empty when it is not there or not whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if found.get("schema") == SCHEMA else {}


def mark(path: Path, why: str) -> None:
    """In the file of a section whose process is gone: what was under way did not end; where nothing was, the section did not."""
    content = read(path) or {"schema": SCHEMA, "section": path.stem, "made_with": {}, "note": "", "rows": []}
    hanging: list[dict[str, Any]] = [row for row in content["rows"] if row["status"] == "under way"]
    if not content["rows"]:
        hanging = [{"key": "the section itself"}]
        content["rows"] = hanging
    for row in hanging:
        row.update(status="failed", why=why, at=time.time())
    if hanging:
        write_atomic(path, [json.dumps(content, indent=1).encode(), b"\n"])
