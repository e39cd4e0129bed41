"""How does a verdict read on a terminal?"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from evalkit.legality.verdict import Result, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from evalkit.legality.logs import Log

COLOURS = {"ok": "green", "violated": "bold red", "warning": "yellow", "not-tested": "dim"}
VERDICTS = {"legal": "bold green", "violation": "bold red", "inconclusive": "bold yellow"}
SHORT = 400


def print_verdict(verdict: Verdict, console: Console | None = None, kept: str = "") -> None:
    """Verdict, laws, ledgers, power, and for each violation the smallest counter-example and its command.

    kept: the file that holds the verdict's JSON, for commands that would be too long to print.
    """
    from rich.console import Console

    console = console or Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    colour = VERDICTS.get(verdict.verdict, "bold")
    console.print(f"[{colour}]{verdict.verdict}[/{colour}]  {verdict.target}  (ruleset {verdict.ruleset})", markup=True)
    if verdict.verdict == "inconclusive":
        console.print(f"  {verdict.reason}", markup=False)
    _results(console, {**verdict.laws, **verdict.ledgers})
    for check in verdict.checks:
        mark = "" if check.status == "ok" else f"{check.status}: "
        console.print(f"  {check.test:4s} {check.name}: {mark}{check.detail}", markup=False)
    for evidence in verdict.evidence:
        console.print(f"{evidence.law}: {evidence.sentence}", markup=False)
        console.print(f"  {evidence.value:.6g} {evidence.unit}, at most {evidence.limit:.6g} is rounding", markup=False)
        console.print(f"  smallest stream found: {evidence.stream_tokens} tokens, position {evidence.position}")
        if len(evidence.reproduce) <= SHORT:
            console.print(f"  {evidence.reproduce}", markup=False, soft_wrap=True)
        else:
            console.print(f"  {_long(verdict.target, kept)}", markup=False)
    for note in verdict.notes:
        console.print(f"note: {note}", markup=False)
    _closing(console, verdict)


def markdown(verdict: Verdict) -> str:
    """Verdict, evidence, power and command in some twenty lines, to be pasted into a review."""
    target = shlex.quote(verdict.target)
    lines = [f"### evalkit audit: **{verdict.verdict}** `{verdict.target}` (ruleset {verdict.ruleset})", ""]
    if verdict.reason:
        lines += [_plain(verdict.reason), ""]
    asked = {k: r for k, r in {**verdict.laws, **verdict.ledgers}.items() if r.status != "not-tested"}
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


def _plain(text: str) -> str:
    """One line that breaks no table."""
    return " ".join(text.split()).replace("|", "\\|")[:300]


def print_logs(judged: list[tuple[Log, Verdict]]) -> None:
    """A table of many logs: file, verdict, last BPB, bytes that it implies, and what was found."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for name in ("log", "verdict", "BPB", "implied MB", "what was found"):
        table.add_column(
            name, justify="right" if name in ("BPB", "implied MB") else "left", no_wrap=name != "what was found"
        )
    for log, verdict in judged:
        tokens = log.last("val_tokens") or log.last("target_tokens")
        bpb = f"{log.final.val_bpb:.5f}" if log.final else ""
        implied = f"{log.final.bytes_of(tokens) / 1e6:.2f}" if log.final and tokens else ""
        style = VERDICTS.get(verdict.verdict, "")
        table.add_row(log.path, verdict.verdict, bpb, implied, verdict.reason or "the figures fit", style=style)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    console.print(table)
    wrong = sum(v.verdict != "legal" for _, v in judged)
    console.print(f"{wrong} of {len(judged)} logs hold figures that cannot all be true, or too few to tell")


def _long(target: str, kept: str) -> str:
    if not kept:
        return "the stream is long: write the verdict with --json F, then evalkit audit TARGET --reproduce F"
    return f"evalkit audit {shlex.quote(target)} --reproduce {shlex.quote(kept)}"


def _results(console: Console, results: dict[str, Result]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for name in ("law or ledger", "status", "probes", "worst", "what was seen"):
        table.add_column(
            name, justify="right" if name in ("probes", "worst") else "left", no_wrap=name != "what was seen"
        )
    for name, result in results.items():
        worst = "" if result.worst is None else f"{result.worst:.4g} {result.unit}"
        status = Text(result.status, style=COLOURS.get(result.status, ""))
        table.add_row(name, status, str(result.probes or ""), worst, Text(result.detail))
    console.print(table)


def _closing(console: Console, verdict: Verdict) -> None:
    power = _power(verdict)
    if power and verdict.verdict != "violation":
        console.print(f"power: {power}", markup=False)
    if verdict.track:
        kind = "adaptive" if verdict.track["name"] == "B" else "fixed predictor"
        memory, stream = verdict.track["memory_tokens"], verdict.track["stream_tokens"]
        console.print(
            f"track {verdict.track['name']} ({kind}): a change moved scores {memory} of {stream} tokens later"
        )
    console.print(f"{verdict.calls:,} calls, {verdict.replayed_tokens:,} tokens replayed, {verdict.seconds:.1f} s")


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
