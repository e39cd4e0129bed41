"""Are documents that learn by themselves audited and certified, and are lanes that cheat caught?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evalkit.adapters.base import TokenLedger
from evalkit.adapters.learners.lora_lanes import LoraLanes
from evalkit.adapters.registry import parse_adapter
from evalkit.cli.main import main
from evalkit.legality.certificate import bundle
from evalkit.legality.effort import Effort
from evalkit.legality.referee import audit
from evalkit.stream.shard import read_shard
from evalkit.stream.tokenizer import ByteTokenizer
from tests.kit import toy_box

SPEC = "lora_lanes:lanes=3,chunk=8,rank=2,lr=0.05,targets=[q,v,mlp]"
SMALL = Effort(length=24, streams=1, cuts=12, forks=1, long_length=0, latin_length=0, own=0, shrink=4)


class Early(LoraLanes):
    """Steps on the tokens that it is given as inputs, nearly all of them targets of the rows that it then returns."""

    def _build(self, model: Any, seed: int) -> Any:
        lanes = super()._build(model, seed)
        real = lanes.lane_logits

        def early(index: Any, ids: Any, owners: Any) -> Any:
            if ids.shape[1] > 1:
                real(index, ids, owners)
                seen = ids[0, 1:].numpy().astype("int32")
                lanes.learn([(0, 0, TokenLedger(seen[:0], 1).book(1, seen, seen + 1.0))])
            return real(index, ids, owners)

        lanes.lane_logits = early
        return lanes


class Neighbours(LoraLanes):
    """What one document learns, every lane learns too."""

    def _build(self, model: Any, seed: int) -> Any:
        import torch

        lanes = super()._build(model, seed)
        real = lanes._step

        def everywhere(index: Any, grad: Any, booked: Any) -> None:
            for lane in range(lanes.lanes):
                real(torch.tensor([lane]), grad, booked)

        lanes._step = everywhere
        return lanes


class Unwashed(LoraLanes):
    """A document begins with what the one before has learned, and says that it does not."""

    def _build(self, model: Any, seed: int) -> Any:
        lanes = super()._build(model, seed)
        lanes.start = lambda lane: None
        return lanes


def verdict_of(cls: type[LoraLanes]) -> Any:
    settings = parse_adapter(SPEC).settings
    return audit(toy_box(lambda: cls(settings)), target=cls.__name__, effort=SMALL)


def test_honest_lanes_pass() -> None:
    found = verdict_of(LoraLanes)
    assert found.violated() == set(), found.reason
    assert found.laws["causal"].probes >= 12
    assert found.laws["causal"].worst == 0.0, "not one bit may move"
    assert found.laws["normalised"].worst == pytest.approx(1.0, abs=1e-9)
    assert found.ledgers["declared"].status == "ok", "documents are declared isolated"
    assert "rows with the target withheld" in found.laws["normalised"].detail


@pytest.mark.slow
def test_lanes_that_step_before_they_book_are_caught() -> None:
    found = verdict_of(Early)
    assert found.violated() >= {"causal", "score-first"}
    assert any(e.law == "score-first" and e.test == "strict" for e in found.evidence), "seen by its bank of states"
    assert any(e.law == "causal" and e.test == "suffix" for e in found.evidence), "seen as a black box"


def test_lanes_that_keep_what_another_document_learned_are_caught() -> None:
    found = verdict_of(Unwashed)
    assert found.ledgers["declared"].status == "violated"


@pytest.mark.slow
def test_a_step_in_other_lanes_reaches_no_other_document() -> None:
    """By construction: documents are units of work, and a lane is washed where one begins."""
    found = verdict_of(Neighbours)
    assert found.violated() == set()
    assert found.ledgers["declared"].status == "ok"


@pytest.fixture(scope="module")
def short_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of 30 to 90 bytes: most span several pieces, and one is shorter than a piece."""
    texts = ["".join(f"Item {i * j % 7} of {i}; the cat sat. " for j in range(1 + i % 3)) for i in range(8)]
    path = tmp_path_factory.mktemp("short") / "t.jsonl"
    texts.insert(3, "Hi")
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


def flags(checkpoint: Path, text: Path, *adapters: str) -> list[str]:
    common = ["--checkpoint", str(checkpoint), "--tokenizer", "byte", "--text", str(text), "--chunk-tokens", "64"]
    return [*common, "--plan", "document:seq_len=32,stride=16", *[w for a in adapters for w in ("--adapter", a)]]


def test_a_certificate_with_lanes_comes_back(checkpoint: Path, short_documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    stack = flags(checkpoint, short_documents, SPEC, "ppm")
    assert main(["certify", *stack, "--tokens", "320", "--out", str(out)]) == 0
    assert main(["certify", "--decode", str(out)]) == 0
    documents = [json.loads(line)["text"] for line in short_documents.read_text().splitlines()]
    tokens = read_shard(out / bundle.DECODED)
    whole = ByteTokenizer().decode_bytes(tokens[1:])
    assert len(tokens) == 321
    assert "".join(documents).encode().startswith(whole)
    manifest, _ = bundle.read(out)
    assert abs(manifest.strict_bits - manifest.booked_bits) < 0.1, "the walk learns what the fast path learns"


@pytest.mark.slow
def test_a_run_with_lanes_is_audited(checkpoint: Path, short_documents: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["eval", *flags(checkpoint, short_documents, SPEC), "--threads", "1", "--out", str(run)]) == 0
    code = main(["audit", str(run), "--probes", "100", "--json", str(tmp_path / "v.json")])
    found = json.loads((tmp_path / "v.json").read_text())
    assert code == 0, found["reason"]
    details = {c["name"]: c["detail"] for c in found["checks"]}
    assert "bit for bit" in details["replay"]
    assert "by at most 0 nats" in details["batch composition"]


@pytest.mark.parametrize("verb", ["audit", "certify"])
def test_lanes_in_one_forward_call_are_one_sentence(
    verb: str, checkpoint: Path, short_documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = f"{SPEC},batched=true"
    words = [shared] if verb == "audit" else [*flags(checkpoint, short_documents, shared), "--out", str(tmp_path / "c")]
    assert main([verb, *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("evalkit:")]) == 1
    assert "neither audited nor certified; give batched=false" in said[-1]
