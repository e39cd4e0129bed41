"""How does ``NAME:key=value,key=value`` become a checked settings struct?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from evalkit.errors import InputError, nearest

T = TypeVar("T", bound=msgspec.Struct)


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split ``"name:k=v,k=v"`` into the name and its raw settings.

    A colon inside the name (``module:Class``, ``file.py:Class``) stays there: settings start after the last colon
    whose right side holds ``=``.
    """
    name, colon, rest = text.rpartition(":")
    if not colon or "=" not in rest:
        return text.strip(), {}
    settings: dict[str, str] = {}
    for item in _split_commas(rest):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"'{text}': '{item}' is not key=value; write NAME:key=value,key=value")
        if key.strip() in settings:
            raise InputError(f"'{text}': setting '{key.strip()}' is given twice")
        settings[key.strip()] = value.strip()
    return name.strip(), settings


def _split_commas(text: str) -> list[str]:
    """Split at commas that are not inside brackets: ``orders=[2,3],c=4``."""
    parts, depth, start = list[str](), 0, 0
    for i, ch in enumerate(text):
        depth += (ch in "[(") - (ch in "])")
        if ch == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [p for p in [*parts, text[start:]] if p.strip()]


def make_settings(kind: type[T], raw: Mapping[str, Any], owner: str) -> T:
    """Build the struct, with typed values; an unknown or ill-typed setting is an InputError that names the mend."""
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    for key in raw:
        if key not in fields:
            raise InputError(f"{owner} has no setting '{key}'{nearest(key, fields)}")
    values = {key: _typed(value) for key, value in raw.items()}
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as fault:
        text = str(fault).replace("Object ", "").replace("`", "'")
        where = re.search(r"\$\.?([\w.]+)", text)
        field = where.group(1) if where else ""
        got = f" (got {raw.get(field.split('.')[0])!r})" if field else ""
        raise InputError(f"{owner}: setting {field or 'list'} is wrong{got}: {text.split(' - at')[0]}") from None


def _typed(value: Any) -> Any:
    """Read brackets as lists and k:v lists as maps; leave scalars to the struct's own types."""
    if isinstance(value, str) and value[:1] in "[(" and value[-1:] in "])":
        return [_typed(part.strip()) for part in _split_commas(value[1:-1])]
    return value
