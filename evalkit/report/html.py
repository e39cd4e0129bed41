"""A run on one page: a self-contained HTML file of tables and inline SVG, no script, no network."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from evalkit.report.breakdown import by_class, by_document, by_length
from evalkit.report.circumstances import environment, seconds, settings, verdicts
from evalkit.report.digest import digest
from evalkit.report.elements import cut, note, section
from evalkit.report.reliability import reliability
from evalkit.report.stages import activity, along, contributions, stage_labels
from evalkit.report.words import Columns, extremes, looked_at
from evalkit.scoring.result import Result, RunRecord
from evalkit.scoring.scores import read_scores
from evalkit.stream.files import write_atomic
from evalkit.units import LN2

STYLE = """
body{font:15px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif;color:#1b1b1b;background:#fff;max-width:860px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem;padding-bottom:.2rem;border-bottom:1px solid #ccc}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0 .8rem}
td,th{padding:.2rem 1.1rem .2rem 0;text-align:left;vertical-align:top}td:last-child,th:last-child{padding-right:0}
th{font-weight:600;border-bottom:1px solid #ccc}
tbody tr+tr td{border-top:1px solid #eee}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.facts td:first-child{color:#444;white-space:nowrap}.facts td{overflow-wrap:anywhere;font-size:13px}
.big{font-size:2.1rem;font-weight:600}.dim{color:#555;font-size:13.5px}.ok{color:#1d6435}.bad{color:#97202c}
svg{width:100%;height:auto;display:block;margin:.4rem 0}svg text{fill:#222}.tick{font-size:11px}.label{font-size:12px}
.name{font-size:12px}.grid{stroke:#e4e4e4}.axis{stroke:#555}.span{stroke:#1b1b1b;stroke-width:1.3;fill:none}
.zero{stroke:#777;stroke-dasharray:4 3;fill:none}.legend{font-size:13px;margin:0 0 .8rem 3.5rem}
.legend span{margin-right:1.1rem;white-space:nowrap}svg.key{display:inline;width:22px;margin-right:.35rem}
pre{background:#f4f4f4;padding:.6rem;white-space:pre-wrap;word-break:break-all}.warn{color:#8a5a00}
details{margin:.5rem 0}summary{cursor:pointer;color:#333}
.words{overflow-wrap:anywhere;white-space:pre-wrap}.words span{border-radius:2px}
.w1{background:#e3eefa}.w2{background:#bcd8f5}.w3{background:#85b8ee}.w4{background:#4a95e0}
.l1{background:#fdeedd}.l2{background:#fbd5a8}.l3{background:#f7b46a}.l4{background:#ee8f2d}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""For the browser: whatever a document's name may hold, nothing is fetched and nothing runs."""


def write_report(result: Result, stream: Any) -> Path:
    """Write ``report.html`` into the run's folder, whole or not at all.  ``stream``: what was scored."""
    assert result.folder is not None
    path = result.folder / "report.html"
    write_atomic(path, render(result, stream).encode(errors="backslashreplace"))
    return path


def render(result: Result, stream: Any) -> str:
    """The page as a string."""
    run = result.record
    title = f"evalkit: {run.totals.bpb:.4f} BPB" if run.totals.bpb is not None else "evalkit: nothing booked"
    body = "".join(
        [
            _summary(result),
            *_scored(result, stream),
            section("Verdicts", verdicts(run)),
            section("Seconds", seconds(run)),
            section("Settings", settings(run)),
            section("Environment", environment(run)),
        ]
    )
    return page(title, body)


def page(title: str, body: str) -> str:
    """``body`` as a whole document that fetches nothing and runs nothing."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _scored(result: Result, stream: Any) -> list[str]:
    """Sections that need at least one byte; those below the first three need the scores of single targets too."""
    if result.record.totals.bpb is None:
        return []
    found, many = digest(result, stream), len(result.stage_names) > 1
    parts = [section("What each stage adds", contributions(result))]
    kept = note("Scores of single targets were not kept (scores.f64), so the page has no more to say here.")
    parts.append(section("Along the stream", along(result, found) if found else kept))
    parts.append(section("Calibration", reliability(result.record)))
    if many:
        parts.append(section("By document length", by_length(result.documents, result.record.settings["seed"])))
        parts.append(section("Documents that gained most, and least", by_document(result, list(stream.doc_names))))
    if found and many:
        parts.append(section("What was learned, word by word", _words(result, stream)))
    if found:
        parts.append(section("By class of token", by_class(found)))
        parts.append(section("Where stages act, and whether they are right", activity(result, found)))
    return parts


def _words(result: Result, stream: Any) -> str:
    """Documents that gained and lost most."""
    assert result.folder is not None
    docs, last = result.documents, len(result.stage_names) - 1
    scores = read_scores(result.folder / "scores.f64", last + 1)
    bits = (docs.nats[:, -1] - docs.nats[:, 0]) / LN2
    chosen = extremes(bits)
    titles = [
        f"{stream.doc_names[docs.doc[i]][:80]}: {bits[i]:+,.0f} bits over {docs.bytes[i]:,} bytes" for i in chosen
    ]
    columns = Columns(tuple(stage_labels(result)), (scores,), 0, last)
    return looked_at(stream, columns, [int(docs.doc[i]) for i in chosen], titles)


def _summary(result: Result) -> str:
    run, totals = result.record, result.record.totals
    state = "" if run.complete else f'<p class="bad">{_incomplete(run)}</p>'
    if totals.bpb is None or totals.base_bpb is None:
        return f"<h1>evalkit run</h1>{state}<p>No byte was scored, so there is no rate to report.</p>"
    stack = " + ".join(["base", *(s.adapter for s in run.stages)])
    ranks = "1 rank" if run.world_size == 1 else f"{run.world_size} ranks"
    gain = f" &nbsp; base {totals.base_bpb:.4f} &nbsp; difference {totals.bpb - totals.base_bpb:+.4f}"
    return (
        f'<h1>evalkit run</h1>{state}<p><span class="big">{totals.bpb:.4f}</span> bits per byte'
        f"{gain if run.stages else ''}</p><p>{cut(stack)}</p>"
        f'<p class="dim">{totals.targets:,} targets, {totals.bytes:,} bytes (from the {cut(run.bytes_from)}), '
        f"{run.documents:,} documents; plan {cut(run.settings['plan']['name'])}; "
        f"{run.seconds['wall']:.1f} s on {cut(run.environment['device'])}, {ranks}</p>"
    )


def _incomplete(run: RunRecord) -> str:
    last = run.coverage.targets[1] - 1
    whole = f" of {last:,}" if last > 0 else ""
    return f"Incomplete: {run.totals.targets:,}{whole} targets were booked when the run was stopped."
