"""The run's ledger: it books the scores of every stage, and its receipts are what learners learn from.

Every target is booked once, in order; a score that is not finite stops the run.  Nats are float64; sums are kept per
(chunk, document, stage), exactly rounded as ``math.fsum`` would, and added once at the end, so they do not depend on who
added them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalkit import _native
from evalkit.adapters.base import KEEP_CONTEXT, Float64, Receipt, TokenLedger
from evalkit.errors import DivergenceError, LegalityError


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


class Ledger:
    """Books chunks of a stream in order.  ``stages`` names: "model" first, then one per expert."""

    def __init__(self, stages: tuple[str, ...], before: np.ndarray) -> None:
        """``before`` int [c]: the stream up to the first target to be booked, from token 0 on."""
        self.stages = stages
        self.chunks: list[BookedChunk] = []
        self._targets = TokenLedger(before)

    @property
    def next_target(self) -> int:
        """The target that must be booked next."""
        return self._targets.next_target

    def book(
        self,
        index: int,
        lo: int,
        tokens: np.ndarray,
        nats: Float64,
        docs: np.ndarray,
        sizes: np.ndarray,
        shed: tuple[str, ...] = (),
    ) -> tuple[BookedChunk, Receipt]:
        """Book nats [S+1, n] for targets lo..lo+n-1, ``tokens`` [n], of documents ``docs`` [n] and ``sizes`` [n] bytes.

        Returns what the journal keeps, and the receipt (with the nats of the last stage) that learners may see.
        Raises LegalityError when targets are skipped or booked twice, DivergenceError when a score is not finite.
        """
        _check_finite(nats, lo, self.stages)
        receipt = self._targets.book(lo, tokens, nats[-1])
        entry = BookedChunk(index, lo, receipt.hi, _parts(nats, docs, sizes), score_digest(nats), shed)
        self.chunks.append(entry)
        return entry, receipt

    def readmit(self, entries: Sequence[BookedChunk], stream: np.ndarray) -> None:
        """Take back chunks that an earlier process booked and journalled.  ``stream`` int [T]: all its tokens.

        LegalityError when they do not follow each other.
        """
        following = self.next_target
        for entry in entries:
            if entry.lo != following:
                raise LegalityError("single-pass", entry.lo, f"the journal books {entry.lo} next, expected {following}")
            following = entry.hi
        self._targets = TokenLedger(stream[max(0, following - KEEP_CONTEXT) : following], following)
        self.chunks.extend(entries)


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
    edges = np.concatenate(([0], np.flatnonzero(np.diff(docs)) + 1, [len(docs)]))
    sums = _native.exact_sums(np.ascontiguousarray(nats), edges).T.tolist()
    counted = np.add.reduceat(sizes, edges[:-1]).tolist()
    return tuple(
        DocumentPart(doc, targets, size, tuple(stages))
        for doc, targets, size, stages in zip(
            docs[edges[:-1]].tolist(), np.diff(edges).tolist(), counted, sums, strict=True
        )
    )
