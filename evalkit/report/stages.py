"""What each stage did: how much, where along the stream, and whether it was right when it acted."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.report.digest import MOVES, Digest, neighbourhood_bpb, running_bpb
from evalkit.report.elements import distinct, interval, note, signed, table
from evalkit.report.svg import COLOURS, Series, bar_plot, line_plot
from evalkit.scoring.result import Result


def stage_labels(result: Result) -> list[str]:
    """Names of the stages, the model first, no two alike."""
    return distinct(["base", *result.stage_names[1:]])


def contributions(result: Result) -> str:
    """Table and bars of the steps in BPB."""
    stages, base = result.record.stages, result.record.totals.base_bpb
    if not stages or base is None:
        return note("The base alone: no adapters.") if base is not None else ""
    names = stage_labels(result)[1:]
    rows = [["base", f"{base:.5f}", "", "", ""]]
    for name, stage in zip(names, stages, strict=True):
        to_base = signed(stage.bpb - base, 5)
        rows.append([name, f"{stage.bpb:.5f}", signed(stage.delta_bpb, 5), interval(stage.ci95), to_base])
    head = ["stage", "BPB", "step", "95 % interval of the step", "to base"]
    steps, spans = [s.delta_bpb for s in stages], [s.ci95 for s in stages]
    plot = bar_plot(names, steps, "step in BPB (less is better)", spans, signed=True)
    return table(head, rows) + plot + note("Intervals: bootstrap over documents, each stage against the one before it.")


def along(result: Result, found: Digest) -> str:
    """BPB of the neighbourhood and so far, and each stage's difference to the base."""
    names, x = stage_labels(result), found.middle
    last = len(names) - 1
    ends = [(0, "base")] + ([(last, "adapted")] if last else [])
    near = [Series(name, x, neighbourhood_bpb(found, s), pen) for pen, (s, name) in enumerate(ends)]
    so_far = [
        Series(f"{name}, so far", x, running_bpb(found, s), pen + len(COLOURS)) for pen, (s, name) in enumerate(ends)
    ]
    plots = line_plot(near + so_far, "target", "BPB")
    if not last:
        return plots
    base = neighbourhood_bpb(found, 0)
    curves = [
        Series(f"through {name}" if s > 1 else name, x, _minus(neighbourhood_bpb(found, s), base))
        for s, name in list(enumerate(names))[1:]
    ]
    return plots + line_plot(curves, "target", "BPB against base", level=0.0)


def _minus(a: Sequence[float | None], b: Sequence[float | None]) -> list[float | None]:
    return [None if p is None or q is None else p - q for p, q in zip(a, b, strict=True)]


def activity(result: Result, found: Digest) -> str:
    """Where stages act, and whether they are right."""
    names = stage_labels(result)[1:]
    if not names:
        return ""
    targets = int(found.edges[-1])
    rows = []
    for s, name in enumerate(names):
        acts = int(found.better[s] + found.worse[s])
        right = f"{100 * found.better[s] / acts:.1f} %" if acts else ""
        won, lost = f"{found.won[s]:+,.0f}", f"{found.lost[s]:+,.0f}"
        rows.append([name, f"{100 * acts / targets:.1f} %", right, won, lost, f"{found.won[s] + found.lost[s]:+,.0f}"])
    width = (found.edges[1:] - found.edges[:-1]).tolist()
    curves = [
        Series(name, found.middle, [100 * a / w for a, w in zip(found.acts[:, s].tolist(), width, strict=True)])
        for s, name in enumerate(names)
    ]
    head = ["stage", "acts on", "better when acting", "nats won", "nats lost", "net"]
    told = note(f"A stage acts on a target when it moves its score by more than {MOVES} nats.")
    return table(head, rows) + told + line_plot(curves, "target", "% of targets acted on", level=0.0)
