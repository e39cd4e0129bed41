"""Suffix invariance: no score may depend on what comes after it (other suffixes, cut streams, longer streams).

One replay with a suffix replaced from ``cut`` on tests every position before ``cut``; to see a scorer that looks one
token ahead, the cut must stand right behind the position, so cuts follow the positions where the scorer is active.
"""

from __future__ import annotations

import numpy as np

from evalkit.legality.probes.lab import Cut, Lab, Scored
from evalkit.legality.probes.positions import edges, onset_positions, pick, strata
from evalkit.legality.probes.probe import Probe, first_difference, moved, pack
from evalkit.legality.probes.tolerance import looks_like_rounding, moves
from evalkit.legality.scorer import Float64, Int64

SAME_LENGTH = ("random", "flip", "permuted", "flip", "constant", "random", "copy", "flip", "last")
OTHER_LENGTH = ("truncated", "lengthened")


def sweep(lab: Lab, scored: Scored, count: int) -> None:
    """Replay ``scored`` with ``count`` other suffixes; stop at a violation that is not rounding."""
    for i, cut in enumerate(_cuts(lab, scored, count)):
        if lab.late() or lab.found("causal", "suffix"):
            break
        kind = SAME_LENGTH[i % len(SAME_LENGTH)]
        if i % 5 == 4 and scored.order is None:
            kind = OTHER_LENGTH[(i // 5) % 2]
        try_cut(lab, scored, cut, kind)


def _cuts(lab: Lab, scored: Scored, count: int) -> list[int]:
    """Half of the cuts right behind active positions, the others at edges and anywhere."""
    length = len(scored.stream)
    onsets = onset_positions(scored.base, scored.changed)
    groups = strata(scored.stream, scored.base, onsets, lab.rng)
    behind = [t + 1 for _, t in pick(groups, max(2, count // 2)) if t + 1 < length]
    spread = lab.rng.permutation(edges(length))[: max(2, count // 3)].tolist()
    anywhere = lab.rng.permutation(np.arange(2, length)).tolist()
    merged = dict.fromkeys(c for group in (behind, spread, [length - 1, 2], anywhere) for c in group)
    chosen = np.array(list(merged)[:count])
    return lab.rng.permutation(chosen).tolist()


def try_cut(lab: Lab, scored: Scored, cut: int, kind: str) -> None:
    """One replay: compare everything booked before the cut."""
    other = rewrite(lab, scored, cut, kind)
    if np.array_equal(other, scored.stream.tokens):
        return
    scores = lab.box.score(other)
    if len(other) == len(scored.stream):
        scored.changed.append((first_difference(scored.stream.tokens, other), scores))
    compare(lab, scored, cut, kind, other, scores)


def compare(lab: Lab, scored: Scored, cut: int, kind: str, other: Int64, scores: Float64) -> None:
    """Book the largest move before ``cut``; a finding when it is beyond tolerance and is not rounding."""
    before, base = scored.booked_before(cut), scored.base[: len(scores)]
    shifts, where = moves(base[before], scores[before]), np.arange(len(scored.stream))[before]
    position = int(where[shifts.argmax()]) if len(shifts) else 0
    tokens, name = scored.stream.tokens, scored.stream.name
    lab.cuts.append(Cut(name, len(tokens), cut, kind, float(shifts.max(initial=0.0)), position, len(shifts)))
    outcome = moved(tokens, other, position, float(base[position]), float(scores[position]), lab.tolerance)
    if not len(shifts) or not outcome.violated:
        return
    scale = np.minimum(np.abs(base[before]), 1e3)
    if (
        len(other) != len(tokens)
        and outcome.value < 1.0
        and looks_like_rounding(_signed(base[before], scores[before]), scale, lab.tolerance)
    ):
        lab.notes.append(
            f"scores move by up to {outcome.value:.2g} nats with the stream's length, everywhere: taken as rounding"
        )
        return
    ordered = scored.order is not None
    lab.add(
        "causal",
        Probe(test="suffix", tokens=pack(tokens), other=pack(other), position=position, order=ordered),
        outcome,
    )


def _signed(a: Float64, b: Float64) -> Float64:
    """Differences with their signs; 0 where both are minus infinity."""
    return np.subtract(a, b, out=np.zeros(len(a)), where=a != b)


def rewrite(lab: Lab, scored: Scored, cut: int, kind: str) -> Int64:
    """The stream with everything booked from ``cut`` on rewritten.  In a declared order document borders stay."""
    tokens, rng, vocab = scored.stream.tokens, lab.rng, lab.vocab_size
    if kind == "truncated":
        return tokens[:cut].copy()
    if kind == "lengthened":
        length = lab.lengths.within(len(tokens) + int(rng.integers(1, 40)))
        return np.concatenate([tokens[:cut], rng.integers(0, vocab, max(1, length - cut))])
    after, out = scored.booked_after(cut), tokens.copy()
    if kind == "flip":
        after = after[:1]
    elif kind == "last":
        after = after[-1:]
    out[after] = _filling(rng, tokens, after, kind, vocab)
    if scored.order is not None:
        border = (tokens == lab.bos) | ((out == lab.bos) & (tokens != lab.bos))
        out[border] = tokens[border]
    return out


def _filling(rng: np.random.Generator, tokens: Int64, after: Int64, kind: str, vocab: int) -> Int64:
    old = tokens[after]
    if kind == "permuted":
        return rng.permutation(old)
    if kind == "constant":
        return np.full(len(after), rng.integers(0, vocab))
    if kind == "copy":
        return np.resize(tokens[: max(1, int(after[0]))], len(after)) if len(after) else old
    new = rng.integers(0, vocab - 1, len(after))
    return new + (new >= old)
