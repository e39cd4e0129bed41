"""A verdict: its laws, ledgers, power and evidence, and their JSON."""

from __future__ import annotations

import math
from typing import Any

import msgspec

LAWS = ("causal", "normalised", "score-first", "single-pass")
LEDGERS = ("coverage", "bytes", "provenance", "declared", "record")
SCHEMA = 1


class Result(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One law or ledger.  ``status``: ok, violated, warning, not-tested.  ``worst`` in ``unit``; ``probes`` asked."""

    status: str = "not-tested"
    probes: int = 0
    worst: float | None = None
    unit: str = ""
    detail: str = ""


class Evidence(msgspec.Struct, kw_only=True):
    """One counter-example: the probe, as small as it could be made, and the command that asks it again."""

    law: str
    test: str
    position: int
    stream_tokens: int
    value: float
    limit: float
    unit: str
    sentence: str
    reproduce: str
    probe: dict[str, Any]
    confirmed: bool = True
    """Was it seen again when asked on its own?"""


class Check(msgspec.Struct, kw_only=True):
    """One more thing that was looked at.  ``ledger``: what it counts for when it fails ("" for none)."""

    test: str
    name: str
    status: str
    detail: str
    ledger: str = ""


class Verdict(msgspec.Struct, kw_only=True):
    """``verdict``: legal, violation or inconclusive (``reason`` says why)."""

    schema: int = SCHEMA
    target: str = ""
    verdict: str = "inconclusive"
    reason: str = ""
    ruleset: str = "strict"
    laws: dict[str, Result] = msgspec.field(default_factory=dict)
    ledgers: dict[str, Result] = msgspec.field(default_factory=dict)
    evidence: list[Evidence] = msgspec.field(default_factory=list)
    power: dict[str, Any] = msgspec.field(default_factory=dict)
    track: dict[str, Any] = msgspec.field(default_factory=dict)
    checks: list[Check] = msgspec.field(default_factory=list)
    """Of engine targets: what else was looked at."""
    notes: list[str] = msgspec.field(default_factory=list)
    rules: list[dict[str, str]] = msgspec.field(default_factory=list)
    vocab_size: int = 0
    seed: int = 0
    calls: int = 0
    replayed_tokens: int = 0
    seconds: float = 0.0
    trace: dict[str, list[Any]] = msgspec.field(default_factory=dict)
    """What the page draws: ``forks`` (Z over positions) and ``cuts`` (suffix sensitivity)."""

    @property
    def exit_code(self) -> int:
        """0 when legal, else 1: the answer is not yes."""
        return 0 if self.verdict == "legal" else 1

    def results(self) -> dict[str, Result]:
        """Laws and ledgers by name."""
        return {**self.laws, **self.ledgers}

    def violated(self) -> set[str]:
        """Names of the laws and ledgers that are broken."""
        return {name for name, result in self.results().items() if result.status == "violated"}

    def to_json(self) -> str:
        """JSON with finite numbers only."""
        return msgspec.json.format(msgspec.json.encode(_finite(msgspec.to_builtins(self))), indent=1).decode()


def from_checks(checks: list[Check], target: str, ruleset: str, severity: str) -> Verdict:
    """A verdict on provenance alone: the laws are not tested, so it is legal as far as the checks go."""
    verdict = Verdict(target=target, ruleset=ruleset, checks=checks)
    verdict.laws = {law: Result(detail="no scorer was given") for law in LAWS}
    broken = [c for c in checks if c.status == "violated"]
    status = "ok" if any(c.status == "ok" and c.ledger for c in checks) else "not-tested"
    result = Result(status=status, probes=len(checks))
    if broken:
        result.status = "violated" if severity == "violation" else "warning"
        result.detail = broken[0].detail
    verdict.ledgers = {"provenance": result}
    verdict.verdict = {"violated": "violation", "not-tested": "inconclusive"}.get(result.status, "legal")
    verdict.reason = result.detail
    verdict.notes = ["no scorer was given, so no law was tested: this says only where text and artifact came from"]
    return verdict


def gate_fraction(probes: int) -> float:
    """Largest share of positions a silent gate may still occupy, at 95 %, after ``probes`` clean random positions.

    1 - 0.05^(1/n), which is 3/n for large n (the rule of three).
    """
    return 1.0 - 0.05 ** (1.0 / probes) if probes > 0 else 1.0


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(1e300, value)
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value
