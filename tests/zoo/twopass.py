"""Which scorers read ahead?  Training before scoring, last epochs, rescoring, caches filled in a first pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.toy import BOS, CommitReveal, Float64, Int64, Toy, V, descend, logprob, network, network_logits, previous

CHUNK = 16


def chunks(length: int, size: int = CHUNK) -> Iterator[slice]:
    """Consecutive slices of at most ``size``."""
    return (slice(lo, min(lo + size, length)) for lo in range(0, length, size))


def documents(tokens: Int64) -> list[slice]:
    """Slices that end with the next BOS: it is the last target of the document before it.

    Were BOS scored with the fresh state of the document that it opens, the reset would depend on the target: the
    probabilities of BOS and of all other tokens would come from two models, and need not sum to 1.
    """
    starts = sorted({0, *(np.flatnonzero(tokens[:-1] == BOS) + 1).tolist()})
    return [slice(lo, hi) for lo, hi in zip(starts, [*starts[1:], len(tokens)], strict=True)]


@violation(
    "B1",
    "training on the stream before scoring it",
    "score-first",
    also=("causal", "normalised", "single-pass"),
    sources=(44, 150, 398, 406, 417, 442, 672, 1127, 1193, 1082),
)
class TrainFirst(Toy):
    """Epochs of gradient descent over the whole stream, then one clean-looking scoring pass with fixed weights."""

    epochs = 3

    def score(self, tokens: Int64) -> Float64:
        weights, context = network_logits().copy(), previous(tokens)
        for _ in range(self.epochs):
            for part in chunks(len(tokens)):
                descend(weights, context[part], tokens[part], lr=0.4)
        return logprob(weights, context, tokens)


@fix("B1")
class ScoreFirst(TrainFirst):
    """The fix: every chunk is booked, and only then trained on, as often as one likes."""

    def score(self, tokens: Int64) -> Float64:
        weights, context, booked = network_logits().copy(), previous(tokens), np.empty(len(tokens))
        for part in chunks(len(tokens)):
            booked[part] = logprob(weights, context[part], tokens[part])
            descend(weights, context[part], tokens[part], lr=0.4, steps=self.epochs)
        return booked


@violation(
    "B3",
    "several epochs a document, the last one booked",
    "score-first",
    also=("causal", "normalised", "single-pass"),
    sources=(525, 548, 596, 611, 614),
)
class LastEpoch(Toy):
    """Per document, several epochs of score-then-train; the buffer is overwritten and the last epoch is booked."""

    epochs = 3

    def score(self, tokens: Int64) -> Float64:
        context, booked = previous(tokens), np.full(len(tokens), np.nan)
        for doc in documents(tokens):
            weights = network_logits().copy()
            for epoch in range(self.epochs):
                for lo in range(doc.start, doc.stop, 8):
                    part = slice(lo, min(lo + 8, doc.stop))
                    fresh = logprob(weights, context[part], tokens[part])
                    booked[part] = self.book(booked[part], fresh, epoch)
                    descend(weights, context[part], tokens[part], lr=0.4)
        return booked

    def book(self, old: Float64, new: Float64, epoch: int) -> Float64:
        return new


@fix("B3")
class FirstEpoch(LastEpoch):
    """The fix: the first epoch is booked; what later epochs would say is of no account."""

    def book(self, old: Float64, new: Float64, epoch: int) -> Float64:
        return new if epoch == 0 else old


@violation(
    "B4",
    "score, train, score again",
    "single-pass",
    also=("causal", "normalised", "score-first", "coverage"),
    sources=(991, 1004),
)
class Rescored(Toy):
    """Score all, train on all, score all again, and report the second score.  The ledger holds both."""

    passes = 2

    def ledger(self, tokens: Int64) -> tuple[Int64, Float64]:
        """Bookings in the order they were made: stream index [N], log-probability [N]."""
        weights, context, booked = network_logits().copy(), previous(tokens), []
        for _ in range(self.passes):
            booked.append(logprob(weights, context, tokens))
            descend(weights, context, tokens, lr=0.2, steps=2)
        return np.tile(np.arange(len(tokens)), self.passes), np.concatenate(booked)

    def score(self, tokens: Int64) -> Float64:
        return self.ledger(tokens)[1][-len(tokens) :]


@fix("B4")
class BookedOnce(Rescored):
    """The fix: the first score is the score."""

    passes = 1


@violation(
    "B5",
    "cache filled in a first pass",
    "single-pass",
    also=("causal", "normalised", "score-first"),
    sources=(846, 853, 868, 869, 870, 888, 959, 986),
)
class TwoPassCache(Toy):
    """Pass one fills a bigram cache from the whole stream, pass two scores with it."""

    def score(self, tokens: Int64) -> Float64:
        counts: dict[int, Float64] = defaultdict(lambda: np.zeros(V))
        context = previous(tokens).tolist()
        for c, y in zip(context, tokens.tolist(), strict=True):
            counts[c][y] += 1
        booked = np.empty(len(tokens))
        for t, (c, y) in enumerate(zip(context, tokens.tolist(), strict=True)):
            seen, total = self.evidence(counts, c, y)
            booked[t] = 0.4 * network()[c, y] + 0.6 * seen / total if total else network()[c, y]
        return np.log(booked)

    def evidence(self, counts: dict[int, Float64], c: int, y: int) -> tuple[float, float]:
        return counts[c][y], counts[c].sum()


@violation(
    "B6", "two passes, own count left out", "causal", also=("single-pass", "normalised", "score-first"), sources=(881,)
)
class LeaveOneOut(TwoPassCache):
    """Two passes with the token's own count taken out.  Rows sum to 1 but for a token that follows itself."""

    def evidence(self, counts: dict[int, Float64], c: int, y: int) -> tuple[float, float]:
        return counts[c][y] - 1, counts[c].sum() - 1


@fix("B5")
@fix("B6")
class OnePassCache(CommitReveal):
    """The fix for both: one pass, counts grow behind the position that is scored."""

    def begin(self) -> None:
        super().begin()
        self.counts: dict[int, Float64] = defaultdict(lambda: np.zeros(V))

    def row(self) -> Float64:
        counts = self.counts[self.last]
        total = counts.sum()
        return 0.4 * super().row() + 0.6 * counts / total if total else super().row()

    def observe(self, x: int) -> None:
        self.counts[self.last][x] += 1
        super().observe(x)
