"""Who books scores, and who may learn from them?  The ledger books; only its receipts let an adapter learn.

Every target is booked once, in order; a score that is not finite stops the run.  Nats are float64; sums are kept per
(chunk, document, stage) by ``math.fsum`` and added once at the end, so they do not depend on who added them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass

import numpy as np

from evalkit.adapters import base
from evalkit.adapters.base import Float64, Int32, Receipt
from evalkit.errors import DivergenceError, LegalityError

KEEP_CONTEXT = 8192
"""Booked tokens before a chunk that a receipt carries, for learners that train on whole windows."""


@dataclass(frozen=True)
class DocumentPart:
    """The share of one document in one chunk: targets, bytes, and nats per stage (0 is the model)."""

    doc: int
    targets: int
    bytes: int
    nats: tuple[float, ...]


@dataclass(frozen=True)
class BookedChunk:
    """What the journal keeps of a chunk.  ``digest``: blake2b over the float64 scores of all stages."""

    index: int
    lo: int
    hi: int
    parts: tuple[DocumentPart, ...]
    digest: str
    shed: tuple[str, ...] = ()
    """Work that a budget leaves out from this chunk's observe on (see scoring/guard.py)."""


def make_receipt(lo: int, tokens: Int32, nats: Float64, before: Int32) -> Receipt:
    """Mint a receipt.  Called by ledgers, after booking; everything inside is a copy."""
    keep = np.array(before[-KEEP_CONTEXT:], dtype=np.int32)
    return Receipt(lo, lo + len(tokens), tokens.copy(), nats.copy(), keep, mint=base._MINT)


class Ledger:
    """Books chunks of a stream in order.  ``stages`` names: "model" first, then one per expert."""

    def __init__(self, stages: tuple[str, ...], start: int = 1) -> None:
        self.stages = stages
        self.next_target = start
        self.chunks: list[BookedChunk] = []

    def book(
        self, index: int, lo: int, nats: Float64, docs: np.ndarray, sizes: np.ndarray, shed: tuple[str, ...] = ()
    ) -> BookedChunk:
        """Book nats [S+1, n] for targets lo..lo+n-1 with owners ``docs`` [n] and byte counts ``sizes`` [n].

        Raises LegalityError when targets are skipped or booked twice, DivergenceError when a score is not finite.
        """
        if lo != self.next_target:
            word = "twice" if lo < self.next_target else "out of order"
            raise LegalityError(
                "single-pass", lo, f"target {lo} would be booked {word}: the next one is {self.next_target}"
            )
        _check_finite(nats, lo, self.stages)
        booked = BookedChunk(index, lo, lo + nats.shape[1], _parts(nats, docs, sizes), score_digest(nats), shed)
        self.next_target = booked.hi
        self.chunks.append(booked)
        return booked

    def readmit(self, booked: BookedChunk) -> None:
        """Take back a chunk that an earlier process booked and journalled."""
        if booked.lo != self.next_target:
            raise LegalityError(
                "single-pass", booked.lo, f"the journal books {booked.lo} next, expected {self.next_target}"
            )
        self.next_target = booked.hi
        self.chunks.append(booked)


def score_digest(nats: Float64) -> str:
    return hashlib.blake2b(np.ascontiguousarray(nats).tobytes(), digest_size=16).hexdigest()


def _check_finite(nats: Float64, lo: int, stages: tuple[str, ...]) -> None:
    bad = np.argwhere(~np.isfinite(nats.T))
    if len(bad):
        target, stage = int(bad[0][0]), stages[int(bad[0][1])]
        raise DivergenceError(
            f"stage '{stage}' gave target {lo + target} a score of {nats[bad[0][1], target]} nats "
            f"({len(bad)} such scores in this chunk); everything before target {lo} stays booked"
        )


def _parts(nats: Float64, docs: np.ndarray, sizes: np.ndarray) -> tuple[DocumentPart, ...]:
    """Documents are contiguous in the stream: cut at the places where the owner changes."""
    edges = [0, *(np.flatnonzero(np.diff(docs)) + 1).tolist(), len(docs)]
    return tuple(
        DocumentPart(int(docs[a]), b - a, int(sizes[a:b].sum()), tuple(math.fsum(stage[a:b]) for stage in nats))
        for a, b in itertools.pairwise(edges)
    )
