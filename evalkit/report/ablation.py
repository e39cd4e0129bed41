"""What each adapter of a stack brings: the stack against itself with one adapter left out, paired by document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from evalkit.report.svg import bar_plot
from evalkit.report.terminal import plain_table
from evalkit.scoring.statistics import paired_interval
from evalkit.units import bits_per_byte, total_nats

SCHEMA = 1
HEAD = ("stack", "BPB", "lost without it", "95 % interval", "seconds", "verdict")
NAMESPACED = '<svg xmlns="http://www.w3.org/2000/svg" '
STYLE = (
    "text{font:12px sans-serif;fill:#222}.tick,.label{font-size:11px;fill:#555}"
    ".axis{stroke:#888}.span{stroke:#222;stroke-width:1.2;fill:none}"
)


def ablation(full: Any, without: Sequence[tuple[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Results of the full stack and of the stack without each adapter -> rows in stack order.

    ``lost_bpb`` is what leaving the adapter out costs (positive: the adapter helps), with a 95 % interval over
    documents; both runs scored the same targets with the same windows.
    """
    size = full.documents.bytes.astype(np.float64)
    total, last = int(size.sum()), full.documents.nats[:, -1]
    rows = []
    for name, result in without:
        delta = result.documents.nats[:, -1] - last
        interval = paired_interval(delta, size, seed) if total else None
        rows.append(
            {
                "without": name,
                "bpb": result.bpb,
                "lost_bpb": bits_per_byte(total_nats(delta), total) if total else None,
                "ci95": list(interval) if interval else None,
                "verdict": _verdict(interval),
                "seconds": _seconds(result),
            }
        )
    return {
        "schema": SCHEMA,
        "settings": full.record.settings,
        "totals": msgspec.to_builtins(full.record.totals),
        "documents": full.record.documents,
        "full": {"bpb": full.bpb, "base_bpb": full.base_bpb, "seconds": _seconds(full)},
        "rows": rows,
    }


def _verdict(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "one document"
    if interval[0] > 0:
        return "helps"
    return "hurts" if interval[1] < 0 else "cannot be told apart"


def _seconds(result: Any) -> float:
    """Wall seconds of the run, without the passes that score the base beside learners."""
    seconds = result.record.seconds
    return seconds["wall"] - seconds.get("base", 0.0)


def ablation_table(found: dict[str, Any]) -> str:
    """What the user reads."""
    full = found["full"]
    rows = [
        ("base", f"{full['base_bpb']:.5f}", "", "", "", ""),
        ("full stack", f"{full['bpb']:.5f}", "", "", f"{full['seconds']:.1f}", ""),
    ]
    for row in found["rows"]:
        span = row["ci95"]
        interval = f"{span[0]:+.5f} .. {span[1]:+.5f}" if span else "-"
        lost, spent = f"{row['lost_bpb']:+.5f}", f"{row['seconds']:.1f}"
        rows.append((f"without {row['without']}", f"{row['bpb']:.5f}", lost, interval, spent, row["verdict"]))
    totals = found["totals"]
    tail = f"{totals['targets']:,} targets, {totals['bytes']:,} bytes, {found['documents']:,} documents\n"
    return plain_table(HEAD, rows) + tail


def ablation_svg(found: dict[str, Any]) -> str:
    """A file of its own: one bar per adapter, what leaving it out costs, with its interval."""
    rows = found["rows"]
    plot = bar_plot(
        [row["without"] for row in rows],
        [row["lost_bpb"] for row in rows],
        "BPB lost when the adapter is left out (right of zero: it helps), 95 % interval over documents",
        [row["ci95"] for row in rows],
    )
    if not plot.startswith("<svg "):
        plot = "<svg ></svg>"
    head, _, rest = plot.partition(">")
    return f"{head.replace('<svg ', NAMESPACED, 1)}><style>{STYLE}</style>{rest}\n"
