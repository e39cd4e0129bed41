"""Which mixtures choose with the answer in hand?  Renormalising around the target, best-of, gates on its own loss."""

from __future__ import annotations

import numpy as np

from tests.zoo.declare import fix, violation
from tests.zoo.hashed import ExactPair
from tests.zoo.toy import (
    CommitReveal,
    Float64,
    Int64,
    Toy,
    logprob,
    network,
    network_logits,
    previous,
    softmax,
)


def cached_rows(tokens: Int64) -> tuple[Float64, Float64]:
    """Network rows and exact-cache rows of every position, float64 [T, V] each; both are legal on their own."""
    cache, plain, learned = ExactPair(), [], []
    cache.begin()
    for x in tokens.tolist():
        plain.append(network()[cache.last])
        learned.append(cache.row())
        cache.observe(x)
    return np.array(plain), np.array(learned)


@violation("A4", "renormalising around the target", "normalised", sources=(962,))
class RenormalisedAroundTarget(Toy):
    """q(y) is the boosted probability of the realised y, and the others are rescaled by (1-q)/(1-p_nn(y)).

    The code asserts that its row sums to 1.  It does, for the one y it was built around.
    """

    def score(self, tokens: Int64) -> Float64:
        nn, cache = cached_rows(tokens)
        at = np.arange(len(tokens)), tokens
        boosted = np.minimum(0.95, np.maximum(nn[at], 1.5 * cache[at]))
        rest = nn * ((1 - boosted) / (1 - nn[at]))[:, None]
        rest[at] = boosted
        assert np.allclose(rest.sum(axis=1), 1.0)
        return np.log(rest[at])


@fix("A4")
class RenormalisedOverAll(ExactPair):
    """The fix: boost every v by the same rule, then divide once by the sum over all v."""

    def row(self) -> Float64:
        boosted = np.minimum(0.95, np.maximum(network()[self.last], 1.5 * super().row()))
        return boosted / boosted.sum()


@violation("A6", "safety gate: the smaller of two losses", "normalised", sources=(659,))
class SafetyGate(Toy):
    """NLL = min(NLL of the network, NLL of the mixture), token by token."""

    def score(self, tokens: Int64) -> Float64:
        nn, cache = cached_rows(tokens)
        at = np.arange(len(tokens)), tokens
        return np.log(np.maximum(nn[at], cache[at]))


@fix("A6")
class CommittedMixture(ExactPair):
    """The fix: one mixture, committed before the token is known."""

    def row(self) -> Float64:
        return 0.5 * network()[self.last] + 0.5 * super().row()


@violation("A7", "best of several passes or temperatures", "normalised", sources=(62, 573, 614, 685, 844))
class BestTemperature(Toy):
    """The stream is scored at several temperatures and each token keeps its best score."""

    temperatures = (0.6, 1.0, 1.6)

    def runs(self, tokens: Int64) -> Float64:
        """Log-probabilities at every temperature, float64 [temperatures, T]."""
        return np.array([logprob(network_logits() / k, previous(tokens), tokens) for k in self.temperatures])

    def score(self, tokens: Int64) -> Float64:
        return self.runs(tokens).max(axis=0)


@fix("A7")
class BayesTemperature(BestTemperature):
    """The fix: a Bayes mixture of the temperatures, its weights updated after each booking."""

    def score(self, tokens: Int64) -> Float64:
        runs = self.runs(tokens)
        evidence = np.cumsum(runs, axis=1) - runs
        return np.log((softmax(evidence.T) * np.exp(runs.T)).sum(axis=1))


@violation("A8", "mixing weight read off the target's own loss", "normalised", sources=(1026,))
class WeightFromLoss(Toy):
    """The weight of the cache at x_t is read off the network's loss on x_t: alpha = clip(NLL(x_t)/2.5, .1, 2)/2."""

    def score(self, tokens: Int64) -> Float64:
        nn, cache = cached_rows(tokens)
        at = np.arange(len(tokens)), tokens
        alpha = 0.5 * np.clip(-np.log(nn[at]) / 2.5, 0.1, 2.0)
        return np.log((1 - alpha) * nn[at] + alpha * cache[at])


@fix("A8")
class WeightFromEntropy(ExactPair):
    """The fix: the weight is read off the entropy of the network's row, which the prefix alone decides."""

    def row(self) -> Float64:
        nn = network()[self.last]
        alpha = 0.5 * np.clip(-(nn * np.log(nn)).sum() / 2.5, 0.1, 2.0)
        return (1 - alpha) * nn + alpha * super().row()


@violation("A9", "gate on the probability of the realised symbol", "normalised", sources=(1785, 1795))
class GateOnRealised(Toy):
    """The mixing weight is high when the byte model gave *the realised symbol* more than a threshold."""

    def score(self, tokens: Int64) -> Float64:
        nn, cache = cached_rows(tokens)
        at = np.arange(len(tokens)), tokens
        weight = np.where(cache[at] > 0.4, 0.9, 0.05)
        return np.log((1 - weight) * nn[at] + weight * cache[at])


@fix("A9")
class GateOnConfidence(ExactPair):
    """The fix: gate on the largest probability of the byte model, whichever symbol it belongs to."""

    def row(self) -> Float64:
        cache = super().row()
        weight = 0.9 if cache.max() > 0.4 else 0.05
        return (1 - weight) * network()[self.last] + weight * cache


@violation("A13", "one-sided floor under the loss", "normalised", sources=(217, 251))
class FlooredLoss(Toy):
    """NLL = min(NLL, -ln f): a floor under improbable tokens that nobody pays for."""

    floor = 0.02

    def score(self, tokens: Int64) -> Float64:
        return np.maximum(super().score(tokens), np.log(self.floor))


@fix("A13")
class MixedWithUniform(CommitReveal):
    """The fix: a floor paid for by every token, (1-e) p + e/V."""

    def row(self) -> Float64:
        row = super().row()
        return 0.9 * row + 0.1 / len(row)
