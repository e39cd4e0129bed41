"""mkdocs hooks: the command-line reference is the help of every verb, the changelog is that of the repository, and links out of
the site name files of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

MARK = "<!-- the help of every verb -->"
CHANGES = "<!-- the changelog -->"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    markdown = OUTSIDE.sub(r"\1 (`\2`)", markdown)
    if CHANGES in markdown:
        return (Path(__file__).resolve().parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    return markdown.replace(MARK, _verbs()) if MARK in markdown else markdown


def _verbs() -> str:
    from evalkit.cli.main import VERBS, verb_parser

    return "\n".join(
        f"## evalkit {verb}\n\n{summary[0].upper()}{summary[1:]}.\n\n```text\n{verb_parser(verb).format_help()}```\n"
        for verb, summary in VERBS.items()
    )
