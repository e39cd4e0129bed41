"""Does the audit catch what it must and spare what it must, for scorers made up at random?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evalkit
from evalkit.errors import InputError
from evalkit.legality.effort import Effort
from evalkit.legality.probes.probe import mass_of, replay
from evalkit.legality.referee import audit
from evalkit.legality.scorer import LocalBox
from tests.kit import examples
from tests.zoo.hashed import ExactPair
from tests.zoo.toy import CommitReveal, Toy, V, network

EFFORT = Effort(length=80, streams=4, cuts=48, forks=16, long_length=200, long_cuts=4, long_forks=1, shrink=20)
few = settings(max_examples=examples(12), suppress_health_check=list(HealthCheck))


class Excess(ExactPair):
    """Every probability is (1 + excess) times what it should be, where the gate is open."""

    def __init__(self, excess: float, gate: str) -> None:
        self.excess, self.gate = excess, gate

    def row(self):
        row = super().row()
        counts = self.counts[self.last]
        open_ = {"always": True, "cache": counts.sum() > 0, "torn": (counts > 0).sum() > 1, "sure": counts.max() > 1}
        return row * (1 + self.excess) if open_[self.gate] else row


class LooksAhead(Toy):
    """The score of t moves a little with the token ``distance`` later."""

    def __init__(self, distance: int, size: float) -> None:
        self.distance, self.size = distance, size

    def score(self, tokens):
        booked = super().score(tokens)
        later = np.roll(tokens, -self.distance)
        later[max(0, len(tokens) - self.distance) :] = 0
        return booked - self.size * (later % 3 == 1)


class Mixture(CommitReveal):
    """Legal: any mixture of the network, counts and the uniform row, with weights from the prefix alone."""

    def __init__(self, weights: tuple[float, float, float], decay: float) -> None:
        self.weights, self.decay = np.array(weights) / sum(weights), decay

    def begin(self):
        super().begin()
        self.counts = np.ones(V)

    def row(self):
        rows = np.array([network()[self.last], self.counts / self.counts.sum(), np.full(V, 1 / V)])
        return self.weights @ rows

    def observe(self, x):
        self.counts *= self.decay
        self.counts[x] += 1
        super().observe(x)


@few
@given(st.floats(0.001, 0.5), st.sampled_from(["always", "cache", "torn", "sure"]), st.integers(0, 3))
def test_an_excess_is_caught_wherever_its_gate_is(excess, gate, seed):
    found = audit(LocalBox(lambda: Excess(excess, gate)), effort=EFFORT, seed=seed)
    assert found.violated() == {"normalised"}


@few
@given(st.integers(1, 40), st.floats(1e-4, 1.0), st.integers(0, 3))
def test_a_look_ahead_is_caught_at_any_distance(distance, size, seed):
    found = audit(LocalBox(lambda: LooksAhead(distance, size)), effort=EFFORT, seed=seed)
    assert "causal" in found.violated()
    evidence = next(e for e in found.evidence if e.law == "causal")
    assert evidence.confirmed
    assert evidence.stream_tokens <= evidence.position + distance + 2


@few
@given(st.tuples(*[st.floats(0.01, 1.0)] * 3), st.floats(0.8, 1.0), st.integers(0, 50))
def test_no_false_alarm_on_honest_mixtures(weights, decay, seed):
    found = audit(LocalBox(lambda: Mixture(weights, decay)), effort=EFFORT, seed=seed)
    assert found.verdict == "legal"
    assert found.laws["normalised"].worst == pytest.approx(1.0, abs=1e-9)


def test_the_same_seed_asks_the_same_questions():
    first, second = (audit(LocalBox(Toy), effort=EFFORT, seed=5) for _ in range(2))
    assert first.trace == second.trace
    assert first.calls == second.calls


class Batched(Toy):
    """Counts the calls of each face."""

    batches = 0

    def score_batch(self, tokens):
        type(self).batches += 1
        return np.array([self.score(row) for row in tokens])


def test_a_batch_face_is_used_and_agrees_with_single_calls():
    Batched.batches = 0
    box = LocalBox(Batched)
    streams = np.random.default_rng(0).integers(0, V, (5, 30))
    assert np.array_equal(replay(box, streams), np.array([Toy().score(s) for s in streams]))
    assert audit(box, effort=EFFORT).verdict == "legal"
    assert Batched.batches > 10


class LyingBatch(Toy):
    def score_batch(self, tokens):
        return np.array([self.score(row) for row in tokens]) - 0.5


def test_a_batch_face_that_disagrees_is_noticed():
    found = audit(LocalBox(LyingBatch), effort=EFFORT)
    assert found.verdict == "inconclusive"
    assert "score_batch" in found.reason


def test_a_fork_is_the_naive_sum():
    box = LocalBox(ExactPair)
    tokens = np.random.default_rng(1).integers(0, V, 40)
    naive = 0.0
    for v in range(V):
        changed = tokens.copy()
        changed[25] = v
        naive += float(np.exp(ExactPair().score(changed)[25]))
    assert mass_of(box, tokens, 25, np.arange(V)).sum() == pytest.approx(naive, abs=1e-12)


class Context(Toy):
    """Token 0 is given: its score is 0 whatever it is, as the engine books it."""

    def score(self, tokens):
        booked = super().score(tokens)
        booked[0] = 0.0
        return booked


def test_a_first_token_that_is_context_is_no_violation():
    assert audit(LocalBox(Context), effort=EFFORT).verdict == "legal"


def test_the_public_door_takes_an_object_or_a_factory():
    assert evalkit.audit(Toy(), effort=EFFORT).verdict == "legal"
    assert evalkit.audit(Toy, effort=EFFORT).verdict == "legal"
    with pytest.raises(InputError, match="cannot be audited"):
        evalkit.audit(object(), effort=EFFORT)


def test_a_number_of_probes_asks_the_same_each_time():
    found, again = (audit(LocalBox(Toy), probes=300) for _ in range(2))
    assert found.power["normalised"]["full_forks"] > 0
    assert (found.calls, found.replayed_tokens, found.trace) == (again.calls, again.replayed_tokens, again.trace)
