"""What is known about a specimen: its mechanism, the law it breaks, where it was seen, and its fix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LAWS = ("causal", "normalised", "score-first", "single-pass")


@dataclass(frozen=True)
class Specimen:
    """A violation with its minimal legal fix, or a legal look-alike (``fixed`` is None and ``law`` is "")."""

    id: str
    title: str
    law: str
    """What the audit must name: a law, a ledger ("bytes", "coverage", "provenance") or "declared"; "" = legal."""
    broken: Callable[[], Any]
    fixed: Callable[[], Any] | None = None
    also: tuple[str, ...] = ()
    """Other laws that the same evidence breaks."""
    sources: tuple[int, ...] = ()
    """Pull requests and issues of openai/parameter-golf."""
    elsewhere: tuple[str, ...] = ()
    """The same of other repositories, "owner/name#number"."""
    ruleset: str = "strict"
    tokens: Callable[[], Any] | None = None
    """Validation tokens that the audit is given, where a specimen is about them."""

    @property
    def legal(self) -> bool:
        return not self.law
