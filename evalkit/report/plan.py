"""A plan shown: lines for a terminal, a recipe with its reasons, and one page with the front."""

from __future__ import annotations

import json
from typing import Any

from evalkit.report.elements import cut, interval, note, section, signed, table
from evalkit.report.html import page
from evalkit.report.svg import front_plot

SHOWN = 15
"""Rows of the table on a terminal; the page and plan.json have all."""


def plan_lines(report: dict[str, Any]) -> list[str]:
    """The choice, the table of candidates, what more seconds would buy and what is a waste."""
    chosen, ask = report["chosen"], report["ask"]
    lines, left = list[str](), SHOWN
    for rung, rows in by_rung(report):
        if left <= 0:
            break
        lines += [f"{rung}:", f"{'seconds':>9} {'BPB':>8} {'gain':>9} {'95 % interval':>22}  fits  candidate"]
        for c in rows[:left]:
            span, fits = interval(c["ci95"], ""), "yes" if c["fits"] else "no"
            cells = f"{c['seconds']:>9.1f} {c['bpb']:>8.4f} {signed(c['delta_bpb']):>9} {span:>22}"
            lines.append(f"{cells}  {fits:<4}  {c['name']}")
        left -= len(rows)
    if left < 0:
        lines.append(f"  and {-left} more (plan.json)")
    f = chosen["forecast"]
    lines += [
        f"chosen: {chosen['name']}",
        f"  why: {report['why']}",
        f"  forecast for {ask['targets']:,} targets on {ask['where']}: {f['total']:.1f} s ({f['low']:.1f} .. {f['high']:.1f}) "
        f"of {ask['budget']:g} s",
    ]
    if report["search"]["busy"] < report["search"]["busy_below"]:
        lines.append(
            f"  the machine was busy: this process had a processor for {100 * report['search']['busy']:.0f} % of its seconds, "
            "so the forecast is of a machine as busy as that"
        )
    if report["beats_plain"]:
        g = report["at_size"]
        lines.append(
            f"  gain expected at {ask['targets']:,} targets: {g['delta_bpb']:+.4f} BPB "
            f"({g['low']:+.4f} .. {g['high']:+.4f}, for documents like these)"
        )
    lines += [f"more seconds would buy: {text}" for text in report["more"]]
    lines += [f"a waste here: {text}" for text in report["waste"]]
    lines += [f"tried on held-back documents, and not taken: {text}" for text in report["tried"]]
    search = report["search"]
    lines.append(
        f"search: {search['spent']:.1f} s of {search['allowed']:.1f} s, {search['searched_documents']} documents searched, "
        f"{search['held_documents']} held back and scored"
    )
    return lines


def by_rung(report: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Candidates by the documents that they were last compared on, the most first; BPB of two groups do not compare."""
    rungs = sorted({c["rung"] for c in report["candidates"]}, reverse=True)
    groups = [sorted((c for c in report["candidates"] if c["rung"] == r), key=lambda c: c["bpb"]) for r in rungs]
    names = [f"on {max(c['targets'] for c in group):,} searched targets" for group in groups]
    return [
        (name if i == 0 else f"{name}, then left out", g) for i, (name, g) in enumerate(zip(names, groups, strict=True))
    ]


def plan_toml(report: dict[str, Any]) -> str:
    """``planned.toml``: a recipe, with why it was chosen as a comment."""
    ask, chosen = report["ask"], report["chosen"]
    f = chosen["forecast"]
    lines = [
        f"# Planned for {ask['budget']:g} s and {ask['targets']:,} targets on {ask['where']}.",
        f"# Why: {report['why']}.",
        f"# Forecast: {f['total']:.1f} s ({f['low']:.1f} .. {f['high']:.1f}).",
        "# Chosen on the text in planned_on, so a text that overlaps with it is refused.",
        "",
        "[run]",
        *(f"{key} = {_toml(value)}" for key, value in report["run"].items() if value is not None),
    ]
    for adapter in chosen["adapters"]:
        lines += ["", "[[adapter]]", *(f"{key} = {_toml(value)}" for key, value in adapter.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON's spelling of strings, numbers, booleans and lists is TOML's."""
    return json.dumps(value, ensure_ascii=False)


def plan_page(report: dict[str, Any]) -> str:
    """``plan.html``: one page, no script."""
    ask, rows = report["ask"], report["candidates"]
    names = [c["name"] for c in rows]
    chosen = names.index(report["chosen"]["name"]) if report["chosen"]["name"] in names else None
    front = [names.index(name) for name in report["front"]]
    dots = [(max(c["seconds"], 1e-6), c["delta_bpb"], c["name"]) for c in rows]
    picture = front_plot(
        dots,
        front,
        chosen,
        ask["budget"],
        f"seconds for {ask['targets']:,} targets (dashed: the budget)",
        "BPB against plain",
    )
    head = ("Candidate", "seconds", "fits", "BPB", "against plain", "95 % interval")
    tables = "".join(note(name) + table(head, [_cells(c) for c in group]) for name, group in by_rung(report))
    left = "".join(f"<p>{cut(f'{name}: {reason}')}</p>" for name, reason in report["left_out"].items())
    lines = plan_lines(report)
    begin = next(i for i, line in enumerate(lines) if line.startswith("chosen: "))
    words = "".join(f"<p>{cut(line, 600)}</p>" for line in lines[begin:])
    body = "".join(
        [
            f"<h1>{cut('evalkit plan: ' + report['chosen']['name'])}</h1>{words}",
            section(
                "BPB against seconds",
                picture,
                note("Each dot a candidate; the stair is the front, the ring the choice."),
            ),
            section("Candidates", tables),
            section("Not measured", left),
        ]
    )
    return page("evalkit plan", body)


def _cells(c: dict[str, Any]) -> list[str]:
    fits, gain = "yes" if c["fits"] else "no", signed(c["delta_bpb"])
    return [c["name"], f"{c['seconds']:.1f}", fits, f"{c['bpb']:.4f}", gain, interval(c["ci95"], "")]
