"""``evalkit zoo``: the specimens that the audit is tested on."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from evalkit.cli.session import json_flag, tell


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "zoo",
        help="list the specimens that the audit is tested on",
        description="Known violations with their fixes, and legal look-alikes.  'evalkit audit zoo:ID' runs one.",
    )
    parser.add_argument("name", nargs="?", metavar="ID", help="show the code of one: A4, A4:fix, L7")
    json_flag(parser)


def run(args: argparse.Namespace) -> int:
    from evalkit.legality.target import zoo

    if args.name:
        return _show(args.name)
    rows = [_row(s) for s in zoo("registry").specimens().values()]
    tell(args, rows, lambda: _table(rows))
    return 0


def _row(specimen: Any) -> dict[str, Any]:
    doc = (specimen.broken.__doc__ or "").strip().split("\n\n")[0]
    return {
        "id": specimen.id,
        "title": specimen.title,
        "law": specimen.law or "legal",
        "mechanism": " ".join(doc.split()),
        "fix": None if specimen.fixed is None else " ".join((specimen.fixed.__doc__ or "").split()),
        "ruleset": specimen.ruleset,
        "sources": [f"#{n}" for n in specimen.sources],
    }


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for column in ("id", "breaks", "what it is", "seen in"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        seen = ", ".join(row["sources"][:4]) + (" ..." if len(row["sources"]) > 4 else "")
        table.add_row(row["id"], row["law"], row["title"], seen)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(
        "'evalkit zoo A4' shows the code, 'evalkit zoo A4:fix' its legal form, 'evalkit audit zoo:A4' runs it"
    )


def _show(name: str) -> int:
    from evalkit.legality.target import zoo

    specimen, factory, law = zoo("registry").find(name)
    print(f"# {name}: {specimen.title} ({'breaks ' + law if law else 'legal'})")
    if specimen.sources:
        print(f"# seen in {', '.join(f'#{n}' for n in specimen.sources)} of openai/parameter-golf")
    print()
    print(zoo("registry").source(factory).rstrip())
    return 0
