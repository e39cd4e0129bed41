"""What world do the specimens live in?  Thirty-two tokens, a frozen bigram "network", and a commit-reveal loop.

Shape legend: V vocabulary, T positions.  Probabilities are linear float64 unless a name says log.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

V = 32
BOS = 1
UNUSED = 0


@cache
def network_logits() -> Float64:
    """Frozen weights, float64 [V + 1, V]: row x is the logits after token x, row V those of the first token."""
    logits = np.random.default_rng(20240520).normal(0.0, 1.5, (V + 1, V))
    logits.flags.writeable = False
    return logits


@cache
def network() -> Float64:
    """The frozen network's distributions, float64 [V + 1, V]."""
    rows = softmax(network_logits())
    rows.flags.writeable = False
    return rows


def softmax(logits: Float64) -> Float64:
    """Rows along the last axis that sum to 1."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def previous(tokens: Int64) -> Int64:
    """The bigram context of every position: the token before it, V at the start."""
    return np.concatenate([[V], tokens[:-1]])


def logprob(logits: Float64, context: Int64, target: Int64) -> Float64:
    """log p(target | context) under bigram weights [V + 1, V]; float64 [T]."""
    rows = logits[context]
    top = rows.max(axis=-1)
    return rows[np.arange(len(target)), target] - top - np.log(np.exp(rows - top[:, None]).sum(axis=-1))


def descend(logits: Float64, context: Int64, target: Int64, *, lr: float, steps: int = 1) -> None:
    """Gradient steps of the mean cross-entropy on bigram weights, in place."""
    for _ in range(steps if len(target) else 0):
        grad = softmax(logits[context])
        grad[np.arange(len(target)), target] -= 1.0
        np.subtract.at(logits, context, lr * grad)


def fitted_bias(rows: Float64, target: Int64, *, lr: float = 2.0, steps: int = 4) -> Float64:
    """One shared logit offset [V] that lowers the loss of ``target`` under logits ``rows`` [n, V] (toy SLOT)."""
    bias = np.zeros(V)
    if not len(target):
        return bias
    wanted = np.bincount(target, minlength=V) / len(target)
    for _ in range(steps):
        bias -= lr * (softmax(rows + bias).mean(axis=0) - wanted)
    return bias


class Toy:
    """A frozen bigram network.  Specimens change how it is scored."""

    vocab_size = V
    bos_id = BOS

    def score(self, tokens: Int64) -> Float64:
        """int64 [T] -> natural-log probabilities float64 [T]."""
        return logprob(network_logits(), previous(tokens), tokens)


class CommitReveal(Toy):
    """The honest loop: the whole row first, then the target, then learning."""

    def begin(self) -> None:
        self.last = V

    def row(self) -> Float64:
        """The distribution of the next token, float64 [V]; the next token is not an argument."""
        return network()[self.last]

    def booked(self, y: int) -> float:
        """The probability booked for the next token ``y``.  A specimen that overrides this one knows the answer."""
        return self.row()[y]

    def observe(self, x: int) -> None:
        """Learn a token whose score is booked."""
        self.last = x

    def score(self, tokens: Int64) -> Float64:
        self.begin()
        booked = np.empty(len(tokens))
        for t, x in enumerate(tokens.tolist()):
            booked[t] = self.booked(x)
            self.observe(x)
        return np.log(booked)
