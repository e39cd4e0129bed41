"""What does a user of ``evalkit audit`` and ``evalkit zoo`` see: text, files, exit codes?"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.cli.main import main

HOSTILE = Path(__file__).with_name("hostile.py")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as leave:
        code = int(leave.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_violation_prints_a_command_that_shows_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "audit", "zoo:A4")
    assert code == 1
    assert out.startswith("violation  zoo:A4")
    line = next(row.strip() for row in out.splitlines() if "--reproduce" in row)
    words = shlex.split(line)
    assert words[0] == "evalkit"
    code, again, _ = said(capsys, *words[1:])
    assert code == 1
    assert again.startswith("violated:")
    code, again, _ = said(capsys, "audit", "zoo:A4:fix", *words[3:])
    assert code == 0
    assert again.startswith("not seen:")


def test_json_has_the_promised_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "audit", "zoo:B7", "--json", "-")
    found = json.loads(out)
    assert code == 1
    assert found["schema"] == 1
    assert found["verdict"] == "violation"
    assert set(found["laws"]) == {"causal", "normalised", "score-first", "single-pass"}
    assert {"coverage", "bytes"} <= set(found["ledgers"])
    for law in found["laws"].values():
        assert law["status"] in ("ok", "violated", "warning", "not-tested")
    for evidence in found["evidence"]:
        assert {"law", "test", "position", "reproduce"} <= set(evidence)
    assert found["power"]["confidence"] == 0.95


def test_the_page_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, verdict = tmp_path / "v.html", tmp_path / "v.json"
    code, _, _ = said(capsys, "audit", "zoo:B9", "--html", str(page), "--json", str(verdict))
    assert code == 1
    text = page.read_text()
    assert text.count("<svg") >= 3
    assert "changed tokens in yellow" in text
    assert not any(word in text.replace("http-equiv", "") for word in ("<script", "http", "src=", "@import"))
    code, out, _ = said(capsys, "audit", "zoo:B9", "--reproduce", str(verdict))
    assert code == 1
    assert out.count("violated:") == len(json.loads(verdict.read_text())["evidence"])


def test_a_stranger_in_its_own_process(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "audit", f"{HOSTILE}:Uniform", "--probes", "300")
    assert code == 0
    assert out.startswith("legal")
    code, out, err = said(capsys, "audit", f"{HOSTILE}:Leaves", "--probes", "300")
    assert code == 1
    assert out.startswith("inconclusive")
    assert "I am leaving" in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("zoo:A99",), "no specimen 'A99'"),
        (("zoo:L7:fix",), "names no part"),
        (("nothing",), "names nothing that can be audited"),
        (("missing.py:factory",), "no such file"),
        (("missing.toml",), "no such file"),
        (("zoo:A4", "--ruleset", "strct"), "did you mean 'strict'"),
        (("zoo:A4", "--seconds", "-1"), "--seconds must be more than 0"),
        (("zoo:A4", "--probes", "0"), "--probes must be 1 or more"),
        (("zoo:A4", "--probes", "9", "--seconds", "9"), "not both"),
        (("zoo:A4", "--memory-gb", "-1"), "--memory-gb must be 0"),
        (("zoo:A4", "--reproduce", "{}"), "not a probe"),
        (("zoo:A4", "--reproduce", "nowhere.json"), "neither a probe nor a verdict"),
        (("zoo:A4", "--reproduce", '{"test":"mass","tokens":[1],"subset":[1],"world":"moon"}'), "no world 'moon'"),
        ((), "give a TARGET"),
        (("zoo:A4", "--artifact", "a.bin"), "--artifact asks where text came from"),
    ],
)
def test_wrong_input_is_one_sentence(arguments: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "audit", *arguments)
    assert code == 2
    assert word in err
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_the_zoo_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "zoo")
    assert code == 0
    assert "A15" in out
    assert "L20" in out
    code, out, _ = said(capsys, "zoo", "A4:fix")
    assert "class RenormalisedOverAll" in out
    code, out, _ = said(capsys, "zoo", "--json", "-")
    rows = json.loads(out)
    assert all(r["mechanism"] for r in rows)
    assert next(r for r in rows if r["id"] == "B9")["sources"][0] == "#1306"


def test_help_does_not_load_torch() -> None:
    code = "import sys; from evalkit.cli.main import main\ntry: main(['audit', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'loaded'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_overlap_of_training_and_validation_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, documents: list[str]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
        return str(path)

    words = [f"word{i}" for i in range(200)]
    apart, copied = " ".join(words[:80]), " ".join(words[100:180])
    near = "A new start. " + copied.upper() + " and a new end"
    train = write("train.jsonl", [apart, copied])
    code, out, _ = said(
        capsys, "audit", "--train-manifest", train, "--val-manifest", write("v.jsonl", ["fresh text " * 20])
    )
    assert code == 0
    assert "0 of 1 validation documents stand" in out
    code, out, _ = said(
        capsys, "audit", "--train-manifest", train, "--val-manifest", write("e.jsonl", [copied, "other"])
    )
    assert code == 1
    assert "exact overlap: violated: 1 of 2" in out
    code, out, _ = said(capsys, "audit", "--train-manifest", train, "--val-manifest", write("n.jsonl", [near]))
    assert code == 1
    assert "near overlap: violated: 1 of 1" in out


def test_an_artifact_that_depends_on_validation_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    val = tmp_path / "val.txt"
    val.write_text("The validation text.\n")
    make = tmp_path / "make.py"
    make.write_text(
        "import sys, hashlib\nval, out, honest = sys.argv[1:]\n"
        "open(out, 'wb').write(b'weights' if honest == '1' else hashlib.sha256(open(val, 'rb').read()).digest())\n"
    )
    command = f"{sys.executable} {make} {{val}} {{out}}"
    assert said(capsys, "audit", "--val-manifest", str(val), "--build", f"{command} 1")[0] == 0
    code, out, _ = said(capsys, "audit", "--val-manifest", str(val), "--build", f"{command} 0")
    assert code == 1
    assert "the artifact changes with the validation text" in out
    assert said(capsys, "audit", "--val-manifest", str(val), "--build", "true")[0] == 2
