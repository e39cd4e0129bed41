"""The number of ranks does not show in the scores: every document, every stage, every bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_threads import score_on_threads

from evalkit.adapters.base import Needs
from evalkit.adapters.registry import parse_adapter
from evalkit.models.registry import open_checkpoint
from evalkit.plan import Banded, Disjoint, Document, Plan, Sliding
from evalkit.scoring import loop as loop_module
from evalkit.scoring.score import ScoreOptions, score
from evalkit.stream import open_stream, open_tokenizer

OPTIONS = ScoreOptions(chunk_tokens=256, batch_tokens=100)
PLANS = {
    "disjoint": Disjoint(seq_len=32),
    "sliding": Sliding(seq_len=48, stride=16),
    "document": Document(seq_len=40, stride=20),
    "banded": Banded(window=24, block=32, segment=64),
}


class Halver:
    """An expert on whole rows that also reads everything a side can hold."""

    name = "halver"
    settings = parse_adapter("ppm").settings
    needs = Needs(entropy=True, top=True, masses=("control",), rows=True)

    def begin(self, info: Any) -> None:
        self.vocab = info.vocab_size

    def propose(self, tokens: Any) -> Any:
        raise AssertionError("no hints were promised")

    def row(self, p: Any, side: Any, history: Any = ()) -> Any:
        return self.score_rows(p[None], side)[0]

    def score_rows(self, p: Any, side: Any) -> Any:
        weight = (side.entropy / 12.0 + side.top_p + side.masses["control"] + side.top_id % 2)[:, None] / 4.0
        return (1.0 - weight) * p + weight / self.vocab

    def score(self, chunk: Any, p: Any) -> Any:
        return self.score_rows(p, chunk.side)

    def observe(self, receipt: Any) -> None: ...

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes, tokens: Any) -> None: ...

    def state_bytes(self) -> int:
        return 0


class Repeater(Halver):
    """Hints at the token before: needs the probability of one more id."""

    name = "repeater"
    needs = Needs(hints=1)

    def begin(self, info: Any) -> None:
        self.proposed = self.last = info.first_token

    def propose(self, tokens: Any) -> Any:
        """Ahead of the scores, so it has a place of its own."""
        hints = np.concatenate(([self.proposed], tokens[:-1])).astype(np.int32)
        self.proposed = int(tokens[-1])
        return hints[:, None]

    def row(self, p: Any, side: Any, history: Any = ()) -> Any:
        q = p * 0.5
        q[self.last] += 0.5
        return q

    def score(self, chunk: Any, p: Any) -> Any:
        self.last = int(chunk.tokens[-1])
        hint = chunk.cands[:, 1:2]
        return np.where(chunk.cands == hint, p * 0.5 + 0.5, p * 0.5)


def parts_of(checkpoint: Path, text: Path, names: tuple[Any, ...], targets: int = 700) -> Any:
    torch.set_num_threads(1)

    def make() -> tuple[Any, Any, list[Any]]:
        stream = open_stream([text], open_tokenizer("byte"), limit_targets=targets)
        adapters = [parse_adapter(n) if isinstance(n, str) else n() for n in names]
        return open_checkpoint(str(checkpoint)), stream, adapters

    return make


def assert_same(a: Any, b: Any) -> None:
    assert a.run["totals"] == b.run["totals"]
    assert np.array_equal(a.documents.nats, b.documents.nats)
    assert np.array_equal(a.documents.doc, b.documents.doc)
    assert a.complete
    assert b.complete


def alone(make: Any, plan: Plan) -> Any:
    model, stream, adapters = make()
    return score(model, stream, adapters, plan, options=OPTIONS)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "stack",
    [("ppm",), (Repeater, "ppm"), (Halver,), (Repeater, "ppm:decide=0.1"), (Halver, "ppm:decide=0.1")],
    ids=["ppm", "hints", "rows", "top", "top behind rows"],
)
def test_experts_score_the_same_bits_on_any_number_of_ranks(
    checkpoint: Path, text: Path, plan: str, stack: tuple[Any, ...]
) -> None:
    make = parts_of(checkpoint, text, stack)
    whole = alone(make, PLANS[plan])
    for size in (1, 3):
        shared = score_on_threads(size, make, PLANS[plan], OPTIONS)
        assert_same(whole, shared)
        assert shared.run["world_size"] == size
        assert sum(rank["units"] for rank in shared.run["ranks"]) == _units(PLANS[plan], make()[1])


def _units(plan: Plan, stream: Any) -> int:
    chunks = plan.chunks(stream.n_targets + 1, stream.doc_start, OPTIONS.chunk_tokens)
    return sum(len(list(plan.units(chunk, OPTIONS.batch_tokens))) for chunk in chunks)


TRAINED = "chunk=256,seq_len=32,batch=3"
LEARNERS = (
    f"full_ttt:{TRAINED},lr=0.05",
    f"muon_ttt:{TRAINED}",
    f"lora_ttt:{TRAINED},lr=0.1,reset=document",
    "slot:reuse=false",
)


@pytest.mark.parametrize("plan", ["disjoint", "banded"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_learners_score_the_same_bits_on_any_number_of_ranks(
    checkpoint: Path, text: Path, learner: str, plan: str
) -> None:
    make = parts_of(checkpoint, text, (learner, "ppm"))
    whole = alone(make, PLANS[plan])
    assert whole.run["stages"][0]["delta_bpb"] != 0.0
    assert_same(whole, score_on_threads(3, make, PLANS[plan], OPTIONS))


@pytest.mark.parametrize("shared", ["", ",batched=true"])
@pytest.mark.parametrize("chunk", [64, 256, 2000])
def test_documents_that_learn_by_themselves_are_shared_out(
    checkpoint: Path, text: Path, shared: str, chunk: int
) -> None:
    """Chunks of 64 cut documents: the state goes with them to another rank."""
    lanes = f"lora_lanes:targets=[q,v,mlp],rank=2,chunk=16,lr=0.05,lanes=3{shared}"
    make, plan = parts_of(checkpoint, text, (lanes, "ppm"), 400), Document(seq_len=32, stride=16)
    options = ScoreOptions(chunk_tokens=chunk, batch_tokens=100)
    model, stream, adapters = make()
    whole = score(model, stream, adapters, plan, options=options)
    assert whole.run["stages"][0]["delta_bpb"] != 0.0
    for size in (2, 3):
        found = score_on_threads(size, make, plan, options)
        assert_same(whole, found)
    assert {rank["units"] > 0 for rank in found.run["ranks"]} == {True}


def test_a_document_that_a_chunk_cuts_goes_on_after_a_resume_on_other_ranks(
    checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(loop_module, "SNAPSHOT_SHARE", 0.0)
    lanes = "lora_lanes:targets=[q,v,mlp],rank=2,chunk=16,lr=0.05,lanes=2"
    make, plan = parts_of(checkpoint, text, (lanes, "ppm"), 500), Document(seq_len=32, stride=16)
    options = ScoreOptions(chunk_tokens=64, batch_tokens=100)
    whole = score_on_threads(1, make, plan, options, out=tmp_path / "whole")
    real = loop_module.Loop._observe

    def dies(self: Any, chunk: Any, *rest: Any) -> None:
        if chunk.index == 4:
            raise KeyboardInterrupt
        real(self, chunk, *rest)

    monkeypatch.setattr(loop_module.Loop, "_observe", dies)
    with pytest.raises(KeyboardInterrupt):
        score_on_threads(2, make, plan, options, out=tmp_path / "cut")
    monkeypatch.setattr(loop_module.Loop, "_observe", real)
    again = score_on_threads(3, make, plan, options, out=tmp_path / "cut")
    assert again.run["resumed_chunks"] == 5
    assert_same(whole, again)
    assert (tmp_path / "whole" / "scores.f64").read_bytes() == (tmp_path / "cut" / "scores.f64").read_bytes()


def test_a_plan_that_carries_on_for_ever_is_refused_for_ranks_and_runs_alone(checkpoint: Path, text: Path) -> None:
    plan = Banded(window=24, block=64, segment=0)
    make = parts_of(checkpoint, text, ("ppm",))
    assert_same(alone(make, plan), score_on_threads(1, make, plan, OPTIONS))
    with pytest.raises(Exception, match="segment=0 every block needs the one before it, so 2 ranks cannot share it"):
        score_on_threads(2, make, plan, OPTIONS)
