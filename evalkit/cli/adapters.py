"""``evalkit adapters``: what is installed, with settings and defaults."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("adapters", help="what is installed, with settings and defaults")
    parser.add_argument("name", nargs="?", help="show the settings of this one only")
    parser.add_argument("--json", metavar="FILE", help="machine form; '-' prints it")


def run(args: argparse.Namespace) -> int:
    from evalkit.adapters.registry import describe

    rows = describe(args.name)
    if args.json == "-":
        print(json.dumps(rows, indent=2))
        return 0
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        console.print(f"[bold]{row['name']}[/bold]  ({row['clock']} clock)  {row['summary']}")
        for setting in row["settings"]:
            doc = "; ".join(filter(None, (setting["doc"], setting["range"])))
            console.print(f"    {setting['name']} = {setting['default']}  {doc}", markup=False)
    return 0
