"""Counterfactual normalisation: the probabilities of all tokens that could stand at a position sum to at most 1.

Each fork replays the stream once for every token v, with x_t := v, and sums what is booked for v.  Any set of tokens
that exceeds 1 proves a violation, so likely tokens are asked first and the asking stops at the proof.  Half of the
forks keep the rest of the stream (a scorer that learns a chunk before booking it needs the chunk), half end at t.
With a large vocabulary, many positions are screened by an estimate first, and the sums go where it is highest.
"""

from __future__ import annotations

import numpy as np

from evalkit.legality.effort import SCREEN_TOKENS
from evalkit.legality.probes.lab import Fork, Lab, Scored
from evalkit.legality.probes.positions import onset_positions, pick, strata
from evalkit.legality.probes.probe import Probe, mass_of, pack, replay, summed
from evalkit.legality.probes.suffix import compare
from evalkit.legality.scorer import Float64, Int64

BLOCK = 32


def sweep(lab: Lab, scored: Scored, count: int, screens: int = 0, first: int = 0) -> None:
    """Fork ``scored`` at ``count`` positions from ``first`` on: in all strata in turn, where an estimate is high too."""
    onsets, first = onset_positions(scored.base, scored.changed), max(first, lab.first_target)
    groups = strata(scored.stream, scored.base, onsets, lab.rng)
    if screens:
        groups = {"screened": _screened(lab, scored, groups, screens, first), **groups}
    for i, (stratum, position) in enumerate(pick(groups, count, first)):
        if lab.late() or lab.found("normalised", "mass"):
            break
        keep = scored.order is not None or i % 2 == 0
        if _may_fork(lab, scored, position):
            fork(lab, scored, position, stratum, keep=keep)


def _may_fork(lab: Lab, scored: Scored, position: int) -> bool:
    """In a declared order BOS stays where it is: documents, and with them the order, would change."""
    return scored.order is None or scored.stream.tokens[position] != lab.bos


def _screened(lab: Lab, scored: Scored, groups: dict[str, list[int]], count: int, first: int) -> list[int]:
    """Positions by estimated Z, the highest first.  A subset that exceeds 1 by itself is a finding at once."""
    found = []
    for _, position in pick(groups, count, first):
        if lab.late() or lab.found("normalised", "mass"):
            break
        if _may_fork(lab, scored, position):
            found.append((estimate(lab, scored, position), position))
    return [position for _, position in sorted(found, reverse=True)]


def estimate(lab: Lab, scored: Scored, position: int) -> float:
    """Z at one position from likely tokens, asked one by one, and a random sample that stands for all others."""
    candidates = ranked(lab, scored, position)
    likely, rest = candidates[: SCREEN_TOKENS // 2], candidates[SCREEN_TOKENS // 2 :]
    asked = np.concatenate([likely, rest[: SCREEN_TOKENS // 2]])
    tokens = scored.stream.tokens if scored.order is not None else scored.stream.tokens[: position + 1]
    masses = mass_of(lab.box, tokens, position, asked)
    _suspect(lab, tokens, position, asked, masses)
    lab.screens += 1
    return float(masses[: len(likely)].sum() + masses[len(likely) :].mean() * len(rest))


def fork(lab: Lab, scored: Scored, position: int, stratum: str, *, keep: bool) -> None:
    """Sum the probabilities of all tokens at one position; a finding when they exceed 1."""
    tokens = scored.stream.tokens if keep else scored.stream.tokens[: position + 1]
    candidates = ranked(lab, scored, position)
    limit = 1.0 + lab.tolerance.mass(len(tokens))
    asked, masses = 0, np.zeros(0)
    while asked < len(candidates) and masses.sum() <= limit:
        block = candidates[asked : asked + BLOCK]
        replays = np.repeat(tokens[None, :], len(block), axis=0)
        replays[:, position] = block
        scores = replay(lab.box, replays)
        masses = np.concatenate([masses, np.exp(np.minimum(scores[:, position], 50.0))])
        _earlier_scores(lab, scored, position, replays, scores, keep=keep)
        asked += len(block)
    total, full = float(masses.sum()), asked == len(candidates)
    lab.forks.append(Fork(scored.stream.name, len(scored.stream), position, stratum, total, full))
    _suspect(lab, tokens, position, candidates[:asked], masses)


def _earlier_scores(lab: Lab, scored: Scored, position: int, replays: Int64, scores: Float64, *, keep: bool) -> None:
    """A fork is a suffix probe too: what is booked before x_t must not move with x_t."""
    if lab.found("causal", "suffix"):
        return
    if keep:
        time = position if scored.order is None else int(np.flatnonzero(scored.order == position)[0])
        compare(lab, scored, time, "fork", replays[-1], scores[-1])
    elif len(scores) > 1:
        short = Scored(scored.stream.head(replays[0]), scores[0])
        compare(lab, short, position, "fork", replays[-1], scores[-1])


def ranked(lab: Lab, scored: Scored, position: int) -> Int64:
    """Candidates, likely ones first: the true token, followers of the same context, frequent tokens, then the rest."""
    tokens, vocab = scored.stream.tokens, lab.vocab_size
    prefix = tokens[:position]
    followers = prefix[1:][prefix[:-1] == prefix[-1]][::-1] if position else prefix
    frequent = np.argsort(-np.bincount(prefix, minlength=vocab), kind="stable")[:16] if position else prefix
    likely = dict.fromkeys(np.concatenate([tokens[position : position + 1], followers, frequent]).tolist())
    rest = lab.rng.permutation(vocab)
    merged = np.array(list(dict.fromkeys([*likely, *rest.tolist()])))
    return merged if scored.order is None else merged[merged != lab.bos]


def _suspect(lab: Lab, tokens: Int64, position: int, asked: Int64, masses: Float64) -> None:
    """A finding when the masses of the tokens ``asked`` sum to more than 1, with the fewest tokens that still prove it."""
    outcome = summed(masses, position, len(tokens), lab.tolerance)
    if not outcome.violated:
        return
    by_mass = np.argsort(-masses, kind="stable")
    enough = by_mass[: int(np.searchsorted(np.cumsum(masses[by_mass]), outcome.limit, side="right")) + 1]
    probe = Probe(test="mass", tokens=pack(tokens), position=position, subset=np.sort(asked[enough]).tolist())
    lab.add("normalised", probe, summed(masses[enough], position, len(tokens), lab.tolerance))


def first_target(lab: Lab, tokens: Int64) -> int:
    """1 when token 0 is given and not coded (its score is 0 whatever stands there), else 0."""
    if lab.box.score(tokens[:2])[0] != 0.0:
        return 0
    flipped = tokens[:2].copy()
    flipped[0] = (flipped[0] + 1) % lab.vocab_size
    return 1 if lab.box.score(flipped)[0] == 0.0 else 0


def mean_excess(lab: Lab) -> tuple[float, float]:
    """Mean Z - 1 over full forks, and what rounding allows."""
    masses = np.array([f.mass for f in lab.forks if f.full])
    if len(masses) < 8:
        return 0.0, 1.0
    return float(masses.mean() - 1.0), lab.tolerance.mean_mass(masses)
