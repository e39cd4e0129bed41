"""Does ``python -m evalkit.train`` do what a user asks, and say in one sentence when it cannot?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalkit.errors import InputError
from evalkit.models.ek.door import ArtifactDoor
from evalkit.stream.tokenizer import open_tokenizer
from evalkit.train import rates
from evalkit.train.__main__ import main
from evalkit.train.recipe import FOLDER, load_recipe
from evalkit.train.text import is_held_out

TINY = ["--set", "run.steps=6", "--set", "run.tokens_per_step=128", "--set", "model.vocab_size=320"]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "t.jsonl"
    path.write_text(
        "\n".join(json.dumps({"text": f"line {i} of a text about {i * 7 % 11} things. " * 8}) for i in range(150))
    )
    return path


def test_a_run_leaves_an_artifact_and_its_facts(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    command = ["--recipe", "smoke", "--data", str(text_file), *TINY]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    facts = json.loads((tmp_path / "a" / "run.json").read_text())
    assert facts["complete"] is True
    assert facts["totals"]["artifact_bytes"] == (tmp_path / "a" / "model.ek").stat().st_size
    assert facts["fingerprint"]["model"] == ArtifactDoor.load(tmp_path / "a" / "model.ek").fingerprint
    assert 1 < facts["totals"]["val_bpb_float"] < 9
    log = (tmp_path / "a" / "train.log").read_text()
    assert "step 6/6" in log
    assert str(tmp_path) not in log

    before = (tmp_path / "a" / "model.ek").read_bytes()
    assert main([*command, "--out", str(tmp_path / "a")]) == 0, "a finished run is exported again"
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    assert before == (tmp_path / "a" / "model.ek").read_bytes() == (tmp_path / "b" / "model.ek").read_bytes()
    assert main([*command, "--out", str(tmp_path / "a"), "--seed", "1"]) == 2


def test_an_export_with_a_corpus_holds_training_documents_only(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    sets = [*TINY, "--set", "export.corpus_bytes=5000"]
    assert main(["--recipe", "smoke", "--data", str(text_file), *sets, "--out", str(tmp_path)]) == 0
    facts = json.loads((tmp_path / "run.json").read_text())
    path = tmp_path / "model.ek"
    assert facts["totals"]["artifact_bytes"] == path.stat().st_size
    model = ArtifactDoor.load(path)
    assert "corpus" in model.can
    assert model.corpus.size <= 5000
    tokenizer = open_tokenizer(model.tokenizer_model)
    held = [tokenizer.decode_bytes(ids) for ids in model.corpus.documents()]
    texts = [json.loads(line)["text"] for line in text_file.read_text().splitlines()]
    kept_out = {text.encode() for text in texts if is_held_out(text, load_recipe("smoke", []).data.held_out_permille)}
    assert 0 < len(held) < 150
    assert set(held) <= {text.encode() for text in texts} - kept_out
    assert model.corpus.header.text_bytes == sum(len(text) for text in held)


def test_the_rate_table_has_every_setting(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rates, "SETTINGS", ((8, 12.0, 8, 12.0), (5, 12.0, 8, 12.0)))
    command = ["--recipe", "smoke", "--data", str(text_file), "--out", str(tmp_path), *TINY]
    assert main(command) == 0
    assert rates.main([*command, "--json", str(tmp_path / "rates.json")]) == 0
    rows = json.loads((tmp_path / "rates.json").read_text())
    assert [r["rounding"] for r in rows] == ["rtn", "gptq"] * 2
    assert rows[0]["bytes"] > rows[2]["bytes"]
    assert len(capsys.readouterr().out.strip().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipe", "tiny-cpi"], "did you mean 'tiny-cpu'"),
        (["--recipe", "smoke", "--set", "steps=3"], "table.key=value"),
        (["--recipe", "smoke", "--set", "run.stepz=3"], "stepz"),
        (["--recipe", "smoke", "--set", "run.steps=many"], "run.steps"),
        (["--recipe", "smoke", "--set", "run.tokens_per_step=100"], "whole sequences"),
        (["--recipe", "smoke", "--set", "run.precision=fp8"], "fp8"),
        (["--recipe", "smoke", "--set", "model.width=65"], "whole heads"),
    ],
)
def test_a_wrong_command_is_one_sentence(
    arguments: list[str], says: str, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data", str(text_file), "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1


def test_missing_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--recipe", "smoke", "--data", str(tmp_path / "no.txt"), "--out", str(tmp_path / "x")]) == 2
    assert "no.txt is not a file" in capsys.readouterr().err


def test_bundled_recipes_read() -> None:
    names = [path.stem for path in FOLDER.glob("*.toml")]
    assert {"smoke", "tiny-cpu"} <= set(names)
    for name in names:
        assert load_recipe(name) == load_recipe(str(FOLDER / f"{name}.toml"))


def test_a_recipe_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[run\n")
    with pytest.raises(InputError, match="is not TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
