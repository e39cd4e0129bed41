"""Settings structs with their ranges, and how ``NAME:key=value,key=value`` becomes one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from evalkit.errors import InputError, nearest

T = TypeVar("T", bound=msgspec.Struct)

Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0, lt=1e30)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class Limits(NamedTuple):
    """What a number may be, from the ``Meta`` of its field; for ``items`` the number is how many there are."""

    gt: float | None
    ge: float | None
    lt: float | None
    le: float | None
    default: Any = None
    items: bool = False

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"lie within {self.ge:g}..{self.le:g}"
        if self.ge is not None:
            return f"be at least {self.ge:g}" if self.lt is None else f"be in [{self.ge:g}, {self.lt:g})"
        return f"be a positive number (below {self.lt:g})".replace("e+", "e")

    def require(self, owner: str, name: str, value: Any) -> None:
        """InputError unless the value, or each of a tuple of values, is inside (NaN is not); None is none."""
        if self.items:
            name, value = f"{name} (number of)", len(value)
        for each in value if isinstance(value, list | tuple) else (value,):
            low = each is None or (each > self.gt if self.ge is None else each >= self.ge)
            high = each is None or ((self.lt is None or each < self.lt) and (self.le is None or each <= self.le))
            if not (low and high):
                usual = "" if self.default is None else f"; the default is {msgspec.to_builtins(self.default)}"
                raise InputError(f"{owner}: setting {name} must {self}, got {each:g}{usual}")


@cache
def limits(kind: type[msgspec.Struct]) -> dict[str, Limits]:
    """Field -> its limits, for the fields that have some."""
    fields = msgspec.inspect.type_info(kind).fields  # pyright: ignore[reportAttributeAccessIssue]
    found = ((f, _limits(f.type)) for f in fields)
    return {
        f.name: limit._replace(default=None if f.required else f.default) for f, limit in found if limit is not None
    }


def _limits(kind: Any) -> Limits | None:
    match kind:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            found = Limits(kind.gt, kind.ge, kind.lt, kind.le)
            return found if any(bound is not None for bound in found[:4]) else None
        case msgspec.inspect.Metadata():
            return _limits(kind.type)
        case msgspec.inspect.VarTupleType(min_length=int(least)):
            return Limits(None, least, None, None, items=True)
        case msgspec.inspect.VarTupleType():
            return _limits(kind.item_type)
        case msgspec.inspect.UnionType(types=parts) | msgspec.inspect.TupleType(item_types=parts):
            return next(filter(None, map(_limits, parts)), None)
        case _:
            return None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every adapter's settings: frozen, strict, keyword-only; units stand in the field's name or description.

    A range is told once, in the field's type or ``Meta``; a subclass checks only what two fields say together.
    """

    owner: ClassVar[str] = "settings"
    """Who an error sentence speaks of."""

    def __post_init__(self) -> None:
        for name, limit in limits(type(self)).items():
            limit.require(self.owner, name, getattr(self, name))


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
        with contextlib.suppress(KeyError, TypeError, ValueError):
            given = values[field]
            numbers = [float(each) for each in given] if isinstance(given, list | tuple) else float(given)
            limits(kind)[field].require(owner, field, given if limits(kind)[field].items else numbers)
        got = f" (got {raw.get(field.split('.')[0])!r})" if field else ""
        raise InputError(f"{owner}: setting {field or 'list'} is wrong{got}: {text.split(' - at')[0]}") from None


def _typed(value: Any) -> Any:
    """Read brackets as lists and k:v lists as maps; leave scalars to the struct's own types."""
    if isinstance(value, str) and value[:1] in "[(" and value[-1:] in "])":
        return [_typed(part.strip()) for part in _split_commas(value[1:-1])]
    return value
