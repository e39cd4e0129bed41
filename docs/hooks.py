"""mkdocs hooks: the command-line reference is the help of every verb, and links out of the site go to the repository."""

from __future__ import annotations

import re
from typing import Any

MARK = "<!-- the help of every verb -->"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    markdown = OUTSIDE.sub(r"\1 (`\2`)", markdown)
    return markdown.replace(MARK, _verbs()) if MARK in markdown else markdown


def _verbs() -> str:
    from evalkit.cli.main import VERBS, build_parser

    parts = []
    for verb, summary in VERBS.items():
        found = build_parser(verb)._subparsers
        assert found is not None
        choices = found._group_actions[0].choices
        assert isinstance(choices, dict)
        parts.append(
            f"## evalkit {verb}\n\n{summary[0].upper()}{summary[1:]}.\n\n```text\n{choices[verb].format_help()}```\n"
        )
    return "\n".join(parts)
