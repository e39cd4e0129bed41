"""The pieces that a page is made of: sections, tables and notes as HTML; every word of the run is escaped here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, ClassVar

LONGEST = 400
"""Characters of one value in a table; the files beside the page have the whole."""


def section(title: str, *bodies: str) -> str:
    """A heading and what is under it; nothing when that is empty."""
    body = "".join(bodies)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def note(text: str) -> str:
    return f'<p class="dim">{escape(text)}</p>'


class Status(str):
    """A cell that is coloured by what it says."""

    KINDS: ClassVar = {
        "ok": "ok",
        "legal": "ok",
        "violated": "bad",
        "violation": "bad",
        "warning": "warn",
        "inconclusive": "warn",
    }

    def html(self) -> str:
        return f'<span class="{self.KINDS.get(self, "dim")}">{escape(self)}</span>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """First column left, the others right; ``words``: all left."""
    lines = (_row("td", row, words) for row in rows)
    return f'<div class="wide"><table><thead>{_row("th", head, words)}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def _row(cell: str, values: Sequence[str], words: bool) -> str:
    kinds = ("", "" if words else ' class="n"')
    shown = (v.html() if isinstance(v, Status) else cut(v) for v in values)
    return "<tr>" + "".join(f"<{cell}{kinds[i > 0]}>{v}</{cell}>" for i, v in enumerate(shown)) + "</tr>"


def cut(text: str, most: int = LONGEST) -> str:
    """Escaped, and no longer than ``most`` characters."""
    return escape(text if len(text) <= most else text[: most - 3] + "...")


def facts(content: Mapping[str, Any]) -> str:
    """A nest of settings as two columns: path of keys, value."""
    rows = "".join(f"<tr><td>{cut(k)}</td><td>{cut(v)}</td></tr>" for k, v in flat(content))
    return f'<div class="wide"><table class="facts">{rows}</table></div>'


def flat(content: Any, path: str = "") -> list[tuple[str, str]]:
    """Dicts, and lists of dicts, to (dotted path, text); other lists stay on one line."""
    if isinstance(content, dict) and content:
        return [pair for k, v in content.items() for pair in flat(v, f"{path}.{k}" if path else str(k))]
    if isinstance(content, list) and any(isinstance(v, dict) for v in content):
        return [pair for i, v in enumerate(content, 1) for pair in flat(v, f"{path}[{i}]")]
    if isinstance(content, list):
        return [(path, ", ".join(v if isinstance(v, str) else json.dumps(v) for v in content))]
    return [(path, content if isinstance(content, str) else json.dumps(content))]


def details(title: str, body: str) -> str:
    """Folded away until asked for; needs no script."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def signed(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:+.{digits}f}"


def interval(span: Sequence[float] | None, none: str = "one document") -> str:
    return f"{span[0]:+.5f} .. {span[1]:+.5f}" if span else none


def distinct(names: Sequence[str]) -> list[str]:
    """The second 'ppm' becomes 'ppm (2)'."""
    return [
        n if names.count(n) == 1 or n not in names[:i] else f"{n} ({names[:i].count(n) + 1})"
        for i, n in enumerate(names)
    ]
