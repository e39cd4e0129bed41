"""Does a run with learners that was cut short go on with the same bits, and stop cleanly when training diverges?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.adapters.info import stream_info
from evalkit.adapters.registry import parse_adapter
from evalkit.cli.main import main
from evalkit.errors import DivergenceError, EvalkitError, InputError
from evalkit.plan import parse_plan
from evalkit.scoring import loop as loop_module
from evalkit.scoring.journal import read_journal
from evalkit.scoring.score import ScoreOptions, score
from tests.kit import LEARNERS, PLANS, adapters_of, fused, golf, tiny_stream


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", LEARNERS)
def test_cut_inside_the_training_of_a_chunk_and_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after half of a chunk's update; weights, moments, pending tokens and deltas come back."""
    monkeypatch.setattr(loop_module, "SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr(loop_module, "SNAPSHOT_SHARE", 0.0)
    model, stream = golf(), tiny_stream(tmp_path, 300)
    whole = fused(model, stream, adapters_of(LEARNERS[name]), PLANS["sliding"], tmp_path / "whole")
    adapters = adapters_of(LEARNERS[name])
    real, calls = adapters[-1].observe, [0]

    def dies_on_the_way(receipt: object) -> None:
        real(receipt)
        calls[0] += 1
        if calls[0] == 3:
            raise Killed

    adapters[-1].observe = dies_on_the_way
    with pytest.raises(Killed):
        fused(model, stream, adapters, PLANS["sliding"], tmp_path / "cut")
    booked = read_journal(tmp_path / "cut" / "journal.jsonl")[1]
    assert len(booked) == 3
    again = fused(model, stream, adapters_of(LEARNERS[name]), PLANS["sliding"], tmp_path / "cut")
    assert np.array_equal(again, whole)


def test_a_snapshot_taken_between_updates_holds_what_is_pending(tmp_path: Path) -> None:
    """The learner's chunk is longer than the engine's: the snapshot carries targets that wait."""
    model, stream = golf(), tiny_stream(tmp_path, 300)
    info = stream_info(stream, 0, model.vocab_size)
    from evalkit.adapters.base import TokenLedger

    tokens = np.asarray(stream.tokens, np.int32)
    receipts = [TokenLedger(tokens[:a], a).book(a, tokens[a : a + 30], np.ones(30)) for a in range(1, 241, 30)]
    spec = "muon_ttt:chunk=100,seq_len=32,momentum=0.5"
    one, two = parse_adapter(spec), parse_adapter(spec)
    trained, other = one.attach(model, info), two.attach(model, info)
    for receipt in receipts[:5]:
        one.observe(receipt)
    two.restore(one.snapshot())
    for receipt in receipts[5:]:
        one.observe(receipt)
        two.observe(receipt)
    assert one.snapshot() == two.snapshot()
    assert one.updates == 2
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), other.parameters(), strict=True))
    with pytest.raises(EvalkitError, match="receipts leave a gap"):
        one.observe(receipts[2])
    wrong = parse_adapter("muon_ttt:chunk=100,seq_len=32,freeze_blocks=1,train=[blocks.*]")
    wrong.attach(model, info)
    with pytest.raises(EvalkitError, match="trained weights"):
        wrong.restore(one.snapshot())
    with pytest.raises(EvalkitError, match="cannot be used"):
        two.restore(b"not a snapshot")


@pytest.mark.slow
def test_kill_9_while_training(tmp_path: Path) -> None:
    """A real SIGKILL at a random moment of a run that mostly trains; the same command ends with the same total."""
    torch.save(golf().state_dict(), tmp_path / "m.pt")
    text = tmp_path / "t.txt"
    text.write_text(
        "".join(f"Record {i}: value {i * i % 97} for key {i % 13}.\n" for i in range(160)), encoding="utf-8"
    )
    flags = ["--checkpoint", str(tmp_path / "m.pt"), "--text", str(text), "--tokenizer", "byte", "--threads", "1"]
    flags += [
        "--plan",
        PLANS["disjoint"],
        "--adapter",
        "full_ttt:chunk=128,seq_len=32,epochs=6,lr=0.05",
        "--adapter",
        "ppm",
    ]
    command = [sys.executable, "-m", "evalkit", "eval", *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert main([*command[3:], "--out", str(tmp_path / "whole")]) == 0
    chunks = len(read_journal(tmp_path / "whole" / "journal.jsonl")[1])
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*command, "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    )
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        journal = killed / "journal.jsonl"
        if journal.exists() and journal.read_bytes().count(b"\n") > 0.6 * chunks:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main([*command[3:], "--out", str(killed)]) == 0
    one, two = (json.loads((tmp_path / n / "run.json").read_text()) for n in ("whole", "killed"))
    assert one["totals"] == two["totals"]
    assert [s["bpb"] for s in one["stages"]] == [s["bpb"] for s in two["stages"]]
    assert two["resumed_chunks"] >= 0.5 * chunks


def test_divergence_names_chunk_norm_and_hint_and_keeps_what_is_booked(tmp_path: Path) -> None:
    model, stream = golf(), tiny_stream(tmp_path)
    adapters = adapters_of("full_ttt:chunk=64,seq_len=32,lr=1e29,epochs=2,clip=0")
    with pytest.raises(DivergenceError, match=r"chunk 0: full_ttt, training on booked targets 1\.\.64: .*lower lr"):
        fused(model, stream, adapters, PLANS["sliding"], tmp_path / "run")
    assert [c.hi for c in read_journal(tmp_path / "run" / "journal.jsonl")[1]] == [65]
    adapters = adapters_of("full_ttt:chunk=64,seq_len=32,lr=1e25,clip=0")
    with pytest.raises(DivergenceError, match=r"norm is|not finite"):
        fused(model, stream, adapters, PLANS["sliding"], tmp_path / "other")
    for spec in ("full_ttt:chunk=64,seq_len=32,lr=1e6", "lora_ttt:chunk=64,seq_len=32,lr=1e6,rank=2"):
        with pytest.raises(
            DivergenceError, match=r"weights' norm is \S+ after the update, it was \S+ before .*lower lr"
        ):
            fused(model, stream, adapters_of(spec), PLANS["sliding"], tmp_path / spec[:4])
    with pytest.raises(DivergenceError, match=r"chunk 0: slot, learning from booked targets 1\.\.64: .* lower delta"):
        fused(model, stream, adapters_of("slot:chunk=64,bias=1e38,delta=1e38"), PLANS["sliding"], tmp_path / "slot")


def run(adapter: str, tmp_path: Path, plan: str = PLANS["sliding"], model: object = None) -> None:
    stream = tiny_stream(tmp_path, 100)
    options = ScoreOptions(chunk_tokens=64)
    score(model or golf(), stream, adapters_of(adapter), parse_plan(plan), options=options)


@pytest.mark.parametrize(
    ("adapter", "sentence"),
    [
        ("lora_ttt:chunk=64,seq_len=32,rank=0", "rank must be at least 1, got 0"),
        (
            "lora_ttt:chunk=64,seq_len=32,rank=9",
            "rank 9 is larger than the 8 x 16 layer 'blocks.0.attn.c_v'.*rank <= 8",
        ),
        ("lora_ttt:chunk=64,seq_len=32,targets=[quary]", "target 'quary' matches no linear layer.*known: .*q"),
        ("lora_ttt:chunk=64,seq_len=32,targets=[blocks.*.c_qq]", "matches no linear layer"),
        ("lora_ttt:chunk=64,seq_len=32,lr=0", "lr must be a positive number .*, got 0"),
        ("full_ttt:chunk=64,seq_len=32,lr=-0.1", "lr must be a positive number .*, got -0.1"),
        ("full_ttt:chunk=50,seq_len=32", "chunk 50 is not a multiple of the 16 targets.*choose chunk=48"),
        ("full_ttt:chunk=64,seq_len=32,freeze_blocks=2,train=[blocks.*]", "nothing is left to train.*freeze_blocks=2"),
        ("full_ttt:chunk=64,seq_len=32,train=[block.*]", "no parameter matches 'block"),
        ("full_ttt:chunk=64,seq_len=32,overlap=32", "overlap 32 leaves no target.*<= 31"),
        ("full_ttt:chunk=64,seq_len=32,schedule=cosine", "needs horizon=N"),
        ("full_ttt:chunk=64,seq_len=32,momentum=1", r"momentum must be in \[0, 1\), got 1"),
        ("full_ttt:chunk=64,seq_len=9000", "seq_len is at most 8192"),
        ("muon_ttt:chunk=64,seq_len=32,steps=0", "steps must be between 1 and 10, got 0"),
        ("phased_ttt:chunk=64,seq_len=32,every=100", "every=100 is not a multiple of chunk=64.*every=64"),
        ("slot:chunk=64,delta=0,bias=0", "nothing to learn"),
        ("slot:chunk=64,form=steps", "form=steps fits one delta"),
        ("slot:chunk=64,scope=[]", "scope must name"),
    ],
)
def test_bad_settings_are_one_sentence(adapter: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        run(adapter, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("adapter ")


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = golf()
    model.can = frozenset({"parameters"})  # type: ignore[misc]
    with pytest.raises(InputError, match="does not offer its hidden states apart from its head"):
        run("slot:chunk=64", tmp_path, model=model)
    model.can = frozenset({"hidden"})  # type: ignore[misc]
    with pytest.raises(InputError, match="no parameters to train"):
        run("lora_ttt:chunk=64", tmp_path, model=model)
