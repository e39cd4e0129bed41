"""Do the optimiser's options and the weight averages do what their float64 twins do?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evalkit.train.averages import Average, Ema
from evalkit.train.optim import AdamW, Muon, is_table, layer_of, orthogonalise
from evalkit.train.ranks import ALONE
from evalkit.train.recipe import NEWTON
from evalkit.train.switches.lawa import Lawa
from evalkit.train.switches.swa import Swa
from tests.kit import examples
from tests.twins.optim import adamw_naive, ema_naive, normuon_naive, orthogonalise_naive, quintic_naive, turbo_naive

TWINS = {"polar_express": orthogonalise_naive, "quintic": quintic_naive, "turbo": turbo_naive}


def matrices(count: int, shape: tuple[int, int]) -> dict[str, nn.Parameter]:
    return {f"w{i}": nn.Parameter(torch.randn(shape, dtype=torch.float64)) for i in range(count)}


def muon(params: dict[str, nn.Parameter], **options: object) -> Muon:
    plain: dict[str, object] = {"weight_decay": 0.0, "row_norm": False, "dtype": torch.float64}
    return Muon(params, **{**plain, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", NEWTON)
@given(rows=st.integers(1, 20), cols=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=examples(25), deadline=None)
def test_each_method_is_its_float64_twin(method: str, rows: int, cols: int, seed: int) -> None:
    u = np.random.default_rng(seed).normal(size=(3, rows, cols))
    fast = orthogonalise(torch.from_numpy(u), torch.float64, method).numpy()
    for one, slow in zip(fast, u, strict=True):
        np.testing.assert_allclose(one, TWINS[method](slow), atol=1e-9)


@pytest.mark.parametrize(("method", "low", "high"), [("quintic", 0.6, 1.3), ("turbo", 0.85, 1.15)])
def test_each_method_brings_singular_values_near_one(method: str, low: float, high: float) -> None:
    torch.manual_seed(0)
    for shape in ((4, 32, 96), (4, 96, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), method=method))
        assert low < values.min() <= values.max() < high


def test_normuon_is_its_float64_twin_over_steps() -> None:
    torch.manual_seed(0)
    params = matrices(2, (6, 15))
    optimiser = muon(params, variance=0.9)
    slow = {n: (p.detach().numpy().copy(), np.zeros(p.shape), np.zeros(6)) for n, p in params.items()}
    for _ in range(3):
        for name, p in params.items():
            p.grad = torch.randn_like(p)
            weight, momentum, second = slow[name]
            momentum = 0.9 * momentum + p.grad.numpy()
            o = orthogonalise_naive(p.grad.numpy() + 0.9 * momentum)
            o, second = normuon_naive(o, second, 0.9)
            slow[name] = (weight - 0.05 * o, momentum, second)
        optimiser.step(0.05, 0.9)
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), slow[name][0], atol=1e-9)


def test_normuon_keeps_the_size_of_the_step() -> None:
    torch.manual_seed(0)
    params = matrices(1, (8, 12))
    before = params["w0"].detach().clone()
    params["w0"].grad = torch.randn_like(before) * torch.arange(1, 9)[:, None]
    muon(params, variance=0.95).step(1.0, 0.0)
    step = before - params["w0"].detach()
    o = orthogonalise(params["w0"].grad[None], torch.float64)[0]  # type: ignore[index]
    torch.testing.assert_close(step.norm(), o.norm(), atol=1e-9, rtol=1e-9)
    assert step.square().mean(1).std() < 0.02 * o.square().mean()


def test_split_rates_and_decay_factor() -> None:
    torch.manual_seed(0)
    grads = [torch.randn(4, 6, dtype=torch.float64) for _ in range(2)]
    start = matrices(2, (4, 6))
    values = {n: p.detach().clone() for n, p in start.items()}

    def after(weight_decay: float, **step: object) -> dict[str, torch.Tensor]:
        params = {n: nn.Parameter(v.clone()) for n, v in values.items()}
        for p, g in zip(params.values(), grads, strict=True):
            p.grad = g
        muon(params, weight_decay=weight_decay).step(0.1, 0.9, **step)  # type: ignore[arg-type]
        return {n: p.detach() for n, p in params.items()}

    plain, split = after(0.0), after(0.0, factors={"w1": 0.5})
    assert torch.equal(plain["w0"], split["w0"])
    torch.testing.assert_close(values["w1"] - split["w1"], 0.5 * (values["w1"] - plain["w1"]))
    decayed, halved = after(0.4), after(0.4, decay=0.5)
    for n, value in values.items():
        torch.testing.assert_close(plain[n] - decayed[n], 0.1 * 0.4 * value)
        torch.testing.assert_close(plain[n] - halved[n], 0.1 * 0.2 * value)


def test_cautious_decay_acts_only_where_the_step_shrinks_the_weight() -> None:
    torch.manual_seed(0)
    values, grad = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    results = []
    for decay, cautious in ((0.0, False), (0.3, True)):
        p = nn.Parameter(values.clone())
        p.grad = grad.clone()
        muon({"w": p}, weight_decay=decay, cautious=cautious).step(0.1, 0.9)
        results.append(p.detach())
    plain, cautious_result = results
    shrinks = (values - plain) * values > 0
    torch.testing.assert_close(plain - cautious_result, 0.1 * 0.3 * values * shrinks)
    assert 0 < shrinks.sum() < shrinks.numel()


def test_a_shared_bank_is_the_whole_bank() -> None:
    stack = torch.randn(5, 4, 6)
    assert torch.equal(ALONE.shared(stack, orthogonalise), orthogonalise(stack))


def test_state_of_normuon_round_trips() -> None:
    torch.manual_seed(0)
    params = matrices(2, (4, 6))
    one, other = muon(params, variance=0.9), muon(params, variance=0.9)
    for p in params.values():
        p.grad = torch.randn_like(p)
    one.step(0.1, 0.9)
    other.load(one.state())
    assert set(one.state()) == {"muon.4x6", "normuon.4x6"}
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[name]), name


def test_adamw_is_its_float64_twin_with_decay_by_name() -> None:
    torch.manual_seed(0)
    params = {n: nn.Parameter(torch.randn(3, 4, dtype=torch.float64)) for n in "ab"}
    start = {n: p.detach().numpy().copy() for n, p in params.items()}
    grads = {n: [torch.randn(3, 4, dtype=torch.float64) for _ in range(4)] for n in "ab"}
    adam = AdamW(params, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.02, decays={"b": 0.3})
    for i in range(4):
        for n, p in params.items():
            p.grad = grads[n][i]
        adam.step({"a": 0.03, "b": 0.05})
    for n, lr, decay in (("a", 0.03, 0.02), ("b", 0.05, 0.3)):
        slow = adamw_naive(
            start[n], [g.numpy() for g in grads[n]], lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay
        )
        np.testing.assert_allclose(params[n].detach().numpy(), slow, atol=1e-12)


def trajectory(steps: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 4, dtype=torch.float64) for _ in range(steps)]


def followed(average: Average, weights: list[torch.Tensor], total: int) -> torch.Tensor:
    for t, w in enumerate(weights, 1):
        average.update({"w": nn.Parameter(w)}, t, t / total)
    return average.tensors()["w"]


def test_averages_are_their_float64_twins() -> None:
    weights = trajectory(20)
    start = {"w": nn.Parameter(torch.ones(3, 4, dtype=torch.float64))}
    slow = [w.numpy() for w in weights]
    np.testing.assert_allclose(
        followed(Ema(start, 0.8), weights, 20).numpy(), ema_naive(np.ones((3, 4)), slow, 0.8), atol=1e-12
    )
    np.testing.assert_allclose(
        followed(Swa(start, 0.5, 3), weights, 20).numpy(), np.mean([slow[11], slow[14], slow[17]], axis=0), atol=1e-12
    )
    np.testing.assert_allclose(
        followed(Lawa(start, 3, 4), weights, 20).numpy(), np.mean([slow[11], slow[15], slow[19]], axis=0), atol=1e-12
    )
    assert torch.equal(followed(Lawa(start, 1, 4), weights, 20), weights[19])


@pytest.mark.parametrize("kind", ["ema", "swa", "lawa"])
def test_averages_go_on_from_their_state(kind: str) -> None:
    weights, start = trajectory(12), {"w": nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))}

    def make() -> Average:
        kinds = {"ema": Ema(start, 0.9), "swa": Swa(start, 0.3, 2), "lawa": Lawa(start, 2, 3)}
        return kinds[kind]

    whole, first, second = make(), make(), make()
    followed(whole, weights, 12)
    for t, w in enumerate(weights[:7], 1):
        first.update({"w": nn.Parameter(w)}, t, t / 12)
    second.load(first.state())
    for t, w in enumerate(weights[7:], 8):
        second.update({"w": nn.Parameter(w)}, t, t / 12)
    assert torch.equal(second.tensors()["w"], whole.tensors()["w"])


def test_an_average_that_saw_nothing_is_empty() -> None:
    params = {"w": nn.Parameter(torch.ones(2))}
    assert Swa(params, 0.5, 1).tensors() == {}
    assert Lawa(params, 2, 1).tensors() == {}


def test_names_tell_tables_and_layers() -> None:
    assert [is_table(n) for n in ("embed.weight", "lm_head.weight", "bigram.table.weight")] == [True] * 3
    assert not any(is_table(n) for n in ("bigram.proj.weight", "blocks.0.attn.q.weight", "smear.weight"))
    assert [layer_of(n) for n in ("blocks.7.mix", "embed.weight")] == [7, -1]
