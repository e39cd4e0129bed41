"""Does ``benches.card`` itself keep to its device, and compare it with the host?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from fake_card import NAME, card

from benches.card import parity, speed
from benches.card.sheet import Card
from benches.card.subjects import SMALLEST


@pytest.mark.slow
def test_the_kit_compares_the_card_with_the_host(tmp_path: Path) -> None:
    with card():
        here = Card(tmp_path, f"{NAME}:0", True, 1.0, time.time(), time.time() + 600.0)
        plan = parity.plans(here)["banded, one pass"]
        found = [
            parity.logits(here, SMALLEST, 32),
            parity.compare(here, parity.sized(here, "muon_ttt"), plan, 256, parity.LEARNER),
            speed.row_forms(here, 64, 260, torch.bfloat16),
            speed.timed(here, _attend, 2, 32),
        ]
    assert [row["status"] for row in found] == ["ok"] * 4
    assert found[1]["worst_nats"] > 0.0  # the host's attention is fused, the card's is not


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    from evalkit.models.ek.parts.kernel import attend

    return attend(q, k, v)
