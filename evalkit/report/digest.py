"""A digest of the scores of single targets: everything the page needs of them, in one pass over the file."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evalkit.adapters.base import Float64
from evalkit.scoring.result import Result
from evalkit.scoring.scores import read_scores

SLAB = 1 << 18
"""Targets read at a time: a dozen stages take 25 MB."""
POINTS = 60
"""Neighbourhoods along the stream."""
MOVES = 0.01
"""Nats by which a score must move for a stage to count as acting on it."""
CLASSES = {
    "control": "end of document",
    "newline": "holds a line feed",
    "word_start": "starts a word",
    "byte": "byte piece",
}
"""Group of the piece table -> what the page calls it; a piece counts for the first that it is in."""
REST = "within a word, other"


@dataclass(frozen=True)
class Digest:
    """Shape legend: N points along the stream, C classes, S+1 stages (0 the model), S adapters."""

    edges: npt.NDArray[np.int64]
    """[N+1] first target of each neighbourhood, counted from 0, and the end."""
    bytes: npt.NDArray[np.int64]
    """[N]"""
    nats: Float64
    """[N, S+1]"""
    acts: Float64
    """[N, S] targets on which the stage acts."""
    better: npt.NDArray[np.int64]
    """[S] targets whose score it lowers."""
    worse: npt.NDArray[np.int64]
    won: Float64
    """[S] nats, negative."""
    lost: Float64
    classes: tuple[str, ...]
    class_targets: npt.NDArray[np.int64]
    """[C]"""
    class_nats: Float64
    """[C, S+1]"""

    @property
    def middle(self) -> list[float]:
        return ((self.edges[:-1] + self.edges[1:]) / 2).tolist()


def digest(result: Result, stream: Any) -> Digest | None:
    """None when the run kept no scores of single targets, or booked none."""
    path = result.folder / "scores.f64" if result.folder else None
    if path is None or not path.exists():
        return None
    scores = read_scores(path, len(result.stage_names))
    return _digest(scores, stream) if len(scores) else None


def _digest(scores: Float64, stream: Any) -> Digest:
    n, stages = scores.shape
    edges = np.unique(np.linspace(0, n, min(POINTS, n) + 1).astype(np.int64))
    names, class_of = _classes(stream.tokenizer.pieces)
    points, kinds = len(edges) - 1, len(names)
    sizes, nats, acts = np.zeros(points, np.int64), np.zeros((points, stages)), np.zeros((points, stages - 1))
    class_targets, class_nats = np.zeros(kinds, np.int64), np.zeros((kinds, stages))
    better, worse = np.zeros(stages - 1, np.int64), np.zeros(stages - 1, np.int64)
    won, lost = np.zeros(stages - 1), np.zeros(stages - 1)
    for lo in range(0, n, SLAB):
        hi = min(lo + SLAB, n)
        slab = np.asarray(scores[lo:hi])
        step = np.diff(slab, axis=1)
        down, up = step < -MOVES, step > MOVES
        point = np.searchsorted(edges, np.arange(lo, hi), side="right") - 1
        kind = class_of[np.asarray(stream.tokens[lo + 1 : hi + 1]).astype(np.int64)]
        sizes += np.bincount(point, stream.target_bytes(lo + 1, hi + 1), points).astype(np.int64)
        nats += _sums(point, slab, points)
        acts += _sums(point, down | up, points)
        class_targets += np.bincount(kind, minlength=kinds)
        class_nats += _sums(kind, slab, kinds)
        better, worse = better + down.sum(0), worse + up.sum(0)
        won, lost = won + np.where(down, step, 0.0).sum(0), lost + np.where(up, step, 0.0).sum(0)
    return Digest(edges, sizes, nats, acts, better, worse, won, lost, names, class_targets, class_nats)


def _sums(index: npt.NDArray[np.int64], columns: npt.NDArray[Any], length: int) -> Float64:
    """Column sums by index: [n], [n, k] -> [length, k]."""
    out = np.zeros((length, columns.shape[1]))
    for k, column in enumerate(columns.T):
        out[:, k] = np.bincount(index, column, length)
    return out


def _classes(pieces: Any) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Names, and the class of each id."""
    groups = [(name, mask) for name, mask in ((n, pieces.groups.get(n)) for n in CLASSES) if mask is not None]
    class_of = np.full(pieces.vocab_size, len(groups), np.int64)
    for i, (_, mask) in reversed(list(enumerate(groups))):
        class_of[np.asarray(mask)] = i
    return (*(CLASSES[name] for name, _ in groups), REST), class_of


def neighbourhood_bpb(found: Digest, stage: int) -> list[float | None]:
    """[N] bits per byte of a stage; None where a neighbourhood has no bytes."""
    bits = found.nats[:, stage] / np.log(2)
    return [b / z if z else None for b, z in zip(bits.tolist(), found.bytes.tolist(), strict=True)]


def running_bpb(found: Digest, stage: int) -> list[float | None]:
    """[N] bits per byte of everything up to the end of each neighbourhood."""
    bits = itertools.accumulate((found.nats[:, stage] / np.log(2)).tolist())
    sizes = itertools.accumulate(found.bytes.tolist())
    return [b / z if z else None for b, z in zip(bits, sizes, strict=True)]
