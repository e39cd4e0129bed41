"""A verdict on the terminal, as Markdown for a review, and as a page: Z over positions, sensitivity, counter-examples."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evalkit.legality.logs import Log
from evalkit.legality.probes.probe import size, unpack
from evalkit.legality.verdict import Evidence, Result, Verdict
from evalkit.report.elements import Status, cut, note, section, table
from evalkit.report.html import page
from evalkit.report.svg import Dot, scatter_plot, strip_plot

if TYPE_CHECKING:
    from rich.console import Console

TERMINAL = {"ok": "green", "violated": "bold red", "warning": "yellow", "not-tested": "dim"}
VERDICTS = {"legal": "bold green", "violation": "bold red", "inconclusive": "bold yellow"}
SHORT = 400
"""Characters of a command that is printed whole."""
MOST_CELLS = 4096
"""Tokens of a counter-example that is drawn token by token."""
HEAD = ("law or ledger", "status", "probes", "worst", "what was seen")
NOWHERE = 1e-16
"""Nats at which a move that was none is drawn."""


def print_verdict(verdict: Verdict, console: Console | None = None, kept: str = "") -> None:
    """Verdict, laws, ledgers, power, and for each violation the smallest counter-example and its command.

    kept: the file that holds the verdict's JSON, for commands that would be too long to print.
    """
    console = console or _console(160)
    colour = VERDICTS.get(verdict.verdict, "bold")
    console.print(f"[{colour}]{verdict.verdict}[/{colour}]  {verdict.target}  (ruleset {verdict.ruleset})", markup=True)
    if verdict.verdict == "inconclusive":
        console.print(f"  {verdict.reason}", markup=False)
    console.print(_terminal_table(verdict))
    for check in verdict.checks:
        mark = "" if check.status == "ok" else f"{check.status}: "
        console.print(f"  {check.test:4s} {check.name}: {mark}{check.detail}", markup=False)
    for e in verdict.evidence:
        console.print(f"{e.law}: {e.sentence}", markup=False)
        console.print(f"  {e.value:.6g} {e.unit}, at most {e.limit:.6g} is rounding", markup=False)
        console.print(f"  smallest stream found: {e.stream_tokens} tokens, position {e.position}")
        short = len(e.reproduce) <= SHORT
        console.print(f"  {e.reproduce if short else _long(verdict.target, kept)}", markup=False, soft_wrap=True)
    lines = [f"note: {text}" for text in verdict.notes]
    power = _power(verdict)
    if power and verdict.verdict != "violation":
        lines.append(f"power: {power}")
    if verdict.track:
        memory, stream = verdict.track["memory_tokens"], verdict.track["stream_tokens"]
        lines.append(f"{_track(verdict)}: a change moved scores {memory} of {stream} tokens later")
    lines.append(f"{verdict.calls:,} calls, {verdict.replayed_tokens:,} tokens replayed, {verdict.seconds:.1f} s")
    for line in lines:
        console.print(line, markup=False)


def markdown(verdict: Verdict) -> str:
    """Verdict, evidence, power and command in some twenty lines, to be pasted into a review."""
    target = shlex.quote(verdict.target)
    lines = [f"### evalkit audit: **{verdict.verdict}** `{verdict.target}` (ruleset {verdict.ruleset})", ""]
    if verdict.reason:
        lines += [_plain(verdict.reason), ""]
    asked = {k: r for k, r in verdict.results().items() if r.status != "not-tested"}
    if asked:
        lines += ["| law or ledger | status | probes | what was seen |", "|---|---|---|---|"]
        lines += [f"| {k} | {r.status} | {r.probes or ''} | {_plain(r.detail)} |" for k, r in asked.items()]
        lines.append("")
    for evidence in verdict.evidence[:3]:
        lines.append(
            f"- **{evidence.law}**: {_plain(evidence.sentence)} ({evidence.value:.6g} {evidence.unit}, "
            f"limit {evidence.limit:.6g}; {evidence.stream_tokens} tokens)"
        )
    shown = next((e.reproduce for e in verdict.evidence if len(e.reproduce) <= SHORT), "")
    power = _power(verdict)
    lines += [f"- power: {power}"] if power and verdict.verdict != "violation" else []
    lines += [f"- note: {_plain(note)}" for note in verdict.notes[:3]]
    scorer = bool(verdict.calls)
    command = shown or f"evalkit audit {target} --ruleset {verdict.ruleset} --seed {verdict.seed}" * scorer
    command = command or f"evalkit audit --log {target}" * any(c.test == "log" for c in verdict.checks)
    lines += ["", "```", command, "```"] if command else []
    if scorer:
        lines.append(f"{verdict.calls:,} calls, {verdict.seconds:.1f} s, seed {verdict.seed}")
    return "\n".join(lines)


def print_logs(judged: list[tuple[Log, Verdict]]) -> None:
    """A table of many logs: file, verdict, last BPB, bytes that it implies, and what was found."""
    found = _rich_table(("log", "verdict", "BPB", "implied MB", "what was found"))
    for log, verdict in judged:
        tokens = log.last("val_tokens") or log.last("target_tokens")
        bpb = f"{log.final.val_bpb:.5f}" if log.final else ""
        implied = f"{log.final.bytes_of(tokens) / 1e6:.2f}" if log.final and tokens else ""
        style = VERDICTS.get(verdict.verdict, "")
        found.add_row(log.path, verdict.verdict, bpb, implied, verdict.reason or "the figures fit", style=style)
    console = _console(200)
    console.print(found)
    wrong = sum(v.verdict != "legal" for _, v in judged)
    console.print(f"{wrong} of {len(judged)} logs hold figures that cannot all be true, or too few to tell")


def render(verdict: Verdict) -> str:
    """The page as one string: no scripts, no links, no other files."""
    track = f", {_track(verdict)}" if verdict.track else ""
    rows = [[k, Status(r.status), str(r.probes or ""), _worst(r, 6), r.detail] for k, r in verdict.results().items()]
    rules = [[r["check"], r["severity"], r["source"]] for r in verdict.rules]
    checks = [[c.test, c.name, Status(c.status), c.detail] for c in verdict.checks]
    parts = [
        f"<h1>{Status(verdict.verdict).html()} {cut(verdict.target)}</h1>",
        f"<p>{cut(verdict.reason, 2000)}</p>" if verdict.reason else "",
        note(
            f"ruleset {verdict.ruleset}, seed {verdict.seed}, vocabulary {verdict.vocab_size}, {verdict.calls:,} calls, "
            f"{verdict.seconds:.1f} s{track}"
        ),
        table(HEAD, rows, words=True),
        section(
            "Also looked at", table(("test", "check", "status", "what was seen"), checks, words=True) if checks else ""
        ),
        section("Counter-examples", *(_evidence(e) for e in verdict.evidence)),
        section("Sum of probabilities over positions", _forks(verdict.trace.get("forks", []))),
        section("Sensitivity to another future", _cuts(verdict.trace.get("cuts", []))),
        section("Power", _gates(verdict)),
        section("Notes", *(f"<p>{cut(text, 2000)}.</p>" for text in verdict.notes)),
        section("Rules applied", table(("check", "if it fails", "source"), rules, words=True)),
    ]
    return page(f"audit of {verdict.target}", "".join(parts))


def _evidence(e: Evidence) -> str:
    changed = _changed(e.probe.get("tokens"), e.probe.get("other"))
    label = "changed tokens in yellow, " if changed else ""
    return (
        f"<h3>{cut(e.law)} (test {cut(e.test)})</h3><p>{cut(e.sentence, 2000)}.<br>{e.value:.6g} {cut(e.unit)}; at most "
        f"{e.limit:.6g} is rounding.</p>{strip_plot(e.stream_tokens, changed, e.position)}"
        + note(f"The smallest stream found, {e.stream_tokens} tokens: {label}the position asked about in red.")
        + f"<pre>{cut(e.reproduce, 1 << 20)}</pre>"
    )


def _changed(tokens: Any, other: Any) -> list[int]:
    """Indices at which two streams differ; none when there is no other one, or when they are very long."""
    if tokens is None or other is None or max(size(tokens), size(other)) > MOST_CELLS:
        return []
    pair = [unpack(stream, 1 << 32).tolist() for stream in (tokens, other)]
    return [i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b]


def _forks(forks: list[Any]) -> str:
    if not forks:
        return "<p>No sums were taken.</p>"
    masses = [f["mass"] for f in forks]
    top = max(1.05, min(4.0, max(masses) * 1.1))
    dots = [
        Dot(
            f["position"] / max(1, f["length"] - 1),
            min(f["mass"], top),
            f"{f['stream']} position {f['position']} of {f['length']} ({f['stratum']}): {f['mass']:.6f}",
            bad=f["mass"] > 1.0001,
            pale=not f["full"],
        )
        for f in forks
    ]
    low = 0.0 if min(masses) < 0.9 else 0.9
    words = f"{_count(len(forks), 'fork')}; above the line is a violation. Pale: stopped early, or a subset."
    return scatter_plot(dots, (low, top), "place in the stream, from start to end", "Z", level=1.0) + note(words)


def _cuts(cuts: list[Any]) -> str:
    if not cuts:
        return "<p>No suffix was replaced.</p>"
    dots = [
        Dot(
            min(1.0, c["cut"] / max(1, c["length"])),
            math.log10(max(NOWHERE, c["moved"])),
            f"{c['kind']} from {c['cut']} of {c['length']}: {c['moved']:.3g} nats at {c['position']}",
            bad=c["moved"] > 1e-4,
        )
        for c in cuts
    ]
    span = (math.log10(NOWHERE), max(1.0, *(d.y for d in dots)))
    words = (
        f"{_count(len(cuts), 'replay')} by where the future was changed; height: the largest move of a score before that "
        "place.  At the bottom: no score moved."
    )
    return scatter_plot(dots, span, "place in the stream, from start to end", "log10 of nats moved") + note(words)


def _gates(verdict: Verdict) -> str:
    power = verdict.power.get("normalised", {})
    if not power:
        return "<p>Nothing was probed.</p>"
    strata = [(name, row) for name, row in power["strata"].items() if name != "latin"]
    rows = [[name, str(row["forks"]), f"{row['gate_fraction']:.1%}"] for name, row in strata]
    rows.append(["all", str(power["full_forks"]), f"{power['gate_fraction']:.1%}"])
    causal, latin = verdict.power["causal"], verdict.power.get("latin") or {}
    lines = [
        f"{causal['distinct_cuts']} distinct cuts compared {causal['pairs']:,} pairs of a position and a changed future."
    ]
    if latin.get("columns"):
        lines.append(
            f"{latin['columns']:,} columns of a Latin design looked behind {latin['contexts']:,} of {latin['of']:,} tokens of "
            f"the vocabulary: the mean estimate of Z is {latin['mean']:.5f}; {latin['full_forks']} of them were summed in full."
        )
    return (
        "<p>A gate that was silent at every position asked may still fire at this share of positions (95 %):</p>"
        + table(("kind of position", "full sums", "share still possible"), rows)
        + "".join(f"<p>{line}</p>" for line in lines)
    )


def _power(verdict: Verdict) -> str:
    """What was asked, in all and by kind of stream; "" when nothing was summed."""
    power = verdict.power.get("normalised", {})
    if not power.get("full_forks"):
        return ""
    families = ", ".join(
        f"{name} {seen['full_forks']}+{seen['cuts']}" for name, seen in verdict.power.get("families", {}).items()
    )
    return (
        f"{power['full_forks']} full sums and {verdict.power['causal']['distinct_cuts']} cuts; a gate that is "
        f"silent elsewhere may still occupy up to {power['gate_fraction']:.1%} of such positions (95 %); "
        f"the longest stream had {verdict.power['longest_stream']} tokens; sums+cuts by kind of stream: {families}"
    )


def _track(verdict: Verdict) -> str:
    return f"track {verdict.track['name']} ({'adaptive' if verdict.track['name'] == 'B' else 'fixed predictor'})"


def _plain(text: str) -> str:
    """One line that breaks no table."""
    return " ".join(text.split()).replace("|", "\\|")[:300]


def _worst(result: Result, digits: int) -> str:
    return "" if result.worst is None else f"{result.worst:.{digits}g} {result.unit}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _long(target: str, kept: str) -> str:
    if not kept:
        return "the stream is long: write the verdict with --json F, then evalkit audit TARGET --reproduce F"
    return f"evalkit audit {shlex.quote(target)} --reproduce {shlex.quote(kept)}"


def _console(width: int) -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else width)


def _rich_table(head: Sequence[str]) -> Any:
    from rich.table import Table

    found = Table(show_edge=False, pad_edge=False)
    for name in head:
        right = name in ("probes", "worst", "BPB", "implied MB")
        found.add_column(name, justify="right" if right else "left", no_wrap=not name.startswith("what was"))
    return found


def _terminal_table(verdict: Verdict) -> Any:
    from rich.text import Text

    found = _rich_table(HEAD)
    for name, r in verdict.results().items():
        status = Text(r.status, style=TERMINAL.get(r.status, ""))
        found.add_row(name, status, str(r.probes or ""), _worst(r, 4), Text(r.detail))
    return found
