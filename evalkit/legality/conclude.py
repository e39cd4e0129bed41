"""The conclusion: findings become laws, and laws a verdict.

    a score moves with later tokens                      causal
    probabilities of one position sum to more than 1     normalised
    both, of one scorer                                  score-first: it had learned the token that it then scored
    first scores move with the last tokens, at any length; or several bookings of a target      single-pass

A ruleset then says what each broken law means.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from evalkit.legality.effort import LEAST_COLUMNS, LEAST_FORKS, LEAST_FORKS_LATIN
from evalkit.legality.probes.lab import Finding, Lab
from evalkit.legality.probes.mass import mean_excess
from evalkit.legality.probes.probe import command, size
from evalkit.legality.rules import Rule
from evalkit.legality.verdict import LAWS, LEDGERS, Evidence, Result, Verdict, gate_fraction


def conclude(lab: Lab, rules: dict[str, Rule], verdict: Verdict) -> None:
    """Fill in laws, ledgers, evidence, power and the verdict itself."""
    _set_aside(lab, verdict)
    _derive(lab)
    verdict.laws = {"causal": _causal(lab), "normalised": _normalised(lab), **_implied(lab)}
    verdict.ledgers = _ledgers(lab)
    _count_checks(verdict)
    verdict.power = _power(lab)
    verdict.evidence = [_evidence(verdict.target, f) for f in lab.findings]
    verdict.notes = list(dict.fromkeys(lab.notes))
    verdict.rules = [{"check": r.check, "severity": r.severity, "source": r.source} for r in rules.values()]
    verdict.trace = {
        "forks": [msgspec.to_builtins(f) for f in lab.forks],
        "cuts": [msgspec.to_builtins(c) for c in lab.cuts],
    }
    verdict.calls, verdict.replayed_tokens = lab.box.meter.calls, lab.box.meter.tokens
    if lab.lengths.sentence():
        verdict.notes.append(lab.lengths.sentence())
    _apply(rules, verdict, lab)


def _enough(lab: Lab) -> bool:
    """Is the least power reached: sums over the vocabulary, fewer beside a Latin design, or an engine's own rows?"""
    beside = lab.full_forks >= LEAST_FORKS_LATIN and len(lab.columns) >= LEAST_COLUMNS
    return lab.full_forks >= LEAST_FORKS or beside or (lab.withheld and lab.summed)


def _more(lab: Lab) -> str:
    """What would suffice, in the units of the lab's clock."""
    if not lab.suffices:
        return f"give more --{lab.unit}"
    return f"about {lab.suffices:.0f} {lab.unit} would suffice: --{lab.unit} {1.2 * lab.suffices:.0f}"


def _set_aside(lab: Lab, verdict: Verdict) -> None:
    """What was seen once and not again is no proof; it is no clean bill either."""
    kept = [f for f in lab.findings if f.confirmed or f.law == "protocol"]
    for f in lab.findings:
        if f not in kept:
            verdict.reason = verdict.reason or f"{f.law}: {f.outcome.sentence}, but not when asked again"
    lab.findings = kept


def _derive(lab: Lab) -> None:
    """Suffix dependence and excess mass together: the token was learned before it was scored."""
    ahead = lab.found("causal", "suffix")
    excess = next((f for f in lab.findings if f.law == "normalised" and f.probe.test == "mass"), None)
    if ahead and excess is not None and not lab.found("score-first"):
        what = f"{excess.outcome.sentence}, and scores move with later tokens: what is scored had been learned"
        outcome = msgspec.structs.replace(excess.outcome, sentence=what)
        lab.findings.append(Finding("score-first", excess.probe, outcome, excess.confirmed))


def _causal(lab: Lab) -> Result:
    probes = len(lab.cuts)
    worst = max((c.moved for c in lab.cuts), default=None)
    result = Result(status="ok" if probes else "not-tested", probes=probes, worst=worst, unit="nats")
    result.detail = f"{sum(c.tested for c in lab.cuts):,} pairs of a position and a changed future"
    return _broken(lab, "causal", result)


def _normalised(lab: Lab) -> Result:
    full = [f.mass for f in lab.forks if f.full]
    result = Result(probes=len(lab.forks), unit="probability", worst=max((f.mass for f in lab.forks), default=None))
    if full:
        result.status, result.detail = "ok", f"Z from {min(full):.6f} to {max(full):.6f}, mean {np.mean(full):.6f}"
        if min(full) < 1.0 - lab.tolerance.mass(lab.effort.long_length):
            result.status, result.detail = "warning", result.detail + "; sub-normalised: wasteful, legal"
        excess, allowed = mean_excess(lab)
        if excess > allowed:
            result.status = "warning"
            result.detail += f"; the mean exceeds 1 by {excess:.2g}, rounding allows {allowed:.2g}"
    if lab.strict_rows:
        seen = f"{lab.strict_rows} rows with the target withheld sum to 1"
        result.detail = f"{result.detail}; {seen}" if result.detail else seen
        result.status = "ok" if lab.summed and result.status == "not-tested" else result.status
    elif not full and lab.screens:
        result.detail = f"{lab.screens} estimates only: no sum over all {lab.vocab_size} tokens fitted the time"
    return _broken(lab, "normalised", result)


def _implied(lab: Lab) -> dict[str, Result]:
    """Score-first and single-pass have no probe of their own: they hold when the two measurable laws hold."""
    out = {}
    for law in ("score-first", "single-pass"):
        tested = bool(lab.cuts) and lab.summed
        result = Result(status="ok" if tested else "not-tested", probes=len(lab.cuts) + len(lab.forks))
        result.detail = "implied by causal and normalised"
        out[law] = _broken(lab, law, result)
    for law in out:
        if out[law].status == "ok" and (lab.found("causal") or lab.found("normalised")):
            out[law].status = "not-tested"
            out[law].detail = "not separable: causal or normalised is broken"
    return out


def _ledgers(lab: Lab) -> dict[str, Result]:
    faces, out = lab.box.facts.faces, {}
    asked = {
        "coverage": "ledger" in faces,
        "bytes": {"byte_counts", "encode"} <= faces or {"byte_counts", "decode"} <= faces,
        "provenance": lab.recalled > 0,
        "declared": lab.box.facts.document_isolation,
        "record": False,
    }
    why = {
        "coverage": "no ledger(): one score a position is taken as one booking",
        "bytes": "no byte_counts()",
        "provenance": "no validation tokens given",
        "declared": "nothing declared",
        "record": "no run to compare with",
    }
    for name in LEDGERS:
        result = Result(status="ok" if asked[name] else "not-tested", detail="" if asked[name] else why[name])
        out[name] = _broken(lab, name, result)
    return out


def _count_checks(verdict: Verdict) -> None:
    """Checks speak for the ledger they belong to: a failed one breaks it, passed ones make it ok."""
    for check in verdict.checks:
        if not check.ledger or check.status not in ("ok", "violated"):
            continue
        result = verdict.ledgers[check.ledger]
        if (check.status == "violated" and result.status != "violated") or result.status == "not-tested":
            result.status, result.detail = check.status, check.detail
        result.probes += 1


def _broken(lab: Lab, law: str, result: Result) -> Result:
    found = [f for f in lab.findings if f.law == law]
    if found:
        result.status = "violated"
        result.detail = found[0].outcome.sentence
        result.worst = max([f.outcome.value for f in found] + ([result.worst] if result.worst is not None else []))
        result.unit = found[0].outcome.unit
        result.probes = max(result.probes, len(found))
    return result


def _evidence(target: str, finding: Finding) -> Evidence:
    probe = msgspec.to_builtins(finding.probe)
    return Evidence(
        law=finding.law,
        test=finding.probe.test,
        position=finding.probe.position,
        stream_tokens=size(finding.probe.tokens),
        value=finding.outcome.value,
        limit=finding.outcome.limit,
        unit=finding.outcome.unit,
        sentence=finding.outcome.sentence,
        reproduce=command(target, finding.probe),
        probe=probe,
        confirmed=finding.confirmed,
    )


def _power(lab: Lab) -> dict[str, Any]:
    """How much could hide: by stratum, and over random positions."""
    full = [f for f in lab.forks if f.full]
    strata = {name: sum(f.stratum == name for f in full) for name in sorted({f.stratum for f in full})}
    families = dict.fromkeys(dict.fromkeys([c.stream for c in lab.cuts] + [f.stream for f in full]), 0)
    return {
        "confidence": 0.95,
        "lengths": {"least": lab.lengths.least, "most": lab.lengths.most, "multiple": lab.lengths.multiple},
        "families": {
            name: {
                "cuts": (n := sum(c.stream == name for c in lab.cuts)),
                "full_forks": (m := sum(f.stream == name for f in full)),
                "gate_fraction_causal": gate_fraction(n),
                "gate_fraction_normalised": gate_fraction(m),
            }
            for name in families
        },
        "longest_stream": max([f.length for f in lab.forks] + [c.length for c in lab.cuts], default=0),
        "normalised": {
            "forks": len(lab.forks),
            "screens": lab.screens,
            "full_forks": lab.full_forks,
            "gate_fraction": gate_fraction(lab.full_forks),
            "random_positions": strata.get("random", 0),
            "gate_fraction_random": gate_fraction(strata.get("random", 0)),
            "strata": {name: {"forks": n, "gate_fraction": gate_fraction(n)} for name, n in strata.items()},
        },
        "latin": {
            "columns": len(lab.columns),
            "full_forks": strata.get("latin", 0),
            "mean": float(np.mean(lab.columns)) if lab.columns else None,
            "contexts": len(lab.contexts),
            "of": lab.contexts_of,
        },
        "causal": {
            "replays": len(lab.cuts),
            "distinct_cuts": len({(c.stream, c.length, c.cut) for c in lab.cuts}),
            "pairs": sum(c.tested for c in lab.cuts),
            "gate_fraction": gate_fraction(len({(c.stream, c.length, c.cut) for c in lab.cuts})),
        },
    }


def _apply(rules: dict[str, Rule], verdict: Verdict, lab: Lab) -> None:
    """Severities turn broken laws into the verdict; a law that was not tested makes it inconclusive."""
    results = verdict.results()
    for name, result in results.items():
        if result.status == "violated" and rules[name].severity != "violation":
            result.status = "warning"
    if verdict.violated():
        verdict.verdict = "violation"
        verdict.reason = "; ".join(f"{name}: {results[name].detail}" for name in sorted(verdict.violated()))
    elif verdict.reason:
        verdict.verdict = "inconclusive"
    elif any(verdict.laws[law].status == "not-tested" for law in LAWS):
        names = [law for law in LAWS if verdict.laws[law].status == "not-tested"]
        verdict.verdict, verdict.reason = "inconclusive", f"not tested: {', '.join(names)}; {_more(lab)}"
    elif not _enough(lab):
        verdict.reason = (
            f"only {lab.full_forks} full sums fitted the time, {LEAST_FORKS} are asked for "
            f"({LEAST_FORKS_LATIN} beside a Latin design); {_more(lab)}"
        )
    else:
        verdict.verdict = "legal"
