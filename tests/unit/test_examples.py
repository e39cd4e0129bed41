"""The programs under examples/ run as they are printed there."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import evalkit
from evalkit.cli.main import main
from evalkit.cli.recipe import ASSETS
from evalkit.models.golf_file import GolfDoor
from tests.kit import golf_file

FIELD = ASSETS / "fineweb_1024_bpe.model"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


def baseline(path: Path, seed: int) -> str:
    return str(golf_file(path, seed=seed, layers=1, hidden=16, std=0.1 * (1 + seed)))


def test_two_checkpoints_are_compared_with_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [baseline(tmp_path / f"{seed}.pt", seed) for seed in (0, 1)]
    text = tmp_path / "t.jsonl"
    text.write_text("".join(f'{{"text": "the cat number {i} sat on mat {i * i}"}}\n' for i in range(20)))
    run = example("compare_checkpoints")["main"]
    arguments = [*pair, "--text", str(text), "--tokenizer", "byte", "--out", str(tmp_path / "o")]
    assert run(arguments) == 0
    said = capsys.readouterr().out
    assert "they can be told apart" in said
    picture = ElementTree.parse(tmp_path / "o" / "difference.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert run(arguments) == 0  # again: from the journals
    assert capsys.readouterr().out == said


def test_an_adapter_is_legal_and_runs_in_a_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evalkit.legality.effort import Effort
    from evalkit.testing import check_adapter

    adapter = example("my_adapter")["Recent"]
    effort = Effort(length=16, streams=1, cuts=4, forks=8, long_length=0, long_cuts=0, long_forks=0)
    assert check_adapter(adapter(), effort=effort).verdict == "legal"
    model, text = baseline(tmp_path / "m.pt", 0), tmp_path / "t.txt"
    text.write_text("the cat sat on the mat. " * 12)
    common = [
        "eval",
        "--checkpoint",
        model,
        "--text",
        str(text),
        "--tokenizer",
        "byte",
        "--plan",
        "disjoint:seq_len=32",
    ]
    assert main([*common, "--adapter", f"{EXAMPLES / 'my_adapter.py'}:Recent:length=64"]) == 0
    assert "+ recent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "factory", "code"),
    [("my_adapter", "factory", 0), ("audit_submission", "Counted", 0), ("audit_submission", "PeeksAtItsChunk", 1)],
)
def test_submissions_are_audited(file: str, factory: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", f"{EXAMPLES / file}.py:{factory}", "--probes", "400"]) == code
    assert ("legal" if code == 0 else "causal") in capsys.readouterr().out


def test_the_submission_page_says_both_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("audit_submission")["main"](probes=400) == 0
    said = capsys.readouterr().out
    assert "Counted: legal" in said
    assert "PeeksAtItsChunk: violation" in said


def test_published_siblings_open(shared_data: Path) -> None:
    """By the door alone: the question whether they are causal takes seconds of each and is asked elsewhere."""
    folder = shared_data / "checkpoints"
    text, tokenizer = shared_data / "val_fineweb_head_sp1024.bin.xz", evalkit.open_tokenizer(FIELD)
    stream = evalkit.open_stream([text], tokenizer, limit_targets=200)

    def bpb(name: str, **options: str) -> float:
        model = GolfDoor.load(folder / f"base7x384_{name}.int8.ptz", **options)
        options_of_run = evalkit.ScoreOptions(sentinel=False)
        return evalkit.score(model, stream, plan=evalkit.parse_plan("disjoint"), options=options_of_run).bpb

    leaky = bpb("leaky", mlp="leaky^2")
    assert all(rate < 3.0 for rate in (leaky, bpb("throughput"), bpb("lr045"), bpb("lr0475")))
    assert bpb("leaky") > leaky + 0.05  # read as relu^2
