"""Do the parts of the audit do what their names say: probes, shrinking, planning, tolerances, verdicts, rules?"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.legality import effort as efforts
from evalkit.legality import rules, verdict
from evalkit.legality.probes import latin, positions, streams
from evalkit.legality.probes.ask import ask
from evalkit.legality.probes.lab import Lab
from evalkit.legality.probes.probe import Probe, from_json, pack, size, to_json, unpack
from evalkit.legality.probes.shrink import _minimise
from evalkit.legality.probes.tolerance import Tolerance, looks_like_rounding
from evalkit.legality.scorer import LocalBox
from tests.zoo.toy import Toy

tokens_strategy = st.lists(st.integers(0, 999), min_size=1, max_size=200)


@given(tokens_strategy)
def test_packed_tokens_come_back(tokens):
    packed = pack(np.array(tokens))
    assert unpack(packed, 1000).tolist() == tokens
    assert size(packed) == len(tokens)
    probe = Probe(test="mass", tokens=packed, position=len(tokens) - 1, subset=[1, 2])
    assert from_json(to_json(probe)) == probe


@pytest.mark.parametrize("packed", ["z:!!!", "z:AAAA", "", [], [5, 1000], [-1], "z:eJwDAAAAAAE="])
def test_broken_tokens_are_wrong_input(packed):
    with pytest.raises(InputError):
        unpack(packed, 1000)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"test":"mass"}',
        '{"test":"mass","tokens":[1],"unknown":1}',
        '{"test":"mass","tokens":{"a":1}}',
        "[]",
    ],
)
def test_broken_probes_are_wrong_input(text):
    with pytest.raises(InputError):
        from_json(text)


@pytest.mark.parametrize(
    "probe",
    [
        Probe(test="mass", tokens=[1, 2], position=5, subset=[1]),
        Probe(test="mass", tokens=[1, 2], position=1, subset=[]),
        Probe(test="mass", tokens=[1, 2], position=1, subset=[99]),
        Probe(test="suffix", tokens=[1, 2, 3], other=[2, 2, 3], position=1),
        Probe(test="suffix", tokens=[1, 2, 3], other=[1], position=1),
        Probe(test="suffix", tokens=[1, 2, 3], position=1),
        Probe(test="nonsense", tokens=[1, 2, 3]),
    ],
)
def test_unfair_questions_are_refused(probe):
    with pytest.raises(InputError):
        ask(LocalBox(Toy), probe, Tolerance())


@given(st.sets(st.integers(0, 60), min_size=1, max_size=5), st.integers(61, 90))
def test_minimise_keeps_what_is_needed_and_nothing_else(needed, total):
    kept = _minimise(np.arange(total), lambda items: needed <= set(items.tolist()), lambda: False)
    assert set(kept.tolist()) == needed


def test_minimise_makes_nothing_once_its_budget_is_spent():
    made = []

    def holds(items):
        made.append(len(items))
        return False

    kept = _minimise(np.arange(4096), holds, lambda: len(made) >= 5)
    assert len(kept) == 4096
    assert len(made) == 5


@given(
    st.floats(1e-5, 0.5),
    st.floats(0, 1e-3),
    st.sampled_from([16, 32, 256, 1024, 8192, 50257]),
    st.floats(5, 600),
)
def test_a_plan_fits_its_time_or_says_it_cannot_sum(fixed, per_token, vocab, seconds):
    pace = efforts.Pace(fixed, per_token)
    plan = efforts.plan(pace, vocab, seconds)
    forks = plan.forks * pace.fork(plan.length, vocab) + plan.long_forks * vocab * pace.of(plan.long_length)
    assert forks <= 0.7 * seconds
    assert plan.cuts >= 12
    assert sum(plan.share(plan.forks, i) for i in range(plan.streams)) == plan.forks


@given(st.sampled_from(streams.KINDS), st.integers(8, 300), st.sampled_from([2, 32, 5000]), st.integers(0, 99))
def test_streams_have_their_length_and_know_their_copies(kind, length, vocab, seed):
    stream = kind(np.random.default_rng(seed), vocab, 1, length)
    assert len(stream) == length
    assert stream.tokens.min() >= 0
    assert stream.tokens.max() < vocab
    copies = np.flatnonzero(stream.copied >= 0)
    assert (stream.copied[copies] < copies).all()
    assert np.array_equal(stream.tokens[copies], stream.tokens[stream.copied[copies]])


@given(st.integers(2, 3000))
def test_edges_lie_inside(length):
    found = positions.edges(length)
    assert found.min() >= 1
    assert found.max() < length
    assert len(np.unique(found)) == len(found)


def test_torn_contexts_went_on_in_two_ways():
    stream = np.array([1, 2, 3, 1, 2, 4, 1, 2, 5])
    found = positions.torn(stream, np.random.default_rng(0))
    assert 8 in found
    assert 5 not in found


def test_rounding_is_everywhere_and_has_no_direction():
    rng = np.random.default_rng(0)
    scale, tolerance = np.full(200, 5.0), Tolerance()
    assert looks_like_rounding(rng.normal(0, 2e-4, 200), scale, tolerance)
    assert not looks_like_rounding(np.abs(rng.normal(0, 2e-4, 200)), scale, tolerance)
    local = np.zeros(200)
    local[7] = 1e-3
    assert not looks_like_rounding(local, scale, tolerance)
    assert not looks_like_rounding(rng.normal(0, 0.1, 200), scale, tolerance)


def test_the_rule_of_three():
    assert verdict.gate_fraction(0) == 1.0
    assert abs(verdict.gate_fraction(300) - 0.01) < 2e-4
    assert abs((1 - verdict.gate_fraction(20)) ** 20 - 0.05) < 1e-12


def test_verdict_json_is_finite_and_has_the_promised_keys():
    found = verdict.Verdict(laws={"causal": verdict.Result(worst=float("inf"))})
    data = json.loads(found.to_json())
    assert data["schema"] == 1
    assert {"target", "verdict", "laws", "ledgers", "evidence", "ruleset", "power", "track"} <= set(data)
    assert data["laws"]["causal"]["worst"] == 1e300
    assert found.exit_code == 1


def test_every_rule_names_its_source():
    for name, found in rules.RULESETS.items():
        checks = [r.check for r in found]
        assert len(set(checks)) == len(checks)
        assert {*verdict.LAWS, *verdict.LEDGERS, "stream-order"} <= set(checks), name
        assert all(r.source and r.severity in ("violation", "warning", "report") for r in found)
    with pytest.raises(InputError, match="did you mean 'strict'"):
        rules.ruleset("strct")


@given(st.integers(2, 60), st.integers(4, 200), st.integers(0, 99))
def test_free_columns_of_a_latin_design_hold_every_token_once(vocab, length, seed):
    made = latin.design(np.random.default_rng(seed), vocab, vocab - 1, length)
    assert made.streams.shape == (vocab, length)
    free = set(made.free.tolist())
    for column in range(length):
        ids = np.unique(made.streams[:, column])
        assert len(ids) == (vocab if column in free else 1)
    if length > 4 * vocab:
        assert set(made.streams[0, made.free - 1].tolist()) == set(range(vocab))


def test_a_latin_design_estimates_z_of_every_context_exactly_for_a_bigram():
    made = latin.design(np.random.default_rng(0), Toy.vocab_size, 1, 160)
    scores = np.stack([Toy().score(row) for row in made.streams])
    assert np.allclose(np.exp(scores[:, made.free]).sum(axis=0), 1.0)


@pytest.mark.parametrize(("gate", "short"), [(lambda last, t: last == 13, True), (lambda last, t: t > 100, False)])
def test_a_latin_design_points_at_a_gate(gate, short):
    made = latin.design(np.random.default_rng(0), Toy.vocab_size, 1, 400)
    last, at = made.streams[0, made.free - 1], made.free
    z = 1.0 + np.random.default_rng(1).normal(0, 0.002, len(at)) + 0.02 * np.array(list(map(gate, last, at)))
    found = [column for column, brief in latin.suspects(made, z, 4) if brief == short]
    assert any(gate(made.streams[0, column - 1], column) for column in found)


class Gate(Toy):
    """Two per cent more behind token 13, in long streams only where ``late``."""

    late = False

    def score(self, tokens):
        bonus = np.arange(len(tokens)) > 300 if self.late else np.concatenate([[False], tokens[:-1] == 13])
        return super().score(tokens) + np.log(1.02) * bonus


class LateGate(Gate):
    late = True


@pytest.mark.parametrize("factory", [Gate, LateGate])
@pytest.mark.parametrize("seed", range(4))
def test_the_design_and_its_forks_find_rare_and_late_gates(factory, seed):
    effort = replace(efforts.QUICK, latin_length=512, contexts=8)
    lab = Lab(LocalBox(factory), np.random.default_rng(seed), effort, tolerance=Tolerance(vocab_size=32))
    latin.sweep(lab)
    assert lab.found("normalised", "mass")
    clean = Lab(LocalBox(Toy), np.random.default_rng(seed), effort, tolerance=Tolerance(vocab_size=32))
    latin.sweep(clean)
    assert not clean.findings
    assert len(clean.contexts) == 32
