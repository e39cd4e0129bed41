"""What does a user see who scores a text: table, files, exit code?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from evalkit.scoring.result import read_documents
from evalkit.scoring.scores import read_scores
from tests.kit import golf_file

BASE = ("--tokenizer", "byte", "--plan", "disjoint:seq_len=64", "--chunk-tokens", "512")


def run_json(evalkit, *arguments: object) -> dict:
    said = evalkit("eval", *arguments, "--json", "-")
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_the_table_names_base_and_stack(evalkit, checkpoint: Path, text: Path) -> None:
    said = evalkit("eval", "--checkpoint", checkpoint, "--text", text, *BASE, "--adapter", "ppm")
    assert said.code == 0
    assert "base" in said.out
    assert "+ ppm" in said.out
    assert "bpb" in said.err


def test_run_json_has_the_promised_fields(evalkit, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    run = run_json(
        evalkit, "--checkpoint", checkpoint, "--text", text, *BASE, "--adapter", "ppm", "--out", tmp_path / "r"
    )
    size = len(text.read_bytes())
    assert run["schema"] == 1
    assert run["complete"] is True
    assert run["world_size"] == 1
    assert run["totals"]["bytes"] == size
    assert run["totals"]["targets"] == size
    assert run["totals"]["bpb"] == pytest.approx(run["totals"]["nats"] / math.log(2) / size, rel=1e-15)
    assert run["stages"][0]["adapter"] == "ppm"
    assert run["stages"][0]["bpb"] < run["totals"]["base_bpb"]
    assert set(run["fingerprint"]) >= {"model", "tokenizer", "text", "adapters", "code"}
    assert run["seconds"]["wall"] > 0
    assert run["peak_memory_bytes"] > 1 << 20
    assert run["environment"]["packages"]["torch"]
    assert run["verdicts"]["sentinel"]["rows"] >= size // 512
    assert json.loads((tmp_path / "r" / "run.json").read_text()) == run


def test_the_files_agree_with_the_totals(evalkit, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    run = run_json(
        evalkit, "--checkpoint", checkpoint, "--text", text, text, *BASE, "--adapter", "ppm", "--out", folder
    )
    rows = read_documents(folder)
    assert rows["bytes"] == [len(text.read_bytes())] * 2
    assert math.fsum(rows["nats"]) == run["totals"]["nats"]
    assert math.fsum(rows["nats_base"]) == run["totals"]["base_nats"]
    scores = read_scores(folder / "scores.f64", 2)
    assert scores.shape == (run["totals"]["targets"], 2)
    assert np.isclose(math.fsum(scores[:, 1]), run["totals"]["nats"], rtol=1e-14)


def test_the_same_command_twice_gives_the_same_run(evalkit, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    arguments = ("--checkpoint", checkpoint, "--text", text, *BASE, "--adapter", "ppm")
    one = run_json(evalkit, *arguments, "--out", tmp_path / "r")
    again = run_json(evalkit, *arguments, "--out", tmp_path / "r")
    fresh = run_json(evalkit, *arguments)
    assert one["totals"] == again["totals"] == fresh["totals"]


def test_another_run_in_the_same_folder_is_refused(evalkit, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    run_json(evalkit, "--checkpoint", checkpoint, "--text", text, *BASE, "--adapter", "none", "--out", tmp_path / "r")
    said = evalkit(
        "eval", "--checkpoint", checkpoint, "--text", text, *BASE, "--adapter", "ppm", "--out", tmp_path / "r"
    )
    assert said.code == 2
    assert "another adapters" in said.err


def test_chunk_and_batch_sizes_do_not_change_experts(evalkit, checkpoint: Path, text: Path) -> None:
    common = ("--checkpoint", checkpoint, "--text", text, "--tokenizer", "byte", "--plan", "disjoint:seq_len=64")
    totals = {
        run_json(evalkit, *common, "--adapter", "ppm", "--chunk-tokens", size, "--batch-tokens", 64)["totals"][
            "targets"
        ]
        for size in (64, 500, 100000)
    }
    assert len(totals) == 1


@pytest.mark.parametrize(
    "plan", ["disjoint:seq_len=50", "sliding:seq_len=50,stride=20", "document:seq_len=50,stride=9"]
)
def test_every_plan_books_every_target(evalkit, checkpoint: Path, text: Path, plan: str) -> None:
    flags = ("--tokenizer", "byte", "--plan", plan, "--limit-tokens", 700, "--adapter", "none")
    run = run_json(evalkit, "--checkpoint", checkpoint, "--text", text, *flags)
    assert run["totals"]["targets"] == 700
    assert run["totals"]["bytes"] == 700


def test_banded_equals_plain_attention_inside_its_window(evalkit, checkpoint: Path, text: Path) -> None:
    flags = (
        "--checkpoint",
        checkpoint,
        "--text",
        text,
        "--tokenizer",
        "byte",
        "--limit-tokens",
        300,
        "--adapter",
        "none",
    )
    banded = run_json(evalkit, *flags, "--plan", "banded:window=300,block=37")
    plain = run_json(evalkit, *flags, "--plan", "disjoint:seq_len=300")
    assert banded["totals"]["nats"] == pytest.approx(plain["totals"]["nats"], rel=1e-5)


def test_a_recipe_is_the_flags_in_a_file(evalkit, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[run]\ncheckpoint = "{checkpoint}"\ntokenizer = "byte"\ntext = ["{text}"]\n'
        'plan = "disjoint:seq_len=64"\nchunk_tokens = 512\n[[adapter]]\nname = "ppm"\norders = [2, 3]\n'
    )
    by_file = run_json(evalkit, recipe)
    flags = (*BASE, "--adapter", "ppm:orders=[2,3]")
    by_flags = run_json(evalkit, "--checkpoint", checkpoint, "--text", text, *flags)
    assert by_file["totals"] == by_flags["totals"]
    assert by_file["fingerprint"] == by_flags["fingerprint"]


def test_a_recipe_finds_a_checkpoint_with_options_beside_it(
    evalkit, checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.pt").write_bytes(checkpoint.read_bytes())
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[run]\ncheckpoint = "m.pt:softcap=15"\ntokenizer = "byte"\ntext = ["{text}"]\nlimit_tokens = 90\n'
    )
    run = run_json(evalkit, recipe, "--adapter", "none")
    plain = ("--checkpoint", checkpoint, "--text", text, "--tokenizer", "byte", "--limit-tokens", "90")
    assert run["fingerprint"]["model"] != run_json(evalkit, *plain, "--adapter", "none")["fingerprint"]["model"]


def test_a_budget_that_is_spent_stops_the_run(evalkit, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    flags = ("--checkpoint", checkpoint, "--text", text, *BASE, "--adapter", "ppm", "--out", tmp_path / "r")
    said = evalkit("eval", *flags, "--budget", "1e-9")
    assert said.code == 1
    assert "budget" in said.err
    assert json.loads((tmp_path / "r" / "run.json").read_text())["complete"] is False
    assert evalkit("eval", *flags).code == 0


def test_one_target_is_enough(evalkit, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    run = run_json(evalkit, "--checkpoint", checkpoint, "--text", tmp_path / "a.txt", "--tokenizer", "byte")
    assert run["totals"]["targets"] == 1
    assert run["stages"][0]["ci95"] is None


def test_lossy_is_offered_and_accounted_for(evalkit, tmp_path: Path) -> None:
    text, model = tmp_path / "folds.txt", golf_file(tmp_path / "sp1024.pt", vocab=1024, layers=1, hidden=16, std=None)
    text.write_text("Line\nbreaks  and\nspaces are folded.\n" * 8)
    base = ("--checkpoint", model, "--text", text, "--adapter", "none")
    said = evalkit("eval", *base)
    assert (said.code, "or give --lossy" in said.err) == (2, True)
    run = run_json(evalkit, *base, "--lossy", "--out", tmp_path / "r")
    assert run["settings"]["lossy"] is True
    assert run["bytes_from"] == "folded text"
    assert run["folding"] == {"documents": 1, "text_bytes": 288, "scored_bytes": 279, "changed_bytes": 40}
    assert run["totals"]["bytes"] == 279
    assert "does not give 1 document back" in run["notes"][-1]
    assert run["notes"][-1] in (tmp_path / "r" / "report.html").read_text()
