"""Does the audit tell every specimen from every look-alike?  One row for each: expected, found, law, probes, seconds."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evalkit.legality.effort import DEFAULT_SECONDS, QUICK, Effort
from evalkit.legality.referee import audit
from evalkit.legality.target import Specimen, open_target
from evalkit.legality.verdict import Verdict
from tests.zoo.registry import every_target

Row = dict[str, Any]


def right(specimen: Specimen, expected: str, verdict: Verdict) -> bool:
    """Was the law named that the catalogue names, and none that the specimen leaves whole?"""
    found = verdict.violated()
    if not expected:
        return verdict.verdict == "legal"
    return verdict.verdict == "violation" and expected in found and found <= {expected, *specimen.also}


def examine(
    name: str, *, seed: int = 0, effort: Effort | None = QUICK, seconds: float = DEFAULT_SECONDS
) -> tuple[Row, Verdict]:
    """Audit one target of the zoo, with its own ruleset."""
    target = open_target(f"zoo:{name}")
    assert target.specimen is not None
    assert target.expected is not None
    verdict = audit(
        target.box,
        target=target.name,
        ruleset=target.ruleset or "strict",
        effort=effort,
        seconds=seconds,
        seed=seed,
        tokens=target.tokens,
    )
    row = {
        "specimen": name,
        "title": target.specimen.title,
        "expected": target.expected or "legal",
        "found": verdict.verdict,
        "laws": sorted(verdict.violated()),
        "right": right(target.specimen, target.expected, verdict),
        "probes": verdict.calls,
        "seconds": verdict.seconds,
        "seed": seed,
    }
    return row, verdict


def sweep(
    names: Iterable[str] | None = None,
    *,
    seed: int = 0,
    seconds: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Row]:
    """Audit every specimen, fix and look-alike, our own adapters too; ``tell`` hears of each as it is done."""
    rows = []
    for name in names or every_target(own=True):
        effort = QUICK if seconds is None else None
        row, _ = examine(name, seed=seed, effort=effort, seconds=seconds or DEFAULT_SECONDS)
        rows.append(row)
        if tell is not None:
            tell(f"{name:8s} {row['found']:12s} {','.join(row['laws']):40s} {row['seconds']:6.2f} s")
    return rows


def totals(rows: list[Row]) -> Row:
    """Specimens caught and false alarms, over all rows."""
    bad = [r for r in rows if r["expected"] != "legal"]
    good = [r for r in rows if r["expected"] == "legal"]
    return {
        "violations": len(bad),
        "caught": sum(r["right"] for r in bad),
        "legal": len(good),
        "false_alarms": sum(not r["right"] for r in good),
        "seconds": round(sum(r["seconds"] for r in rows), 2),
    }


def to_json(rows: list[Row]) -> str:
    return json.dumps({"schema": 1, "totals": totals(rows), "environment": made_on(), "rows": rows}, indent=1)


def made_on() -> Row:
    """Machine, versions and command line, for a figure that somebody may want to make again."""
    versions = {name: version(name) for name in ("evalkit", "numpy", "torch")}
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {**machine, **versions, "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}


def print_table(rows: list[Row]) -> None:
    """The table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for column in ("specimen", "what it is", "expected", "found", "laws", "probes", "seconds"):
        table.add_column(column, justify="right" if column in ("probes", "seconds") else "left", no_wrap=True)
    for r in rows:
        style = "" if r["right"] else "bold red"
        cells = (r["specimen"], r["title"], r["expected"], r["found"], ", ".join(r["laws"]))
        table.add_row(*cells, str(r["probes"]), f"{r['seconds']:.2f}", style=style)
    console, sums = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160), totals(rows)
    console.print(table)
    console.print(
        f"{sums['caught']} of {sums['violations']} violations caught by the right law, {sums['false_alarms']} false alarms "
        f"on {sums['legal']} legal scorers, {sums['seconds']:.0f} s"
    )
