"""Do the loss helpers compute what they say, reach the weights, and stay out of the way when they are off?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evalkit.models.ek.config import GPTConfig
from evalkit.models.ek.grid import round_to_grid
from evalkit.models.ek.model import GPT
from evalkit.train.flops import flops_per_token, peak_flops
from evalkit.train.objective import Moment
from evalkit.train.recipe import Loss
from evalkit.train.schedule import decay_taper, momentum_at
from evalkit.train.switches.complementary import bigram_probabilities
from evalkit.train.switches.crown_q import crown_q
from evalkit.train.switches.loss import Helped
from evalkit.train.switches.qat import QuantAware, soft_round
from tests.kit import awake

CONFIG = GPTConfig(vocab_size=61, layers=2, width=32, head_dim=16, rope_dims=8, gate_dims=6)
LATE, EARLY = Moment(0.95, 0.05, 90), Moment(0.1, 1.0, 5)


def model() -> GPT:
    return awake(CONFIG, by=0.1).train()


def batch() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 61, (3, 17))


def objective(gpt: GPT, tokens: np.ndarray | None = None, **loss: object) -> Helped:
    return Helped(gpt, Loss(**loss), False, tokens)  # type: ignore[arg-type]


def test_with_everything_off_it_is_the_mean_cross_entropy() -> None:
    gpt, ids = model(), batch()
    total, nats = objective(gpt)(ids, EARLY)
    assert torch.equal(total, nats)
    assert torch.equal(nats, F.cross_entropy(gpt(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()))


def test_bigram_probabilities_are_counted() -> None:
    tokens = np.array([1, 2, 1, 3, 1, 2, 4], dtype=np.uint16)
    table = bigram_probabilities(tokens, 5).double()
    assert table[1].tolist() == pytest.approx([0, 0, 2 / 3, 1 / 3, 0], abs=1e-3)
    assert table[3, 1] == 1
    assert table[4].sum() == 0


def test_complementary_training_weighs_easy_targets_down() -> None:
    gpt, ids = model(), batch()
    tokens = np.random.default_rng(0).integers(0, 61, 5000).astype(np.uint16)
    total, nats = objective(gpt, tokens, complementary=0.5)(ids, EARLY)
    table = bigram_probabilities(tokens, 61).double()
    each = F.cross_entropy(gpt(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none").double()
    weights = [1 - 0.5 * float(table[a, b]) for a, b in zip(ids[:, :-1].flatten(), ids[:, 1:].flatten(), strict=True)]
    expected = sum(w * float(e.detach()) for w, e in zip(weights, each, strict=True)) / sum(weights)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(nats.detach()) == pytest.approx(float(each.detach().mean()), rel=1e-5), "the log shows the plain loss"


def test_mtp_asks_for_the_token_after_next() -> None:
    gpt, ids = model(), batch()
    objective_ = objective(gpt, mtp=0.3)
    total, nats = objective_(ids, EARLY)
    assert set(objective_.parameters()) == {"mtp.proj.weight"}
    rows = gpt.head(F.rms_norm(gpt.hidden(ids[:, :-1])[:, :-1], (32,)))
    extra = F.cross_entropy(rows.flatten(0, 1), ids[:, 2:].flatten())
    assert float(total.detach()) == pytest.approx(float((nats + 0.3 * extra).detach()), rel=1e-5)
    total.backward()
    assert objective_.parameters()["mtp.proj.weight"].grad is not None


def test_crown_q_is_its_formula_and_waits_for_the_warm_down() -> None:
    gpt, ids = model(), batch()
    slow = 0.0
    for name, p in gpt.named_parameters():
        if name.startswith("blocks.") and name.endswith(".weight"):
            for row in p.detach().double():
                d = row.abs().max() / 15
                slow += float((row.square() * d**2).sum() / 12)
    assert float(crown_q(gpt).detach()) == pytest.approx(slow, rel=1e-5)
    objective_ = objective(gpt, crown_q=2.0)
    early, nats = objective_(ids, EARLY)
    assert torch.equal(early, nats)
    late, nats = objective_(ids, LATE)
    assert float((late - nats).detach()) == pytest.approx(2 * slow, rel=1e-4)


@pytest.mark.parametrize("kind", ["ste", "soft"])
def test_qat_starts_late_and_its_gradients_reach_the_weights(kind: str) -> None:
    gpt, ids = model(), batch()
    objective_ = objective(gpt, qat=kind, qat_bits=4, qat_k=4.0)
    plain, _ = objective(gpt)(ids, EARLY)
    assert torch.equal(objective_(ids, EARLY)[0], plain)
    late, _ = objective_(ids, LATE)
    assert not torch.allclose(late, plain)
    late.backward()
    for name, p in gpt.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


def test_straight_through_rounding_is_the_exports_grid() -> None:
    gpt = model()
    qat = QuantAware(Loss(qat="ste", qat_bits=6, qat_k=8.0))
    w = gpt.blocks[0].get_parameter("mlp.up.weight")
    exported = round_to_grid(w.detach().numpy(), 6, 8.0).dequantise()
    step = 8.0 * w.detach().std(dim=1, keepdim=True) / 31
    assert ((qat.rounded(w, 0).detach() - torch.from_numpy(exported)).abs() < 0.01 * step).float().mean() > 0.99


def test_soft_rounding_sharpens_into_rounding() -> None:
    x = torch.linspace(-3, 3, 241)
    x = x[((x - torch.floor(x)) - 0.5).abs() > 0.1]  # away from the middle of a step
    errors = [float((soft_round(x, a) - torch.round(x)).abs().max()) for a in (1.0, 4.0, 16.0, 64.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01
    qat = QuantAware(Loss(qat="soft", qat_sharpening_steps=100))
    assert [qat.sharpness(s) for s in (0, 50, 100, 900)] == [1.0, 8.5, 16.0, 16.0]


def test_flops_are_the_records() -> None:
    """PR #1855: 215 MFLOP per token, 319 looped, and 69 (107) for attention at 2,048."""
    record = GPTConfig(vocab_size=8192, layers=11, width=512, kv_heads=4, loop_first=3, loop_last=5, loop_passes=3)
    for looping, matrices, attention in ((False, 215e6, 69e6), (True, 319e6, 107e6)):
        assert flops_per_token(record, 0, looping) == pytest.approx(matrices, rel=0.01)
        both = flops_per_token(record, 2048, looping)
        assert both - flops_per_token(record, 0, looping) == pytest.approx(attention, rel=0.01)


def test_peaks_are_known_for_the_fields_gpus_only() -> None:
    assert peak_flops("NVIDIA H200", "bf16") == peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("cpu", "bf16") is None
    assert peak_flops("NVIDIA H200", "fp32") is None


def test_momentum_and_decay_go_back_at_the_end() -> None:
    assert momentum_at(0, 0.0, 100, 10, 0, 0.85, 0.95) == 0.85
    assert momentum_at(99, 0.99, 100, 10, 0, 0.85, 0.95) == 0.95
    assert momentum_at(95, 0.95, 100, 10, 10, 0.85, 0.95) == pytest.approx(0.9)
    assert decay_taper(0.5, 0.5) == decay_taper(1.0, 1.0) == 1.0
    assert decay_taper(0.85, 0.5) == pytest.approx(0.75)
    assert math.isclose(decay_taper(1.0, 0.5), 0.5)
