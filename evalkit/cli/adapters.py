"""``evalkit adapters``: the installed adapters, with settings and defaults."""

from __future__ import annotations

import argparse
from typing import Any

from evalkit.cli.session import json_flag, tell


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("adapters", help="list the installed adapters, with settings and defaults")
    parser.add_argument("name", nargs="?", help="show only the settings of this adapter")
    json_flag(parser)


def run(args: argparse.Namespace) -> int:
    from evalkit.adapters.registry import describe

    rows = describe(args.name)
    tell(args, rows, lambda: _print(rows))
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        console.print(f"[bold]{row['name']}[/bold]  ({row['clock']} clock)  {row['summary']}")
        for setting in row["settings"]:
            doc = "; ".join(filter(None, (setting["doc"], setting["range"])))
            console.print(f"    {setting['name']} = {setting['default']}  {doc}", markup=False)
