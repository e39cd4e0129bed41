"""Are SLOT's closed-form gradients those of its definition, and does its state follow residual counts?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapters.learners.slot import Pace, SlotSettings, SlotState, StepsFit, row_gradients
from tests.twins.slot_gradient import row_gradients_naive


class Head:
    """Softcap 5 over a random [V, D] matrix."""

    def __init__(self, width: int, vocab: int, seed: int) -> None:
        self.weight = torch.randn(vocab, width, generator=torch.Generator().manual_seed(seed))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return 5 * torch.tanh(F.linear(hidden, self.weight) / 5)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(2, 12), st.integers(0, 99))
def test_row_gradients_are_backpropagation_row_by_row(n: int, width: int, vocab: int, seed: int) -> None:
    torch.manual_seed(seed)
    head, hidden, bias = Head(width, vocab, seed), torch.randn(n, width), torch.randn(vocab)
    targets = torch.randint(0, vocab, (n,))
    fast = row_gradients(head, hidden, targets, bias, True)
    slow = row_gradients_naive(head, hidden, targets, bias)
    for ours, theirs in zip((fast.delta, fast.delta_square, fast.bias, fast.bias_spread), slow, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    bare = row_gradients(head, hidden, targets, bias, False)
    assert torch.equal(bare.bias, fast.bias)
    assert bare.delta.abs().max() == 0
    closed = (
        (torch.softmax(head.head(hidden) + bias, -1) - F.one_hot(targets, vocab)) * (1 - (head.head(hidden) / 5) ** 2)
    ) @ head.weight
    torch.testing.assert_close(fast.delta, closed.sum(0), atol=1e-4, rtol=1e-4)


def test_the_bias_ends_at_the_residual_of_the_counts() -> None:
    """A flat model on a skewed text: the bias goes to log of observed over expected frequency, up to a constant."""
    vocab, truth = 4, torch.tensor([0.7, 0.2, 0.07, 0.03])
    head = Head(3, vocab, 0)
    head.weight.zero_()
    state = SlotState(3, vocab, Pace(1.0, 1.0, 1000.0, 2.0, 0.0), torch.device("cpu"))
    torch.manual_seed(0)
    for _ in range(400):
        y = torch.multinomial(truth, 32, replacement=True)
        state.step(row_gradients(head, torch.zeros(32, 3), y, state.bias, True), 32)
    found = torch.softmax(state.bias, 0)
    torch.testing.assert_close(found, truth, atol=0.02, rtol=0)
    assert float(state.seen) == 400 * 32
    again = SlotState(3, vocab, state.pace, torch.device("cpu"))
    again.load({k: v.clone() for k, v in state.state().items()})
    assert all(torch.equal(a, b) for a, b in zip(state.state().values(), again.state().values(), strict=True))
    again.reset()
    assert again.bias.abs().max() == 0


def test_a_half_life_forgets_curvature() -> None:
    head = Head(3, 5, 1)
    fast = SlotState(3, 5, Pace(1, 1, 10, 1, 64), torch.device("cpu"))
    g = row_gradients(head, torch.randn(64, 3), torch.zeros(64, dtype=torch.int64), fast.bias, True)
    for _ in range(60):
        fast.step(g, 64)
    torch.testing.assert_close(fast.bias_curvature, 2 * g.bias_spread, rtol=1e-3, atol=1e-6)
    assert abs(float(fast.seen) - 128) < 1e-6


def test_steps_lower_the_nats_of_the_context_that_they_see() -> None:
    torch.manual_seed(0)
    head, hidden, targets = Head(4, 6, 2), torch.randn(40, 4), torch.randint(0, 3, (40,))
    fit = StepsFit(SlotSettings(form="steps", scope=("stream",), delta=0.05, bias=0.05, context=30), 4, 6, "cpu")
    fit.learn(head, hidden, targets)
    fit.finish(head)
    assert fit.stream is not None
    before = F.cross_entropy(head.head(hidden[-30:]), targets[-30:])
    after = F.cross_entropy(head.head(hidden[-30:] + fit.stream.delta) + fit.stream.bias, targets[-30:])
    assert after < before - 0.1
    assert fit.state()["rows"].shape == (30, 4)
    held = fit.stream.bias.clone()
    fit.finish(head)
    assert torch.equal(held, fit.stream.bias)  # a cold fit to the same rows is the same fit
