"""Which learners look like cheats and are not?  Score-first training, resets, declared order, prefill, warm-ups."""

from __future__ import annotations

import numpy as np

from tests.zoo.built import TrainedArtifact, WarmedUp, training_text
from tests.zoo.declare import look_alike
from tests.zoo.slot import BatchBarrier
from tests.zoo.toy import Float64, Int64, Toy, V, descend, logprob, network_logits, previous
from tests.zoo.twopass import ScoreFirst, chunks, documents


@look_alike("L1", "score-first training in chunks", sources=(461, 549, 1413, 1493))
class LastChunkUntrained(ScoreFirst):
    """L1.  Chunks are booked, then trained on for several epochs; the weights change between chunks."""

    epochs = 4


@look_alike("L2", "a fresh delta per document, scored then trained", sources=(77, 1530))
class PerDocument(Toy):
    """L2.  A fresh low-rank delta for every document, its chunks scored and then trained on."""

    def score(self, tokens: Int64) -> Float64:
        context, booked = previous(tokens), np.empty(len(tokens))
        for doc in documents(tokens):
            delta = network_logits().copy()
            for lo in range(doc.start, doc.stop, 8):
                part = slice(lo, min(lo + 8, doc.stop))
                booked[part] = logprob(delta, context[part], tokens[part])
                descend(delta, context[part], tokens[part], lr=0.5)
        return booked


@look_alike(
    "L3", "documents in a declared order, longest first", sources=(1610, 1626, 1767, 1787), ruleset="organizer-2026-05"
)
class LongestFirst(Toy):
    """L3.  Global steps on documents already scored, and documents are processed longest first, which is declared.

    In stream order a later document influences an earlier one; in the declared order nothing is read ahead.
    """

    def order(self, tokens: Int64) -> Int64:
        """Stream indices in the order in which they are booked; a function of document lengths alone."""
        docs = sorted(documents(tokens), key=lambda d: d.start - d.stop)
        return np.concatenate([np.arange(d.start, d.stop) for d in docs])

    def score(self, tokens: Int64) -> Float64:
        weights, context, booked = network_logits().copy(), previous(tokens), np.empty(len(tokens))
        context[[d.start for d in documents(tokens)]] = V
        for doc in sorted(documents(tokens), key=lambda d: d.start - d.stop):
            booked[doc] = logprob(weights, context[doc], tokens[doc])
            descend(weights, context[doc], tokens[doc], lr=0.3)
        return booked


@look_alike("L10", "ranks that replay what precedes them", sources=(806, 808, 890))
class Prefilled(Toy):
    """L10.  The stream is cut between two ranks; the second replays all that precedes its part before it starts."""

    def score(self, tokens: Int64) -> Float64:
        half = len(tokens) // 2 // 16 * 16
        return np.concatenate([self.shard(tokens[:half], 0), self.shard(tokens, half)])

    def shard(self, tokens: Int64, start: int) -> Float64:
        weights, context, booked = network_logits().copy(), previous(tokens), np.empty(len(tokens))
        for part in chunks(len(tokens)):
            booked[part] = logprob(weights, context[part], tokens[part])
            descend(weights, context[part], tokens[part], lr=0.3)
        return booked[start:]


@look_alike("L13", "calibration on training text", sources=(1019, 1884, 1924))
class CalibratedOnTrain(TrainedArtifact):
    """L13.  Quantisation scales fitted on training text: the artifact does not depend on validation text."""

    def build(self, tokens: Int64) -> bytes:
        text = training_text()
        hits = np.bincount(previous(text), minlength=V + 1)[:, None] + 1.0
        scale = np.abs(network_logits()).max() / (7.0 + np.sqrt(hits))
        return (np.round(network_logits() / scale) * scale).tobytes()


@look_alike("L15", "warm-up on synthetic tokens, state restored")
class WarmedUpAndRestored(WarmedUp):
    """L15.  Warm-up steps on synthetic tokens; weights and momentum are put back."""

    def warm_up(self, tokens: Int64) -> Float64:
        super().warm_up(np.arange(64) % V)
        return np.zeros((V + 1, V))


@look_alike("L18", "averaged and packed weights")
class Averaged(Toy):
    """L18.  Exponential averaging of two sets of weights, stored as rounded bytes and unpacked before use."""

    def score(self, tokens: Int64) -> Float64:
        packed = np.round(16 * (0.9 * network_logits() + 0.1 * network_logits().T.mean())).astype(np.int16).tobytes()
        weights = np.frombuffer(packed, np.int16).reshape(V + 1, V) / 16.0
        return logprob(weights, previous(tokens), tokens)


look_alike("L16", "SLOT on tokens before the whole batch", sources=(1336,))(BatchBarrier)
