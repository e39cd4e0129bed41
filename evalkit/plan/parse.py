"""Plans by name, as on the command line and in a recipe."""

from __future__ import annotations

from evalkit.errors import InputError, nearest
from evalkit.plan.plan import Banded, Disjoint, Document, Plan, Sliding
from evalkit.settings import make_settings, split_spec

PLANS: dict[str, type[Plan]] = {p.name: p for p in (Banded, Disjoint, Document, Sliding)}


def parse_plan(text: str) -> Plan:
    """``"sliding:seq_len=512,stride=64"`` -> Sliding(seq_len=512, stride=64)."""
    name, raw = split_spec(text)
    if name not in PLANS:
        raise InputError(f"no plan is called '{name}'{nearest(name, PLANS)}")
    return make_settings(PLANS[name], raw, f"plan {name}")
