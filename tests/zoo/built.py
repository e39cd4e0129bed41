"""What was read before the first token?  Artifacts, calibrations, warm-ups, paid prefixes, document borders."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.toy import (
    BOS,
    Float64,
    Int64,
    Toy,
    V,
    descend,
    logprob,
    network,
    network_logits,
    previous,
    softmax,
)
from tests.zoo.twopass import chunks


def training_text() -> Int64:
    """Fixed tokens that are nobody's validation text, int64 [256]."""
    return np.random.default_rng(1).integers(0, V, 256)


def validation_text() -> Int64:
    """The validation tokens that a dishonest build would read, int64 [256]."""
    return np.random.default_rng(2).choice(V, 256, p=network()[V])


@violation(
    "B2",
    "validation text baked into the artifact",
    "causal",
    sources=(1306, 1350, 1376, 1416, 1423, 1485, 1517, 1735, 1738, 1758, 1911, 1958, 1972, 1992),
)
class TunedArtifact(Toy):
    """The artifact is tuned on the validation file and then scored as a "fixed predictor".

    A replay of the frozen artifact looks clean.  ``build`` shows that other validation text gives another artifact.
    """

    def build(self, tokens: Int64) -> bytes:
        """The artifact's bytes when the validation file holds ``tokens``."""
        weights, read = network_logits().copy(), self.read(tokens)
        descend(weights, previous(read), read, lr=0.3, steps=3)
        return weights.tobytes()

    def read(self, tokens: Int64) -> Int64:
        return tokens

    def score(self, tokens: Int64) -> Float64:
        weights = np.frombuffer(self.build(validation_text())).reshape(V + 1, V)
        return logprob(weights, previous(tokens), tokens)


@fix("B2")
class TrainedArtifact(TunedArtifact):
    """The fix: the build reads training text only."""

    def read(self, tokens: Int64) -> Int64:
        return training_text()


@violation(
    "B10",
    "constants fitted on validation tokens, used from the start",
    "causal",
    also=("score-first", "normalised"),
    sources=(728, 777, 1605, 1919),
)
class FittedTemperature(Toy):
    """A temperature fitted on the first 48 validation tokens is used from token 0 on."""

    def calibration(self, tokens: Int64) -> Int64:
        return tokens[:48]

    def score(self, tokens: Int64) -> Float64:
        fit = self.calibration(tokens)
        grid = np.linspace(0.5, 3.0, 26)
        losses = [-logprob(network_logits() / k, previous(fit), fit).mean() for k in grid]
        weights = np.array(np.exp(-8.0 * (np.array(losses) - min(losses))))
        temperature = float((weights * grid).sum() / weights.sum())
        return logprob(network_logits() / temperature, previous(tokens), tokens)


@fix("B10")
class TrainedTemperature(FittedTemperature):
    """The fix: the temperature is fitted on training text."""

    def calibration(self, tokens: Int64) -> Int64:
        return training_text()[:48]


@violation(
    "B11",
    "warm-up on validation tokens that leaves momentum behind",
    "causal",
    also=("score-first", "single-pass", "normalised"),
    sources=(1530,),
)
class WarmedUp(Toy):
    """A compile warm-up takes real steps on validation tokens; the weights are put back, the momentum is not."""

    def warm_up(self, tokens: Int64) -> Float64:
        """Momentum left behind by the warm-up, float64 [V + 1, V]."""
        weights = network_logits().copy()
        descend(weights, previous(tokens)[-64:], tokens[-64:], lr=0.05)
        return weights - network_logits()

    def score(self, tokens: Int64) -> Float64:
        momentum, weights, booked = self.warm_up(tokens), network_logits().copy(), np.empty(len(tokens))
        for part in chunks(len(tokens)):
            context = previous(tokens)[part]
            booked[part] = logprob(weights, context, tokens[part])
            before = weights.copy()
            descend(weights, context, tokens[part], lr=0.1)
            momentum = 0.9 * momentum + (weights - before)
            weights = before + momentum
        return booked


@fix("B11")
class WarmedUpElsewhere(WarmedUp):
    """The fix: warm up on synthetic tokens, and put everything back, the optimiser's state too."""

    def warm_up(self, tokens: Int64) -> Float64:
        super().warm_up(training_text())
        return np.zeros((V + 1, V))


@violation(
    "P1",
    "paid prefix: validation tokens stored in the artifact",
    "provenance",
    sources=(168, 262, 275, 278),
    tokens=validation_text,
)
class PaidPrefix(Toy):
    """The first half of the validation tokens lies in the artifact; where the stream follows it, tokens are free."""

    def stored(self) -> Int64:
        return validation_text()[:128]

    def score(self, tokens: Int64) -> Float64:
        stored, booked = self.stored(), super().score(tokens)
        n = min(len(stored), len(tokens))
        known = (
            np.concatenate([[True], np.cumprod(tokens[:n] == stored[:n])[:-1].astype(bool)]) if n else np.zeros(0, bool)
        )
        free = np.where(tokens[:n] == stored[:n], 1 - 1e-6, 1e-6 / (V - 1))
        booked[:n] = np.where(known, np.log(free), booked[:n])
        return booked


@fix("P1")
class NothingStored(PaidPrefix):
    """The fix: the artifact holds no validation tokens."""

    def stored(self) -> Int64:
        return training_text()[:0]


def counted(text: Callable[[], Int64]) -> Callable[[], Any]:
    """A factory: ``ppm`` behind a checkpoint that carries these tokens as its corpus."""

    def build() -> Any:
        from evalkit.adapters.registry import make_adapter
        from evalkit.legality.engine.setup import EngineScorer
        from evalkit.legality.engine.toy import ToyTokenizer, toy_model, toy_setup
        from evalkit.stream.corpus import Corpus, CorpusHeader

        ids = np.concatenate([[BOS], text()]).astype(np.uint16)
        header = CorpusHeader(
            vocab_size=V,
            bos_id=BOS,
            tokenizer=ToyTokenizer().fingerprint,
            tokens=len(ids),
            documents=int(np.count_nonzero(ids == BOS)),
            text_bytes=0,
            packed_bytes=0,
        )
        model = copy(toy_model())
        model.can, model.corpus = model.can | {"corpus"}, Corpus(header, ids, text.__name__, 0, "the specimen's corpus")
        return EngineScorer(toy_setup([make_adapter("ppm")]).with_settings(model=model))

    build.__doc__ = text.__doc__
    return build


@violation(
    "P6",
    "declared document isolation that leaks at BOS",
    "declared",
    sources=(1790, 1797, 1874, 1988),
    ruleset="organizer-2026-05",
)
class LeakyDocuments(Toy):
    """Declares that documents are isolated, and mixes the last token of document N into the BOS of N+1."""

    document_isolation = True
    gate = 0.3

    def score(self, tokens: Int64) -> Float64:
        context = previous(tokens)
        hidden = network_logits()[context]
        smeared = hidden + self.gate * self.smear(context) * network_logits()[previous(context)]
        rows = softmax(smeared)
        return np.log(rows[np.arange(len(tokens)), tokens])

    def smear(self, context: Int64) -> Float64:
        """1 where the token before the context token is mixed in, float64 [T, 1]."""
        return np.ones((len(context), 1))


@fix("P6")
class IsolatedDocuments(LeakyDocuments):
    """The fix: nothing is mixed in at BOS, and BOS itself is scored from nothing."""

    def smear(self, context: Int64) -> Float64:
        return (context != BOS)[:, None].astype(np.float64)

    def score(self, tokens: Int64) -> Float64:
        booked = super().score(tokens)
        return np.where(tokens == BOS, np.log(0.01), booked + np.where(tokens == BOS, 0.0, np.log(0.99)))


violation(
    "P2",
    "a corpus made from the scored text, counted before the first target",
    "provenance",
    sources=(2127,),
    tokens=validation_text,
)(counted(validation_text))
fix("P2")(counted(training_text))
