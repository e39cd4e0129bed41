"""Do the optimisers do what their float64 twins and torch's own do?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.model import GPT
from evalkit.train.optim import AdamW, Muon, orthogonalise, split_params
from evalkit.train.schedule import lr_multiplier, progress, ramp
from tests.kit import examples
from tests.twins.optim import muon_naive, orthogonalise_naive


@given(rows=st.integers(1, 24), cols=st.integers(1, 24), seed=st.integers(0, 99))
@settings(max_examples=examples(40), deadline=None)
def test_orthogonalise_is_its_float64_twin(rows: int, cols: int, seed: int) -> None:
    u = np.random.default_rng(seed).normal(size=(3, rows, cols))
    fast = orthogonalise(torch.from_numpy(u), torch.float64).numpy()
    for one, slow in zip(fast, u, strict=True):
        np.testing.assert_allclose(one, orthogonalise_naive(slow), atol=1e-10)


def test_orthogonalise_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(4, 32, 96)))
    assert values.min() > 0.85
    assert values.max() < 1.15


@pytest.mark.parametrize("row_norm", [False, True])
def test_muon_is_its_float64_twin_over_steps(row_norm: bool) -> None:
    torch.manual_seed(0)
    params = {
        n: nn.Parameter(torch.randn(s, dtype=torch.float64))
        for n, s in (("a", (8, 20)), ("b", (8, 20)), ("c", (20, 8)))
    }
    slow = {n: (p.detach().numpy().copy(), np.zeros(p.shape)) for n, p in params.items()}
    muon = Muon(params, weight_decay=0.1, row_norm=row_norm, dtype=torch.float64)
    assert len(muon.groups) == 2
    for mu in (0.85, 0.9, 0.95):
        for name, p in params.items():
            p.grad = torch.randn_like(p)
            slow[name] = muon_naive(*slow[name], p.grad.numpy(), lr=0.03, mu=mu, weight_decay=0.1, row_norm=row_norm)
        muon.step(0.03, mu)
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), slow[name][0], atol=1e-10)


def test_muon_goes_where_torch_muon_goes() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.zeros(48, 32)) for _ in range(2))
    muon = Muon({"w": ours}, weight_decay=0.0, row_norm=False, dtype=torch.float32)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="original")
    ours.grad = theirs.grad = torch.randn(48, 32)
    muon.step(0.1, 0.95)
    reference.step()
    cosine = nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
    assert cosine > 0.97  # theirs: one coefficient triple for all steps, in bfloat16
    assert 0.8 < float((ours.norm() / theirs.norm()).detach()) < 1.25


def test_adamw_is_torch_adamw() -> None:
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(7, 3, dtype=torch.float64))
    theirs = nn.Parameter(ours.detach().clone())
    adam = AdamW({"w": ours}, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.02)
    reference = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.02)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn_like(ours)
        adam.step({"w": 0.03})
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_state_round_trips() -> None:
    torch.manual_seed(0)
    params = {"w": nn.Parameter(torch.randn(4, 6))}
    one = Muon(params, weight_decay=0.0, row_norm=True, dtype=torch.float32)
    params["w"].grad = torch.randn(4, 6)
    one.step(0.1, 0.9)
    other = Muon(params, weight_decay=0.0, row_norm=True, dtype=torch.float32)
    other.load(one.state())
    assert torch.equal(other.momentum["4x6"], one.momentum["4x6"])


def test_every_parameter_has_one_optimiser() -> None:
    model = GPT(GPTConfig(vocab_size=32, layers=2, width=32, head_dim=16, rope_dims=8))
    matrices, others = split_params(model.named_parameters())
    assert not set(matrices) & set(others)
    assert set(matrices) | set(others) == {n for n, _ in model.named_parameters()}
    assert len(matrices) == 2 * 6
    assert "embed.weight" in others
    assert "blocks.0.attn.gate" in others


def test_one_function_of_progress_for_both_clocks() -> None:
    assert progress(30, 100, 0.0, 0.0) == progress(0, 100, 3.0, 10.0) == 0.3
    assert progress(200, 100, 0.0, 0.0) == 1.0
    assert lr_multiplier(0.2, 0.75, 0.05) == 1.0
    assert lr_multiplier(0.625, 0.75, 0.05) == pytest.approx(0.5)
    assert lr_multiplier(1.0, 0.75, 0.05) == 0.05
    assert lr_multiplier(0.9, 0.0, 0.0) == 1.0
    assert [ramp(s, 4, 0.85, 0.95) for s in (0, 2, 4, 9)] == pytest.approx([0.85, 0.9, 0.95, 0.95])


@given(f=st.floats(0, 1), g=st.floats(0, 1), warmdown=st.floats(0, 1), floor=st.floats(0, 1))
def test_the_multiplier_never_rises(f: float, g: float, warmdown: float, floor: float) -> None:
    early, late = sorted((f, g))
    assert 1.0 >= lr_multiplier(early, warmdown, floor) >= lr_multiplier(late, warmdown, floor) >= 0.0
