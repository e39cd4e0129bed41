"""The circumstances of a run: seconds, verdicts, settings and environment."""

from __future__ import annotations

from typing import Any

import msgspec

from evalkit.report.elements import cut, details, facts, note, table
from evalkit.report.svg import bar_plot
from evalkit.scoring.result import RunRecord


def seconds(run: RunRecord) -> str:
    """Spans by verb, longest first, and the rest of the wall time."""
    spans = {k: v for k, v in run.seconds.items() if k != "wall"}
    wall, named = run.seconds["wall"], sum(spans.values())
    if wall > named:
        spans["not in a span"] = wall - named
    spans = dict(sorted(spans.items(), key=lambda pair: -pair[1]))
    told = f"Wall time {wall:.1f} s."
    if named > wall * 1.01:
        told += f" Spans sum to {named:.1f} s because some of them run side by side."
    return bar_plot(list(spans), list(spans.values()), "seconds") + note(told) + _budget(run) + _ranks(run)


def _budget(run: RunRecord) -> str:
    return facts({"budget": msgspec.to_builtins(run.budget)}) if run.budget.seconds is not None else ""


def _ranks(run: RunRecord) -> str:
    """One row per rank, when there were several."""
    ranks = run.ranks or []
    head = list(dict.fromkeys(key for rank in ranks for key in rank))
    return table(head, [[_short(rank.get(key)) for key in head] for rank in ranks]) if head else ""


def _short(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def verdicts(run: RunRecord) -> str:
    """The sentinel, then whatever else judged the run, then the run's own notes."""
    found = dict(run.verdicts)
    sentinel = found.pop("sentinel", {})
    parts = [_sentinel(sentinel)]
    for name, verdict in found.items():
        word = verdict.get("verdict") or verdict.get("status") if isinstance(verdict, dict) else verdict
        kind = {"legal": "ok", "ok": "ok", "violation": "bad", "violated": "bad"}.get(str(word), "")
        parts.append(f'<p class="{kind}">{cut(name)}: {cut(str(word))}</p>')
        if isinstance(verdict, dict):
            parts.append(details(f"{name} in full", facts(verdict)))
    return "".join(parts) + "".join(f"<p>{cut(str(text))}</p>" for text in run.notes)


def _sentinel(found: dict[str, Any]) -> str:
    if not found.get("on"):
        return '<p class="bad">The sentinel was switched off: no row was checked while scoring.</p>'
    if not found["rows"]:
        return "<p>Sentinel: this process scored no chunk, so it looked at no row.</p>"
    return (
        f'<p class="ok">Sentinel: {found["rows"]:,} whole rows were looked at with the target withheld; the largest '
        f"|1 - sum| was {found['worst']:.3g}, and every booked score was equal to its row, bit for bit.</p>"
    )


def settings(run: RunRecord) -> str:
    """Settings in the open; fingerprints folded."""
    return facts(run.settings) + details("Fingerprints", facts(run.fingerprint))


def environment(run: RunRecord) -> str:
    """Machine, versions, memory."""
    memory = {"peak_memory": run.peak_memory_bytes, **run.state_bytes}
    rows = [[name.replace("_", " "), f"{size / 2**20:,.1f} MiB"] for name, size in memory.items()]
    return facts(run.environment) + table(["memory", ""], rows)
