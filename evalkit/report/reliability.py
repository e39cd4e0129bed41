"""Calibration on the page: when a stage said 10 %, did it happen one time in ten?  From the rows that the sentinel looked at."""

from __future__ import annotations

import math
from typing import Any

from evalkit.report.elements import note, table
from evalkit.report.svg import Points, ratio_plot
from evalkit.scoring.result import RunRecord

Z = 1.96
FEW_ROWS = 100
MOST = 3.0
"""Top of the plot."""
LEAST_EXPECTED = 1.0
"""A band is drawn when at least this many targets should fall into it."""


def reliability(run: RunRecord) -> str:
    """Plot of model and last stage, table of the last stage."""
    sentinel = run.verdicts.get("sentinel", {})
    found = sentinel.get("calibration")
    if not found:
        return ""
    first, last = found["stages"][0], found["stages"][-1]
    name = "base" if len(found["stages"]) == len(run.stages) + 1 else "adapted model"
    chosen = [(name, first)] if len(found["stages"]) == 1 else [(name, first), ("adapted", last)]
    clouds = [_points(n, s) for n, s in chosen]
    plot = ratio_plot(clouds, "probability told", "came true / should have", MOST)
    rows = [_row(found["edges"], last, band) for band in range(len(last["hits"])) if last["entries"][band]]
    head = ["probability told", "entries", "should come true", "95 % range", "came true", "z"]
    return plot + table(head, rows) + note(_words(sentinel["rows"]))


def _words(rows: int) -> str:
    few = " So few rows show gross faults only." if rows < FEW_ROWS else ""
    return (
        f"Counted over every entry of {rows:,} whole rows, fixed before their target was known.{few} The range is what a "
        "calibrated stage shows by chance in 95 of 100 cases; above 1 it is too timid, below 1 too bold. The table is of "
        "the last stage."
    )


def _points(name: str, stage: dict[str, Any]) -> Points:
    x, y, spans = [], [], []
    columns = (stage["entries"], stage["expected"], stage["variance"], stage["hits"])
    for entries, expected, variance, hits in zip(*columns, strict=True):
        if expected < LEAST_EXPECTED:
            continue
        ratio, spread = hits / expected, Z * math.sqrt(variance) / expected
        x.append(expected / entries)
        y.append(ratio)
        spans.append((ratio - spread, ratio + spread))
    return Points(name, x, y, spans)


def _row(edges: list[float], stage: dict[str, Any], band: int) -> list[str]:
    expected, spread = stage["expected"][band], Z * math.sqrt(stage["variance"][band])
    low = f"{edges[band - 1]:g}" if band else "0"
    high = f"{edges[band]:g}" if band < len(edges) else "1"
    hits = stage["hits"][band]
    z = f"{Z * (hits - expected) / spread:+.1f}" if expected >= LEAST_EXPECTED and spread > 0 else ""
    span = f"{max(expected - spread, 0):.1f} .. {expected + spread:.1f}"
    return [f"{low} .. {high}", f"{stage['entries'][band]:,}", f"{expected:.1f}", span, f"{hits:,}", z]
