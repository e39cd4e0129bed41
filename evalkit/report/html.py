"""What does a run look like on one page?  A self-contained HTML file: tables and inline SVG, no script, no network."""

from __future__ import annotations

import itertools
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.report.svg import Series, bar_plot, dot_plot, line_plot
from evalkit.scoring.result import DocumentTable, Result
from evalkit.scoring.scores import read_scores
from evalkit.units import LN2

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:860px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.big{font-size:2rem;font-weight:600}.dim{color:#666}
svg{width:100%;height:auto}.grid{stroke:#e6e6e6}.tick{font-size:11px;fill:#555}.label{font-size:12px;fill:#333}
.span{stroke:#222;stroke-width:1.4}.zero{stroke:#888;stroke-dasharray:4 3}
.legend span{margin-right:1rem;font-size:13px}.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em}
pre{background:#f6f6f6;padding:.7rem;overflow:auto;font-size:12px}.ok{color:#24713c}.bad{color:#a3222f}
"""


def write_report(result: Result, stream: Any) -> Path:
    """Write ``report.html`` into the run's folder.  ``stream``: what was scored (for token classes)."""
    assert result.folder is not None
    path = result.folder / "report.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(render(result, stream), encoding="utf-8")
    temporary.replace(path)
    return path


def render(result: Result, stream: Any) -> str:
    """The page as a string."""
    sections = [
        _summary(result),
        _section("What each stage adds", _stages(result)),
        _section("Along the stream", _along(result, stream)),
        _section("By document length", _by_length(result.documents)),
        _section("By token class", _by_class(result, stream)),
        _section("Where stages act, and whether they are right", _activity(result)),
        _section("Seconds", _seconds(result.run["seconds"])),
        _section("Verdicts", _verdicts(result.run)),
        _section("Settings", _pre(result.run["settings"]) + _pre(result.run["fingerprint"])),
        _section("Environment", _pre(result.run["environment"])),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>evalkit run</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>{"".join(sections)}</body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def _pre(content: Any) -> str:
    return f"<pre>{escape(json.dumps(content, indent=2))}</pre>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """First column left, the others right."""
    cells = "".join(f'<th class="{"n" if i else ""}">{escape(h)}</th>' for i, h in enumerate(head))
    lines = (
        "<tr>" + "".join(f'<td class="{"n" if i else ""}">{escape(c)}</td>' for i, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{cells}</tr>{''.join(lines)}</table>"


def _summary(result: Result) -> str:
    run, totals = result.run, result.run["totals"]
    state = "" if run["complete"] else '<p class="bad">Incomplete: the run was stopped before its last target.</p>'
    if totals["bpb"] is None:
        return f"<h1>evalkit run</h1>{state}<p>No byte was scored.</p>"
    gain = totals["bpb"] - totals["base_bpb"]
    return (
        f'<h1>evalkit run</h1>{state}<p><span class="big">{totals["bpb"]:.4f}</span> bits per byte'
        f" &nbsp; base {totals['base_bpb']:.4f} &nbsp; difference {gain:+.4f}</p>"
        f'<p class="dim">{totals["targets"]:,} targets, {totals["bytes"]:,} bytes (from the {escape(run["bytes_from"])}), '
        f"{run['documents']:,} documents; plan {escape(run['settings']['plan']['name'])}; "
        f"{run['seconds']['wall']:.1f} s on {escape(run['environment']['device'])}, {run['world_size']} rank(s)</p>"
    )


def _stages(result: Result) -> str:
    stages, base = result.run["stages"], result.run["totals"]["base_bpb"]
    if not stages:
        return "<p>The base alone: no adapters.</p>"
    rows = [["base", f"{base:.5f}", "", ""]]
    for stage in stages:
        ci = stage["ci95"]
        span = f"{ci[0]:+.5f} .. {ci[1]:+.5f}" if ci else "one document"
        rows.append([stage["adapter"], f"{stage['bpb']:.5f}", f"{stage['delta_bpb']:+.5f}", span])
    names, deltas = [s["adapter"] for s in stages], [s["delta_bpb"] for s in stages]
    plot = bar_plot(names, deltas, "step in BPB (less is better)", [s["ci95"] for s in stages])
    return _table(["stage", "BPB", "step", "95 % interval, paired by document"], rows) + plot


def _scores(result: Result) -> np.ndarray | None:
    path = result.folder / "scores.f64" if result.folder else None
    scores = read_scores(path, len(result.stage_names)) if path is not None and path.exists() else None
    return scores if scores is not None and len(scores) else None


def _along(result: Result, stream: Any, points: int = 60) -> str:
    scores = _scores(result)
    if scores is None:
        return "<p>Scores of single targets were not kept.</p>"
    edges = np.unique(np.linspace(0, len(scores), min(points, len(scores)) + 1).astype(int))
    sizes = np.array([stream.target_bytes(a + 1, b + 1).sum() for a, b in itertools.pairwise(edges)])
    middle = ((edges[:-1] + edges[1:]) / 2).tolist()
    curves = []
    for s, name in enumerate(result.stage_names):
        nats = np.add.reduceat(scores[:, s], edges[:-1])
        curves.append(Series(name, middle, [n / LN2 / z if z else None for n, z in zip(nats, sizes, strict=True)]))
    return line_plot(curves, "target", "BPB of the neighbourhood")


def _by_length(table: DocumentTable) -> str:
    keep = table.bytes > 0
    if keep.sum() < 2:
        return ""
    gain = (table.nats[keep, -1] - table.nats[keep, 0]) / LN2 / table.bytes[keep]
    pick = np.linspace(0, len(gain) - 1, min(len(gain), 2000)).astype(int)
    x = np.log10(table.bytes[keep][pick]).tolist()
    return dot_plot(x, gain[pick].tolist(), "document length, log10 bytes", "BPB against base")


def _by_class(result: Result, stream: Any) -> str:
    scores = _scores(result)
    if scores is None:
        return ""
    tokens = np.asarray(stream.tokens[1 : len(scores) + 1]).astype(np.int64)
    rows, taken = [], np.zeros(len(tokens), dtype=bool)
    groups = {
        **stream.tokenizer.pieces.groups,
        "inside a word, other": np.ones(stream.tokenizer.vocab_size, dtype=bool),
    }
    for name, mask in groups.items():
        member = np.asarray(mask)[np.minimum(tokens, len(mask) - 1)] & ~taken
        taken |= member
        if not member.any():
            continue
        base, last = scores[member, 0].mean(), scores[member, -1].mean()
        share = f"{100 * member.mean():.1f} %"
        rows.append([name.replace("_", " "), share, f"{base:.4f}", f"{last:.4f}", f"{last - base:+.4f}"])
    return _table(["class of the target", "share", "base, nats/token", "adapted", "difference"], rows)


def _activity(result: Result) -> str:
    scores = _scores(result)
    if scores is None or scores.shape[1] < 2:
        return ""
    rows = []
    for s, name in enumerate(result.stage_names[1:], start=1):
        step = np.asarray(scores[:, s]) - np.asarray(scores[:, s - 1])
        better, worse = step < -0.01, step > 0.01
        acts = better | worse
        right = better.sum() / max(acts.sum(), 1)
        rows.append(
            [
                name,
                f"{100 * acts.mean():.1f} %",
                f"{100 * right:.1f} %",
                f"{step[better].sum():+,.0f}",
                f"{step[worse].sum():+,.0f}",
            ]
        )
    note = '<p class="dim">A stage acts on a target when it moves its score by more than 0.01 nats.</p>'
    return _table(["stage", "acts on", "better when acting", "nats won", "nats lost"], rows) + note


def _seconds(seconds: dict[str, float]) -> str:
    spans = {k: v for k, v in seconds.items() if k != "wall"}
    return bar_plot(list(spans), list(spans.values()), "seconds")


def _verdicts(run: dict[str, Any]) -> str:
    sentinel = run["verdicts"].get("sentinel", {})
    if not sentinel.get("on"):
        return '<p class="bad">The sentinel was switched off.</p>'
    return (
        f'<p class="ok">Sentinel: {sentinel["rows"]} whole rows looked at with the target withheld; largest |1 - sum| '
        f"{sentinel['worst']:.3g}; every booked score equal to its row.</p>"
    )
