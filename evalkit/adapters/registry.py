"""The installed adapters, and how a name on the command line becomes one.

Built-ins, entry points of group ``evalkit.adapters``, ``package.module:Class`` and ``file.py:Class`` come in by the same
path.  A class with ``row`` is an expert on the token clock, a subclass of Learner a learner on the chunk clock.  It names
its settings struct as ``Settings``; without one it takes no settings.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from evalkit.adapters.base import clock_of, settings_struct
from evalkit.errors import InputError, nearest
from evalkit.settings import limits, make_settings, split_spec

BUILT_IN = {
    "ppm": "evalkit.adapters.experts.ppm:Ppm",
    "best_agree": "evalkit.adapters.experts.hints:BestAgree",
    "tilt": "evalkit.adapters.experts.hints:Tilt",
    "match": "evalkit.adapters.experts.hints:Match",
    "hedge": "evalkit.adapters.experts.mixing:Hedge",
    "backoff": "evalkit.adapters.experts.mixing:Backoff",
    "log_bias": "evalkit.adapters.experts.rows:LogBias",
    "temperature": "evalkit.adapters.experts.rows:Temperature",
    "full_ttt": "evalkit.adapters.learners.whole:FullTtt",
    "lora_ttt": "evalkit.adapters.learners.lora_ttt:LoraTtt",
    "lora_lanes": "evalkit.adapters.learners.lora_lanes:LoraLanes",
    "muon_ttt": "evalkit.adapters.learners.whole:MuonTtt",
    "phased_ttt": "evalkit.adapters.learners.phased:PhasedTtt",
    "slot": "evalkit.adapters.learners.slot:Slot",
}
GROUP = "evalkit.adapters"
MOVED = {("lora_ttt", "lanes"): "lora_lanes:lanes=16", ("lora_ttt", "batched"): "lora_lanes:batched=true"}
"""(adapter, setting) that became an adapter of its own, and how it is written now."""


def known() -> dict[str, str]:
    """Name -> "module:Class" of every adapter that is installed; a built-in wins over an entry point of its name."""
    return {e.name: e.value for e in entry_points(group=GROUP)} | BUILT_IN


def adapter_class(name: str) -> type:
    """The class behind a name, ``module:Class`` or ``file.py:Class``.  InputError with the nearest name."""
    if ":" in name:
        return _import(name, name)
    table = known()
    if name not in table:
        raise InputError(f"unknown adapter '{name}'{nearest(name, table)}")
    return _import(table[name], name)


def make_adapter(name: str, raw: Mapping[str, Any] | None = None) -> Any:
    """Name and raw settings (strings of the command line, or TOML values) -> an adapter, ready for begin()."""
    kind, raw = adapter_class(name), raw or {}
    for setting in raw:
        if now := MOVED.get((name, setting)):
            raise InputError(f"adapter {name}: setting '{setting}' became an adapter of its own; write {now}")
    struct = settings_struct(kind)
    if struct is None:
        if raw:
            raise InputError(f"adapter {name} takes no settings, got '{next(iter(raw))}'")
        return kind()
    return kind(make_settings(struct, {k: _range(v) for k, v in raw.items()}, f"adapter {name}"))


def parse_adapter(text: str) -> Any:
    """``NAME[:key=value,...]`` -> an adapter, ready for begin()."""
    return make_adapter(*split_spec(text))


def describe(name: str | None = None) -> list[dict[str, Any]]:
    """Rows of ``evalkit adapters``: name, clock, summary, settings (name, default, doc); one row when named."""
    if name is not None:
        return [_row(name, adapter_class(name))]
    return [_row(each, adapter_class(each)) for each in known()]


def _row(name: str, kind: type) -> dict[str, Any]:
    summary = (inspect.getdoc(kind) or "").split("\n")[0]
    return {"name": name, "clock": clock_of(kind), "summary": summary, "settings": _settings_rows(kind)}


def _settings_rows(kind: type) -> list[dict[str, Any]]:
    struct = settings_struct(kind)
    if struct is None:
        return []
    defaults = struct()
    types, ranges = msgspec.inspect.type_info(struct).fields, limits(struct)  # pyright: ignore[reportAttributeAccessIssue]
    return [
        {
            "name": field.name,
            "default": msgspec.to_builtins(getattr(defaults, field.name)),
            "doc": ((getattr(field.type, "extra_json_schema", None) or {}).get("description", "")),
            "range": f"must {ranges[field.name]}" if field.name in ranges else "",
        }
        for field in types
    ]


def _range(value: Any) -> Any:
    """``2..7`` is [2, 3, 4, 5, 6, 7]."""
    found = re.fullmatch(r"(\d{1,6})\.\.(\d{1,6})", value) if isinstance(value, str) else None
    return list(range(int(found[1]), int(found[2]) + 1)) if found else value


def _import(target: str, name: str) -> type:
    where, _, attribute = target.rpartition(":")
    try:
        module = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except (ImportError, SyntaxError) as fault:
        raise InputError(f"adapter {name}: cannot import {where} ({fault})") from None
    kind = getattr(module, attribute, None)
    if not isinstance(kind, type):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise InputError(f"adapter {name}: {where} has no class '{attribute}'{nearest(attribute, classes)}")
    try:
        clock_of(kind)
    except InputError as fault:
        raise InputError(f"adapter {name}: {fault}") from None
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise InputError(f"adapter {name}: the learner {attribute} does not define {missing}")
    return kind


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"adapter file {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"evalkit_adapter_{path.stem}", path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
