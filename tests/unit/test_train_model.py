"""Is the base model causal, the same in one pass or many, and does every parameter learn?"""

from __future__ import annotations

import itertools
from functools import partial

import msgspec
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import InputError
from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.model import GPT
from tests.kit import awake, examples, random_ids
from tests.twins.banded import banded_naive

BOS = 1
CONFIG = GPTConfig(vocab_size=61, layers=3, width=32, head_dim=16, rope_dims=8, gate_dims=6, kv_heads=1, max_seq_len=64)


stream = partial(random_ids, vocab=CONFIG.vocab_size)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_forward_is_head_of_hidden_and_batches_do_not_mix(kv_heads: int) -> None:
    model = awake(GPTConfig(vocab_size=61, layers=2, width=64, head_dim=16, rope_dims=8, kv_heads=kv_heads))
    ids = torch.stack((stream(20), stream(20, 1)))
    with torch.no_grad():
        both = model(ids)
        assert both.shape == (2, 20, 61)
        assert torch.equal(both, model.head(model.hidden(ids)))
        torch.testing.assert_close(both[1:], model(ids[1:]), atol=1e-5, rtol=1e-5)
    assert both.abs().max() <= model.config.softcap


@given(at=st.integers(0, 39), seed=st.integers(0, 3))
@settings(max_examples=examples(10), deadline=None)
def test_logits_before_a_changed_token_do_not_move(at: int, seed: int) -> None:
    model, ids = awake(CONFIG), stream(40, seed)
    other = ids.clone()
    other[at] = 4 + (other[at] + 7) % 50
    with torch.no_grad():
        a, b = model(ids[None])[0], model(other[None])[0]
        c, d = model.banded(ids, None, 8)[0], model.banded(other, None, 8)[0]
    assert torch.equal(a[:at], b[:at])
    assert not torch.equal(a[at:], b[at:])
    torch.testing.assert_close(c[:at], d[:at], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(c[at], d[at])


def test_a_band_as_wide_as_the_stream_is_the_plain_forward() -> None:
    model, ids = awake(CONFIG), stream(64)
    with torch.no_grad():
        plain = model(ids[None])[0]
        for window in (64, 65, 100):
            torch.testing.assert_close(model.banded(ids, None, window)[0], plain, atol=1e-4, rtol=1e-4)


@given(window=st.integers(1, 40), cuts=st.lists(st.integers(1, 60), max_size=6), seed=st.integers(0, 3))
@settings(max_examples=examples(15), deadline=None)
def test_banded_in_any_calls_is_the_dense_band(window: int, cuts: list[int], seed: int) -> None:
    model, ids = awake(CONFIG), stream(61, seed)
    edges = sorted({0, 61, *cuts})
    with torch.no_grad():
        once, _ = model.banded(ids, None, window)
        state, parts = None, []
        for lo, hi in itertools.pairwise(edges):
            rows, state = model.banded(ids[lo:hi], state, window)
            parts.append(rows)
        dense = banded_naive(model, ids, window)
    torch.testing.assert_close(torch.cat(parts), once, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(once, dense, atol=1e-4, rtol=1e-4)
    assert state is not None
    assert state.kept[0][0].shape[2] == min(61, window - 1)


def test_a_token_out_of_the_band_of_every_layer_is_not_seen() -> None:
    model, ids = awake(CONFIG), stream(60)
    other = ids.clone()
    other[3] = 4 + (other[3] + 7) % 50
    reach = 1 + CONFIG.layers * (5 - 1)  # smear looks one back, each layer window - 1
    with torch.no_grad():
        a, b = model.banded(ids, None, 5)[0], model.banded(other, None, 5)[0]
    assert torch.equal(a[3 + reach + 1 :], b[3 + reach + 1 :])
    assert not torch.allclose(a[4], b[4])


def test_smear_does_not_carry_a_document_into_the_next() -> None:
    model, ids = awake(CONFIG), stream(2)
    ids[0], ids[1] = 10, BOS
    other = ids.clone()
    other[0] = 20
    with torch.no_grad():
        assert model.smear is not None
        a, b = (model.smear(model.embed(x)[None], x[None], None) for x in (ids, other))
        assert torch.equal(a[0, 1], b[0, 1])
        ids[1] = other[1] = 9
        a, b = (model.smear(model.embed(x)[None], x[None], None) for x in (ids, other))
        assert not torch.equal(a[0, 1], b[0, 1])


def test_banded_state_of_another_window_is_refused() -> None:
    model, ids = awake(CONFIG), stream(8)
    _, state = model.banded(ids, None, 4)
    with pytest.raises(ValueError, match="band of 4 tokens, not 5"):
        model.banded(ids, state, 5)


def test_switches_leave_the_logits_unchanged_at_the_start() -> None:
    ids = stream(30)[None]

    def logits(**switches: bool) -> torch.Tensor:
        torch.manual_seed(0)
        return GPT(msgspec.structs.replace(CONFIG, **switches))(ids)

    base = logits()
    for switch in ("xsa", "value_residual", "smear", "head_gate"):
        assert torch.equal(logits(**{switch: False}), base), switch


def test_every_parameter_has_a_gradient_within_two_steps() -> None:
    torch.manual_seed(0)
    model, ids = GPT(CONFIG), stream(65)[None]
    seen: set[str] = set()
    for _ in range(2):
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            if p.grad.abs().max() > 0:
                seen.add(name)
            p.data.add_(p.grad, alpha=-1.0)
        model.zero_grad()
    assert seen == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    "change", [{"width": 33}, {"kv_heads": 3}, {"rope_dims": 7}, {"bos_id": 61}, {"layers": 0}, {"vocab_size": 1 << 40}]
)
def test_a_shape_that_cannot_be_built_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(InputError):
        msgspec.structs.replace(CONFIG, **change).check()
