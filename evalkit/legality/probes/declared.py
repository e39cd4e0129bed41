"""Checks of what a scorer declares: isolated documents, its build, and text known before the first token."""

from __future__ import annotations

import hashlib

import numpy as np

from evalkit.legality.probes.lab import Lab
from evalkit.legality.probes.probe import Outcome, Probe, pack
from evalkit.legality.probes.streams import noise, textlike
from evalkit.legality.probes.tolerance import Tolerance, moves
from evalkit.legality.scorer import Box, Int64

RECALLED = 0.99
RUN = 48


def isolation_outcome(box: Box, tokens: Int64, other: Int64, border: int, tolerance: Tolerance) -> Outcome:
    """Largest move of a score behind ``border`` (a BOS) when the documents before it are swapped, nats."""
    a, b = box.score(tokens)[border + 1 :], box.score(other)[border + 1 :]
    moved = moves(a, b)
    worst = int(moved.argmax()) if len(moved) else 0
    value = float(moved[worst]) if len(moved) else 0.0
    what = f"documents are declared isolated, but token {worst} after BOS moves by {value:.3g} nats with the document before"
    return Outcome(
        value=value, limit=tolerance.same(float(abs(a[worst])) if len(a) else 1.0), unit="nats", sentence=what
    )


def check_isolation(lab: Lab) -> int:
    """Swap what precedes a document; a finding under "declared" when a declared isolation leaks."""
    if not lab.box.facts.document_isolation:
        return 0
    for _ in range(4):
        n = max(8, lab.lengths.within(lab.effort.length) // 2)
        first, second, tail = (textlike(lab.rng, lab.vocab_size, lab.bos, n).tokens for _ in range(3))
        first, second = (_without(lab, x) for x in (first, second))
        a, b = np.concatenate([first, tail]), np.concatenate([second, tail])
        outcome = isolation_outcome(lab.box, a, b, n, lab.tolerance)
        if outcome.violated:
            lab.add("declared", Probe(test="document", tokens=pack(a), other=pack(b), position=n), outcome)
            break
    return 4


def _without(lab: Lab, tokens: Int64) -> Int64:
    """One document: BOS only at its start."""
    out = tokens.copy()
    inner = np.flatnonzero(out[1:] == lab.bos) + 1
    out[inner] = (lab.bos + 1 + lab.rng.integers(0, lab.vocab_size - 1, len(inner))) % lab.vocab_size
    return out


def build_outcome(box: Box, tokens: Int64, other: Int64) -> Outcome:
    """1 when the artifact changes with the validation text although two builds from one text agree, else 0."""
    digests = [hashlib.sha256(box.ask("build", x)).hexdigest()[:16] for x in (tokens, tokens, other)]
    if digests[0] != digests[1]:
        return Outcome(
            value=0.0, limit=0.5, unit="artifacts", sentence="two builds from one text differ: nothing is shown"
        )
    what = f"the artifact depends on the validation text: {digests[0]} with one, {digests[2]} with another"
    return Outcome(value=float(digests[0] != digests[2]), limit=0.5, unit="artifacts", sentence=what)


def check_build(lab: Lab) -> int:
    """Build with two validation texts; a finding under "causal" when the artifacts differ."""
    if "build" not in lab.box.facts.faces:
        return 0
    a = textlike(lab.rng, lab.vocab_size, lab.bos, 4 * lab.effort.length).tokens
    b = noise(lab.rng, lab.vocab_size, lab.bos, 4 * lab.effort.length).tokens
    outcome = build_outcome(lab.box, a, b)
    if outcome.violated:
        lab.add("causal", Probe(test="build", tokens=pack(a), other=pack(b)), outcome)
    return 3


def recall_outcome(box: Box, tokens: Int64, position: int, count: int) -> Outcome:
    """Share of the new bigrams of [position, position + count) that are booked above 0.99, as if known beforehand."""
    known, novel = known_beforehand(box, tokens)
    part = slice(position, position + count)
    n = int(novel[part].sum())
    value = float(known[part].sum() / n) if n >= RUN // 3 else 0.0
    what = f"{value:.0%} of the {n} new bigrams in tokens {position} to {position + count} are known beforehand (p > {RECALLED})"
    return Outcome(value=value, limit=0.75, unit="share", sentence=what)


def known_beforehand(box: Box, tokens: Int64) -> tuple[np.ndarray, np.ndarray]:
    """Positions booked above 0.99 whose bigram is new, and all positions whose bigram is new; bool [T] each."""
    novel = _novel(tokens)
    return (box.score(tokens) > np.log(RECALLED)) & novel, novel


def _novel(tokens: Int64) -> np.ndarray:
    """Positions whose bigram (x_{t-1}, x_t) did not occur before in the stream, bool [T]."""
    seen, novel = set(), np.ones(len(tokens), dtype=bool)
    for t in range(1, len(tokens)):
        pair = (int(tokens[t - 1]), int(tokens[t]))
        novel[t] = pair not in seen
        seen.add(pair)
    return novel


def check_recall(lab: Lab, given: Int64 | None) -> int:
    """Look for stretches of the caller's text that the artifact knows by heart; a finding under "provenance"."""
    if given is None or len(given) < RUN:
        return 0
    part = given[: min(4096, lab.lengths.most)]
    known, novel = known_beforehand(lab.box, part)
    hits, news = (np.convolve(x, np.ones(RUN), mode="valid") for x in (known, novel))
    start = int(np.where(news >= RUN // 3, hits / np.maximum(news, 1), 0.0).argmax())
    outcome = recall_outcome(lab.box, part[: start + RUN], start, RUN)
    if outcome.violated:
        lab.add(
            "provenance", Probe(test="recall", tokens=pack(part[: start + RUN]), position=start, count=RUN), outcome
        )
    return len(part)
