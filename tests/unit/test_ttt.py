"""Are the parts of test-time training what their definitions say?  Windows, clock, optimisers, Newton-Schulz."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evalkit.adapters.base import Receipt, TokenLedger
from evalkit.adapters.learners.learner import Booked, ChunkClock, same_length, training_windows
from evalkit.adapters.learners.optim import AdamW, Sgd, orthogonalise
from evalkit.adapters.learners.ranks import SOLO
from evalkit.adapters.learners.weights import FlatParams
from evalkit.adapters.learners.whole import FullTttSettings, MuonStep, MuonTttSettings
from tests.twins.newton_schulz import orthogonalise_by_svd
from tests.twins.ttt_windows import context_of_target

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 90), st.integers(1, 24), st.integers(0, 23)).filter(
    lambda x: x[3] < x[2]
)


@given(shape=SHAPES)
def test_every_target_trains_once_in_the_window_of_the_definition(shape: tuple[int, int, int, int]) -> None:
    before, n, seq_len, overlap = shape
    windows = training_windows(before, n, seq_len, overlap)
    owners = {t: w for w in windows for t in range(w.lo, w.hi)}
    assert sorted(owners) == list(range(before, before + n))
    assert sum(w.hi - w.lo for w in windows) == n
    for target, window in owners.items():
        assert (window.start, window.hi - 2) == context_of_target(target, before, n, seq_len, overlap)
        assert 1 <= window.length <= seq_len


@given(shape=SHAPES, tokens=st.integers(1, 200))
def test_batches_hold_one_length_and_every_window(shape: tuple[int, int, int, int], tokens: int) -> None:
    windows = training_windows(*shape)
    batches = list(same_length(windows, tokens))
    assert sorted(w.lo for b in batches for w in b) == [w.lo for w in windows]
    for batch in batches:
        assert len({w.length for w in batch}) == 1
        assert len(batch) == 1 or sum(w.length for w in batch) <= tokens


def receipt(lo: int, hi: int) -> Receipt:
    """Token t is t; nats are minus the position."""
    return TokenLedger(np.arange(lo, dtype=np.int32), lo).book(
        lo, np.arange(lo, hi, dtype=np.int32), -np.arange(lo, hi, dtype=float)
    )


@given(chunk=st.integers(0, 30), keep=st.integers(1, 20), sizes=st.lists(st.integers(1, 25), min_size=1, max_size=12))
def test_the_clock_loses_nothing_and_ticks_on_its_grid(chunk: int, keep: int, sizes: list[int]) -> None:
    clock, at, seen = ChunkClock(chunk, keep, 50), 1, 1
    for size in sizes:
        booked = clock.add(receipt(at, at + size))
        crossed = chunk == 0 or (at + size - 1) // chunk > (at - 1) // chunk
        at += size
        assert (booked is not None) == crossed
        fresh = ChunkClock(chunk, keep, 50)
        fresh.load({k: v.clone() for k, v in clock.state().items()})
        clock = fresh
        if booked is not None:
            assert (booked.lo, booked.hi) == (seen, at)
            assert booked.text.tolist() == list(range(max(0, seen - keep), at))
            assert booked.before == min(keep, seen)
            assert booked.nats.tolist() == [-float(t) for t in range(seen, at)]
            before = 0 if seen <= 50 else -1  # what began before the context is known from the clock alone
            assert booked.owners.tolist() == [50 if t >= 50 else before for t in booked.text]
            seen = at


def test_booked_since_a_position_keeps_the_document_alone() -> None:
    booked = Booked(10, 16, np.arange(6, 16), 4, np.arange(6.0), np.arange(10))
    assert booked.since(0) is booked
    early, late = booked.since(2), booked.since(6)
    assert early is not None
    assert late is not None
    assert (early.lo, early.before, early.text.tolist()) == (10, 2, list(range(8, 16)))
    assert (late.lo, late.before, late.text.tolist(), late.nats.tolist()) == (13, 1, [12, 13, 14, 15], [3.0, 4.0, 5.0])
    assert booked.since(9) is None


def moved(ours: object, theirs: torch.optim.Optimizer, w: nn.Parameter, lr: float, steps: int = 7) -> float:
    values = w.detach().clone()
    torch.manual_seed(1)
    for _ in range(steps):
        grad = torch.randn_like(values)
        w.grad = grad.clone()
        theirs.step()
        ours.step(values, grad.clone(), lr)  # type: ignore[attr-defined]
    return float((values - w.detach()).abs().max())


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torch_s(nesterov: bool) -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 9))
    theirs = torch.optim.SGD([w], lr=0.1, momentum=0.9, nesterov=nesterov)
    assert moved(Sgd(w, 0.9, nesterov), theirs, w, 0.1) < 1e-6


def test_adamw_is_torch_s() -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 9))
    theirs = torch.optim.AdamW([w], lr=0.1, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.3)
    assert moved(AdamW(w, (0.8, 0.95), 1e-8, 0.3), theirs, w, 0.1) < 1e-5


@pytest.mark.parametrize("polar", [False, True])
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_newton_schulz_is_its_polynomial_of_the_singular_values(shape: tuple[int, int], polar: bool) -> None:
    torch.manual_seed(0)
    g = torch.randn(3, *shape)
    for steps in (1, 3, 5):
        fast = orthogonalise(g, steps, polar)
        for i in range(3):
            np.testing.assert_allclose(fast[i].numpy(), orthogonalise_by_svd(g[i].numpy(), steps, polar), atol=2e-3)
    singular = torch.linalg.svdvals(orthogonalise(g, 5, polar))
    assert (singular - 1).abs().max() < 0.45
    assert orthogonalise(torch.zeros(1, 3, 4)).abs().max() == 0


def test_muon_steps_matrices_by_shape_and_vectors_by_sgd() -> None:
    torch.manual_seed(0)
    params = {"a": torch.randn(6, 3), "bank": torch.randn(2, 3, 6), "b": torch.randn(6, 3), "v": torch.randn(5)}
    named = {n: nn.Parameter(t.clone()) for n, t in params.items()}
    flat = FlatParams(named)
    settings = MuonTttSettings(by_shape=True, vector_lr=0.5, steps=4)
    grads = {n: torch.randn_like(t) for n, t in params.items()}
    MuonStep(flat, settings, SOLO).step(flat.values, torch.cat([g.flatten() for g in grads.values()]), 0.1)

    def expected(name: str, g: torch.Tensor) -> torch.Tensor:
        if g.ndim == 1:
            return params[name] - 0.1 * 0.5 * g
        if g.ndim == 3:
            return torch.stack(
                [params[name][i] - 0.1 * torch.from_numpy(orthogonalise_by_svd(g[i].numpy(), 4)) for i in (0, 1)]
            )
        return params[name] - 0.1 * (6 / 3) ** 0.5 * torch.from_numpy(orthogonalise_by_svd(g.numpy(), 4))

    for name, p in named.items():
        np.testing.assert_allclose(p.detach().numpy(), expected(name, grads[name]).numpy(), atol=1e-4)


def test_flat_parameters_are_views_and_other_dtypes_are_written_back() -> None:
    module = nn.Module()
    module.a, module.b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    flat = FlatParams(dict(module.named_parameters()))
    with flat.training():
        flat.add_grad(module.a.sum() * 2 + module.b.float().sum())
    assert flat.grad.tolist() == [2.0] * 4 + [1.0] * 3
    assert not module.a.requires_grad
    flat.values.sub_(flat.grad)
    assert module.a[0, 0] == -1
    assert module.b[0] == 1
    flat.push()
    assert module.b[0] == 0
    assert flat.bytes == 7 * 8


def test_cosine_falls_to_zero_at_the_declared_horizon_and_is_noted() -> None:
    from evalkit.adapters.learners.whole import FullTtt

    s = FullTttSettings(schedule="cosine", horizon=1000, lr=2.0)
    assert [round(s.lr_at(x), 6) for x in (0, 500, 1000, 5000)] == [2.0, 1.0, 0.0, 0.0]
    assert FullTttSettings(lr=2.0).lr_at(10**9) == 2.0
    assert "declared horizon of 1,000" in FullTtt(s).notes[0]
    assert FullTtt().notes == []
