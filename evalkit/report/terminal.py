"""How does a result look on a terminal?"""

from __future__ import annotations

from typing import Any


def print_result(result: Any) -> None:
    """The table: adapter stack, BPB, difference to the stage before and to the base, seconds."""
    from rich.console import Console
    from rich.table import Table

    run, totals = result.run, result.run["totals"]
    console = Console(soft_wrap=True) if not _is_terminal() else Console()
    table = Table(title=None, show_edge=False, pad_edge=False)
    for name, justify in (
        ("stack", "left"),
        ("BPB", "right"),
        ("step", "right"),
        ("95 % interval", "right"),
        ("to base", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_row("base", _bpb(totals["base_bpb"]), "", "", "")
    for stage in run["stages"]:
        interval = stage["ci95"]
        table.add_row(
            f"+ {stage['adapter']}",
            _bpb(stage["bpb"]),
            f"{stage['delta_bpb']:+.4f}",
            f"{interval[0]:+.4f} .. {interval[1]:+.4f}" if interval else "one document",
            f"{stage['bpb'] - totals['base_bpb']:+.4f}",
        )
    console.print(table)
    seconds = run["seconds"]
    forward, experts = seconds.get("forward", 0.0), seconds.get("experts", 0.0) + seconds.get("propose", 0.0)
    console.print(
        f"{totals['targets']:,} targets, {totals['bytes']:,} bytes, {run['documents']:,} documents  |  "
        f"plan {run['settings']['plan']['name']}  |  {seconds['wall']:.1f} s (forward {forward:.1f}, experts {experts:.1f})"
    )
    if result.folder is not None:
        console.print(f"kept in {result.folder}")


def _bpb(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
