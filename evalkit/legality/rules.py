"""The three rulesets under which a finding is a violation; every rule names its source.

A ruleset maps what was *measured* (a law, a ledger, a property) to "violation", "warning" or "report".
"""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.errors import InputError, nearest

UPSTREAM = "openai/parameter-golf"
"""README, Artifact: code and compressed model together, decimal."""


@dataclass(frozen=True)
class Rule:
    """``check``: what is measured; ``severity``: what follows when it fails."""

    check: str
    severity: str
    statement: str
    source: str


STRICT = (
    Rule(
        "causal",
        "violation",
        "the distribution of a token is a function of the artifact and the tokens before it",
        "C1, #1017",
    ),
    Rule(
        "normalised",
        "violation",
        "one distribution over the whole vocabulary, fixed before the token is known",
        "C2, #1017",
    ),
    Rule(
        "score-first",
        "violation",
        "a score is booked before anything that depends on its token changes",
        "C3, #1017",
    ),
    Rule("single-pass", "violation", "every token is booked once, from left to right", "C4, #1017"),
    Rule("coverage", "violation", "every target is booked; a tail shorter than seq_len may be missing", "README, Data"),
    Rule("bytes", "violation", "the denominator is the number of bytes of the original text", "README, Metric; #1604"),
    Rule("declared", "violation", "what a scorer declares of itself is true", "docs/verdicts.md, Rulesets; #1988"),
    Rule("record", "violation", "the numbers belong to the run that is kept beside them", "#1594, #2124, #2148"),
    Rule(
        "provenance",
        "violation",
        "no validation token is stored in the artifact",
        "README, Data (paid prefix, 2026-03-20)",
    ),
    Rule("stream-order", "violation", "tokens are processed in stream order", "C4, #1017; docs/verdicts.md, Rulesets"),
    Rule("sub-normalised", "warning", "probability is left unused: wasteful, legal", "docs/verdicts.md, The argument"),
)

README = (
    Rule(
        "causal",
        "violation",
        "no training on validation tokens before they are evaluated",
        "README, Data (2026-03-20)",
    ),
    Rule(
        "normalised",
        "violation",
        "bits per byte are those of a compressor: scores that are no code length are no score",
        "README, Metric",
    ),
    Rule("score-first", "violation", "test-time training only on tokens already graded", "README, Data (2026-03-20)"),
    Rule("single-pass", "warning", "the README does not count passes or bookings", "README is silent; see C4, #1017"),
    Rule("coverage", "violation", "the fixed validation split is scored in full", "README, Data"),
    Rule("bytes", "violation", "val_bpb is over the bytes of the text, proved with certainty", "README, Metric"),
    Rule("declared", "warning", "the README asks for no declarations", "README is silent"),
    Rule("record", "violation", "the numbers belong to the run that is kept beside them", "#1594, #2124, #2148"),
    Rule("provenance", "violation", "the paid prefix is out of scope", "README, Data (2026-03-20)"),
    Rule("stream-order", "warning", "evaluate however you like", "README, Data"),
    Rule("sub-normalised", "warning", "probability is left unused: wasteful, legal", "README, Metric"),
)

ORGANIZER = (
    Rule(
        "causal",
        "violation",
        "no later token and no statistic of later tokens in a score",
        "#677 (2026-03-27), #991, #1376; C1 cited in #1902",
    ),
    Rule(
        "normalised",
        "violation",
        "a full normalised distribution at the scoring point",
        "#659, #1902, #1972 (2026-05-02)",
    ),
    Rule("score-first", "violation", "pre-quantisation and score-after-adapt training is out", "#402, #549, #1972"),
    Rule("single-pass", "violation", "two-pass and rescoring are training on the evaluation set", "#677, #982, #991"),
    Rule("coverage", "violation", "the whole split; a tail shorter than seq_len may be missing", "README, Data; #1902"),
    Rule("bytes", "violation", "byte accounting as audited", "#1184 removed; #1806"),
    Rule(
        "declared", "violation", "no mixing across BOS where documents are isolated", "#1797 (2026-04-26), #1851, #1855"
    ),
    Rule("record", "violation", "the numbers belong to the run that is kept beside them", "#1594, #2124, #2148"),
    Rule("provenance", "violation", "the paid prefix is out of scope", "#168, #262, #275"),
    Rule(
        "stream-order",
        "report",
        "a declared processing order is disclosed and judged apart",
        "#1610 (merged, disclosed)",
    ),
    Rule("sub-normalised", "warning", "probability is left unused: wasteful, legal", "#1017"),
)

RULESETS: dict[str, tuple[Rule, ...]] = {"strict": STRICT, "readme": README, "organizer-2026-05": ORGANIZER}


def ruleset(name: str) -> dict[str, Rule]:
    """The rules of a set by what they check; InputError with the nearest name."""
    if name not in RULESETS:
        raise InputError(f"there is no ruleset '{name}'{nearest(name, RULESETS)}")
    return {rule.check: rule for rule in RULESETS[name]}
