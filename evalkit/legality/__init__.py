"""Audits of legality: black-box probes, rulesets and verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.legality.verdict import Verdict

__all__ = ["audit"]


def audit(scorer: Any, *, ruleset: str = "strict", seconds: float = 60.0, seed: int = 0, **options: Any) -> Verdict:
    """Audit a scorer object or a factory of one, in this process.

    A scorer has ``vocab_size`` and ``score(tokens)`` (:mod:`evalkit.legality.scorer` lists the optional attributes).
    seconds: time limit, exceeded by one call of the scorer at most.
    options: ``target``, ``probes``, ``effort``, ``tokens`` as in :func:`evalkit.legality.referee.audit`.
    Raises InputError when it is not a scorer; never for what its score() does.
    """
    from evalkit.errors import InputError
    from evalkit.legality.referee import audit as referee
    from evalkit.legality.scorer import LocalBox, ScorerFault

    is_object = not isinstance(scorer, type) and callable(getattr(scorer, "score", None))
    if not is_object and not callable(scorer):
        raise InputError(f"this cannot be audited: a {type(scorer).__name__} has no score(tokens) and makes no scorer")
    try:
        box = LocalBox((lambda: scorer) if is_object else scorer)
    except ScorerFault as fault:
        raise InputError(f"this cannot be audited: {fault}") from None
    options.setdefault("target", type(scorer).__name__ if is_object else getattr(scorer, "__name__", "scorer"))
    return referee(box, ruleset=ruleset, seconds=seconds, seed=seed, **options)
