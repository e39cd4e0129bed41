"""How is a verdict drawn?  One self-contained HTML page: Z over positions, suffix sensitivity, the counter-example."""

from __future__ import annotations

import html
import math
from typing import Any

from evalkit.legality.verdict import Evidence, Verdict

WIDTH, HEIGHT, LEFT, BOTTOM = 760, 190, 56, 26
MOST_CELLS = 4096
"""Tokens of a counter-example that is drawn token by token."""
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
.ok{color:#1a7f37}.violated,.violation{color:#cf222e;font-weight:600}.warning,.inconclusive{color:#9a6700}
.not-tested{color:#6e7781}.legal{color:#1a7f37;font-weight:600}
pre{background:#f6f8fa;padding:.6rem;overflow-x:auto;white-space:pre-wrap;word-break:break-all}
.results td:nth-child(-n+4),.results th{white-space:nowrap}
svg{width:100%;height:auto;background:#fafbfc;border:1px solid #d8dee4}svg text{font:11px system-ui,sans-serif;fill:#57606a}
figcaption{color:#57606a;font-size:.9rem}figure{margin:0 0 1.2rem}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}pre,svg{background:#161b22}
td,th,svg{border-color:#30363d}svg text,figcaption{fill:#8b949e;color:#8b949e}}
"""


def render(verdict: Verdict) -> str:
    """The page as one string: no scripts, no links, no other files."""
    parts = [
        f"<h1><span class='{verdict.verdict}'>{verdict.verdict}</span> {_text(verdict.target)}</h1>",
        f"<p>{_text(verdict.reason)}</p>" if verdict.reason else "",
        f"<p>ruleset {_text(verdict.ruleset)}, seed {verdict.seed}, vocabulary {verdict.vocab_size}, "
        f"{verdict.calls:,} calls, {verdict.seconds:.1f} s{_track(verdict)}</p>",
        _results(verdict),
        _checks(verdict),
        "<h2>Counter-examples</h2>" if verdict.evidence else "",
        *(_evidence(e) for e in verdict.evidence),
        "<h2>Sum of probabilities over positions</h2>",
        _forks(verdict.trace.get("forks", [])),
        "<h2>Sensitivity to another future</h2>",
        _cuts(verdict.trace.get("cuts", [])),
        "<h2>Power</h2>",
        _power(verdict),
        "".join(f"<p>Note: {_text(note)}.</p>" for note in verdict.notes),
        _rules(verdict),
    ]
    title = f"audit of {_text(verdict.target)}"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _track(verdict: Verdict) -> str:
    if not verdict.track:
        return ""
    kind = "adaptive" if verdict.track["name"] == "B" else "fixed predictor"
    return f", track {verdict.track['name']} ({kind})"


def _results(verdict: Verdict) -> str:
    rows = []
    for name, r in {**verdict.laws, **verdict.ledgers}.items():
        worst = "" if r.worst is None else f"{r.worst:.6g} {r.unit}"
        rows.append(
            f"<tr><td>{name}</td><td class='{r.status}'>{r.status}</td><td>{r.probes or ''}</td><td>{worst}</td>"
            f"<td>{_text(r.detail)}</td></tr>"
        )
    head = "<tr><th>law or ledger</th><th>status</th><th>probes</th><th>worst</th><th>what was seen</th></tr>"
    return f"<table class='results'>{head}{''.join(rows)}</table>"


def _checks(verdict: Verdict) -> str:
    rows = "".join(
        f"<tr><td>{_text(c.test)}</td><td>{_text(c.name)}</td>"
        f"<td class='{c.status}'>{c.status}</td><td>{_text(c.detail)}</td></tr>"
        for c in verdict.checks
    )
    return f"<h2>Also looked at</h2><table>{rows}</table>" if rows else ""


def _evidence(e: Evidence) -> str:
    return (
        f"<h3>{_text(e.law)} (test {_text(e.test)})</h3><p>{_text(e.sentence)}.<br>{e.value:.6g} {_text(e.unit)}; at most "
        f"{e.limit:.6g} is rounding.</p>{_place(e)}<pre>{_text(e.reproduce)}</pre>"
    )


def _place(e: Evidence) -> str:
    """A bar: the smallest stream, the position, and the tokens that were changed."""
    n = max(1, e.stream_tokens)
    cell = (WIDTH - 20) / n
    size = f"y='20' width='{max(1.0, cell):.1f}' height='22' fill='#d4a72c'"
    changed = _changed(e.probe.get("tokens"), e.probe.get("other"))
    marks = "".join(f"<rect x='{10 + i * cell:.1f}' {size}/>" for i in changed)
    here = 10 + e.position * cell
    label = "changed tokens in yellow, " if changed else ""
    return (
        f"<figure><svg viewBox='0 0 {WIDTH} 60'><rect x='10' y='20' width='{WIDTH - 20}' height='22' fill='#d0d7de'/>{marks}"
        f"<rect x='{here:.1f}' y='14' width='{max(2.0, cell):.1f}' height='34' fill='#cf222e'/>"
        f"<text x='10' y='56'>0</text><text x='{WIDTH - 10}' y='56' text-anchor='end'>{n}</text></svg>"
        f"<figcaption>The smallest stream found, {n} tokens: {label}the position asked about in red.</figcaption></figure>"
    )


def _changed(tokens: Any, other: Any) -> list[int]:
    """Indices at which two streams differ; none when there is no other one, or when they are very long."""
    from evalkit.legality.probes.probe import size, unpack

    if tokens is None or other is None or max(size(tokens), size(other)) > MOST_CELLS:
        return []
    pair = [unpack(stream, 1 << 32).tolist() for stream in (tokens, other)]
    return [i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b]


def _forks(forks: list[Any]) -> str:
    if not forks:
        return "<p>No sums were taken.</p>"
    excess = [(f["position"] / max(1, f["length"] - 1), f["mass"], f["full"], f) for f in forks]
    top = max(1.05, min(4.0, max(m for _, m, _, _ in excess) * 1.1))
    low = min(0.0 if min(m for _, m, _, _ in excess) < 0.9 else 0.9, 0.95)
    y = _scale(low, top, HEIGHT - BOTTOM, 10)
    line = y(1.0)
    dots = "".join(
        f"<circle cx='{_x(at):.1f}' cy='{y(min(mass, top)):.1f}' r='3' fill='{'#cf222e' if mass > 1.0001 else '#0969da'}' "
        f"fill-opacity='{1 if full else 0.4}'><title>{_text(f['stream'])} position {f['position']} of {f['length']} "
        f"({_text(f['stratum'])}): {mass:.6f}</title></circle>"
        for at, mass, full, f in excess
    )
    rule = (
        f"<line x1='{LEFT}' x2='{WIDTH - 10}' y1='{line:.1f}' y2='{line:.1f}' stroke='#57606a' stroke-dasharray='4 3'/>"
    )
    labels = f"<text x='8' y='{line + 4:.1f}'>Z = 1</text><text x='8' y='14'>{top:.3g}</text>"
    labels += f"<text x='8' y='{HEIGHT - BOTTOM}'>{low:.3g}</text>"
    caption = (
        f"{_count(len(forks), 'fork')} by place in the stream; above the line is a violation. Pale: stopped early, or a "
        "subset."
    )
    return _figure(rule + dots + labels, caption)


def _cuts(cuts: list[Any]) -> str:
    if not cuts:
        return "<p>No suffix was replaced.</p>"
    floor = 1e-16
    y = _scale(-16, max(1.0, math.log10(max(c["moved"] for c in cuts) + floor)), HEIGHT - BOTTOM, 10)
    marks = ""
    for c in cuts:
        at, level = c["cut"] / max(1, c["length"]), math.log10(max(floor, c["moved"]))
        colour = "#cf222e" if c["moved"] > 1e-4 else "#0969da"
        marks += (
            f"<circle cx='{_x(at):.1f}' cy='{y(level):.1f}' r='2.5' fill='{colour}'><title>{_text(c['kind'])} from {c['cut']} of "
            f"{c['length']}: {c['moved']:.3g} nats at {c['position']}</title></circle>"
        )
    ticks = "".join(f"<text x='8' y='{y(k) + 4:.1f}'>1e{k}</text>" for k in (-12, -8, -4, 0))
    ticks += f"<text x='8' y='{y(-16) + 4:.1f}'>none</text>"
    caption = (
        f"{_count(len(cuts), 'replay')} by where the future was changed; height: the largest move of a score before that "
        "place, nats.  At the bottom: no score moved."
    )
    return _figure(marks + ticks, caption)


def _figure(body: str, caption: str) -> str:
    axis = f"<text x='{LEFT}' y='{HEIGHT - 6}'>start</text>"
    axis += f"<text x='{WIDTH - 10}' y='{HEIGHT - 6}' text-anchor='end'>end of stream</text>"
    return f"<figure><svg viewBox='0 0 {WIDTH} {HEIGHT}'>{body}{axis}</svg><figcaption>{caption}</figcaption></figure>"


def _x(share: float) -> float:
    return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - 10)


def _scale(low: float, high: float, bottom: float, top: float) -> Any:
    return lambda value: bottom - (value - low) / (high - low) * (bottom - top)


def _power(verdict: Verdict) -> str:
    power = verdict.power.get("normalised", {})
    if not power:
        return "<p>Nothing was probed.</p>"
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{row['forks']}</td><td>{row['gate_fraction']:.1%}</td></tr>"
        for name, row in power["strata"].items()
        if name != "latin"
    )
    causal, latin = verdict.power["causal"], verdict.power.get("latin") or {}
    behind = (
        f"<p>{latin['columns']:,} columns of a Latin design looked behind {latin['contexts']:,} of {latin['of']:,} tokens of "
        f"the vocabulary: the mean estimate of Z is {latin['mean']:.5f}; {latin['full_forks']} of them were summed in full.</p>"
        if latin.get("columns")
        else ""
    )
    return (
        "<p>A gate that was silent at every position asked may still fire at this share of positions (95 %):</p>"
        f"<table><tr><th>kind of position</th><th>full sums</th><th>share still possible</th></tr>{rows}"
        f"<tr><td>all</td><td>{power['full_forks']}</td><td>{power['gate_fraction']:.1%}</td></tr></table>"
        f"<p>{causal['distinct_cuts']} distinct cuts compared {causal['pairs']:,} pairs of a position and a changed future.</p>"
        f"{behind}"
    )


def _rules(verdict: Verdict) -> str:
    columns = ("check", "severity", "source")
    rows = "".join(f"<tr>{''.join(f'<td>{_text(r[c])}</td>' for c in columns)}</tr>" for r in verdict.rules)
    return f"<h2>Rules applied</h2><table><tr><th>check</th><th>if it fails</th><th>source</th></tr>{rows}</table>"
