"""What another harness asks for is what a plain forward over each text gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.cli.main import main
from evalkit.errors import InputError
from evalkit.integrations.requests import Requests
from evalkit.plan import parse_plan
from evalkit.stream import open_texts, open_tokenizer, stream_of_tokens
from tests.kit import golf

TEXTS = ["the cat sat on a mat. " * 3, "", "so it is, and the cat sat on a mat. " * 2, "x"]
PPM = [("ppm", {})]


def requests(adapters: Any = (), plan: str | None = "document:seq_len=1024,stride=1024") -> Requests:
    return Requests(golf(), open_tokenizer("byte"), list(adapters), parse_plan(plan) if plan else None)


def plain(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Nats and hits of ids[1:], each from the ids before it."""
    logits = golf().logits(torch.tensor([ids[:-1]]))[0].double()
    after = torch.tensor(ids[1:])
    nats = torch.nn.functional.cross_entropy(logits, after, reduction="none")
    return nats.detach().numpy(), (logits.argmax(-1) == after).numpy()


def test_a_text_costs_what_its_tokens_cost_without_the_bos_that_ends_it() -> None:
    tokenizer = open_tokenizer("byte")
    expected = [plain([tokenizer.bos_id, *tokenizer.encode(t).tolist()])[0].sum() if t else 0.0 for t in TEXTS]
    for alone in (False, True):
        np.testing.assert_allclose(requests().texts(TEXTS, alone=alone), expected, rtol=1e-5)
    assert requests().texts([]) == []
    assert requests().texts(["", ""]) == [0.0, 0.0]


def test_adapters_learn_from_text_to_text_unless_each_stands_alone() -> None:
    together, alone = requests(PPM).texts(TEXTS), requests(PPM).texts(TEXTS, alone=True)
    assert together[0] == pytest.approx(alone[0], rel=1e-6)
    assert together[2] < alone[2] - 1.0
    assert requests(PPM).texts([TEXTS[2]]) == [pytest.approx(alone[2], rel=1e-6)]
    assert requests(PPM).texts(TEXTS[::-1])[1] != pytest.approx(together[2], rel=1e-3)


def test_a_pair_is_scored_behind_its_own_context_alone() -> None:
    tokenizer = open_tokenizer("byte")
    pairs = [("the cat ", "sat on"), ("", "a mat."), ("sat", " on a mat. so it is")]
    ids = [(tokenizer.encode(a).tolist(), tokenizer.encode(b).tolist()) for a, b in pairs]
    ids[1] = ([tokenizer.bos_id], ids[1][1])  # how a harness spells an empty context
    found = requests().pairs(ids)
    for (context, after), (nats, hit) in zip(ids, found, strict=True):
        own = [t for t in context if t != tokenizer.bos_id]
        expected, hits = plain([tokenizer.bos_id, *own, *after])
        assert nats == pytest.approx(math.fsum(expected[-len(after) :]), rel=1e-5)
        assert hit == bool(hits[-len(after) :].all())
    assert requests(PPM).pairs([ids[0], ids[0]])[0] == requests(PPM).pairs([ids[0]])[0]


def test_the_most_probable_continuation_is_greedy() -> None:
    tokenizer = open_tokenizer("byte")
    context = tokenizer.encode("the cat").tolist()
    row = golf().logits(torch.tensor([[tokenizer.bos_id, *context]]))[0, -1]
    best, worst = int(row.argmax()), int(row.argmin())
    assert [hit for _, hit in requests().pairs([(context, [best]), (context, [worst])])] == [True, False]


def test_what_cannot_be_asked_is_one_sentence() -> None:
    with pytest.raises(InputError, match="continuation is empty"):
        requests().pairs([([5, 6], [])])
    with pytest.raises(InputError, match="unknown adapter 'pmm'; did you mean 'ppm'"):
        requests([("pmm", {})])
    with pytest.raises(InputError, match="all 2 texts are empty"):
        open_texts(["", ""], open_tokenizer("byte"))
    with pytest.raises(InputError, match="token 0 is id 7, not BOS"):
        stream_of_tokens(np.array([7, 8, 9]), open_tokenizer("byte"))
    with pytest.raises(InputError, match="no tokens"):
        stream_of_tokens(np.array([], np.int32), open_tokenizer("byte"))


def test_the_verb_explains_itself_without_the_harness(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lm-eval", "--help"]) == 0
    assert "usage: evalkit lm-eval" in capsys.readouterr().out
