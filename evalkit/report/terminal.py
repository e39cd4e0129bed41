"""A result on a terminal; in a pipe or a log the same table in plain ASCII, no escape codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from evalkit.scoring.result import RunRecord

HEAD = ("stack", "BPB", "step", "95 % interval", "to base")


def print_result(result: Any, file: TextIO | None = None) -> None:
    """The table and two lines under it, on stdout or ``file``."""
    out: TextIO = file if file is not None else sys.stdout
    rows = table_rows(result.record)
    if out.isatty():
        _rich(rows, out)
    else:
        out.write(plain_table(HEAD, rows))
    out.writelines(line + "\n" for line in summary_lines(result))
    out.flush()


def table_rows(run: RunRecord) -> list[tuple[str, ...]]:
    """Base and every stage: name, BPB, step to the stage before it, its interval, difference to the base."""
    base = run.totals.base_bpb
    rows = [("base", _bpb(base), "", "", "")]
    for stage in run.stages:
        span = stage.ci95
        interval = f"{span[0]:+.4f} .. {span[1]:+.4f}" if span else "one document"
        to_base = f"{stage.bpb - base:+.4f}" if base is not None else ""
        rows.append((f"+ {stage.adapter}", _bpb(stage.bpb), f"{stage.delta_bpb:+.4f}", interval, to_base))
    return rows


def summary_lines(result: Any) -> list[str]:
    """What was scored and in what time; what the reader must know; where it is kept."""
    run, seconds = result.record, result.record.seconds
    experts = seconds.get("experts", 0.0) + seconds.get("propose", 0.0)
    spent = [("forward", seconds.get("forward", 0.0)), ("experts", experts), ("base", seconds.get("base", 0.0))]
    spent.append(("learners", sum(v for k, v in seconds.items() if k.startswith("observe/"))))
    parts = ", ".join(f"{name} {value:.1f}" for name, value in spent if value or name in ("forward", "experts"))
    totals, count = run.totals, run.documents
    lines = [
        f"{totals.targets:,} targets, {totals.bytes:,} bytes, {count:,} {'document' if count == 1 else 'documents'}"
        f"  |  plan {run.settings['plan']['name']}  |  {seconds['wall']:.1f} s ({parts})"
    ]
    lines += [f"note: {text}" for text in run.notes]
    return [*lines, f"kept in {result.folder}"] if result.folder is not None else lines


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the first to the left, a line of dashes under the head, no trailing spaces."""
    wide = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [_line(head, wide), "  ".join("-" * w for w in wide), *(_line(row, wide) for row in rows)]
    return "".join(line.rstrip() + "\n" for line in lines)


def _line(row: Sequence[str], wide: Sequence[int]) -> str:
    return "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, wide, strict=True)))


def _rich(rows: Sequence[Sequence[str]], file: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, style=_colour(i, cell)) for i, cell in enumerate(row)))
    Console(file=file, highlight=False).print(table)


def _colour(column: int, cell: str) -> str:
    """Green for fewer bits, red for more; the BPB itself in bold."""
    if column == 1:
        return "bold"
    return {"-": "green", "+": "red"}.get(cell[:1], "") if column in (2, 4) else ""


def _bpb(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
