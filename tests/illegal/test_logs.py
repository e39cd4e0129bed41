"""Logs of the contest's forms, good and bad: what does ``evalkit audit --log`` say of each?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from evalkit.cli.main import main
from evalkit.legality.logs import SPLIT_BYTES, judge, read_log

LOGS = Path(__file__).with_name("logs")
SAID = {
    "bad_artifact": "19,822,953 bytes of 16,000,000",
    "bad_below_compressors": "below the best compressor",
    "bad_byte_mixture": "a byte mixture's own count",
    "bad_case_marks": "case marks of CaseOps",
    "bad_casefold_set": "not comparable",
    "bad_documents": "40,000 of 50,000 documents",
    "bad_evaluation_seconds": "602.0 s of evaluation",
    "bad_exact_line": "its exact line differ by 0.05",
    "bad_first_ten_thousand_documents": "10,000 of 50,000 documents",
    "bad_fragment": "a fragment of the split",
    "bad_partial_coverage": "36,600,000 of 47,851,520",
    "bad_ranks": "1 parts of a batch, not 8",
    "bad_spaces_twice_sp4096": "these tokens cost 1.087",
    "bad_ten_thousand_no_document_line": "the first 10,000 documents only",
    "bad_training_seconds": "612.5 s of training",
    "bad_under_count": "an under-count",
    "unclear_no_scores": "no line with val_loss",
    "unclear_unknown_tokenizer": "fits no known tokenizer",
}


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda p: p.stem)
def test_each_log_gets_its_verdict(path: Path) -> None:
    found = judge(read_log(path))
    kind = path.stem.split("_")[0]
    assert found.verdict == {"good": "legal", "bad": "violation", "unclear": "inconclusive"}[kind], found.reason
    assert SAID.get(path.stem, "") in found.reason
    assert (path.stem in SAID) == (kind != "good")
    assert {law.status for law in found.laws.values()} == {"not-tested"}


def test_many_logs_are_a_table_and_one_is_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(p) for p in sorted(LOGS.glob("*.log"))]
    assert len(files) >= 20
    assert (
        main(["audit", "--log", *files, "--json", str(tmp_path / "v.json"), "--markdown", str(tmp_path / "v.md")]) == 1
    )
    out = capsys.readouterr().out
    assert out.splitlines()[0].split("┃")[1].strip() == "verdict"
    assert f"of {len(files)} logs" in out
    assert len(json.loads((tmp_path / "v.json").read_text())) == len(files)
    assert (tmp_path / "v.md").read_text().count("### evalkit audit") == len(files)
    good = str(LOGS / "good_sp8192_phased.log")
    assert main(["audit", "--log", good, "--markdown", "-"]) == 0
    page = capsys.readouterr().out
    assert "**legal**" in page
    assert f"evalkit audit --log {good}" in page


def test_another_text_has_other_bytes(tmp_path: Path) -> None:
    log, text = tmp_path / "run.log", tmp_path / "text.txt"
    text.write_text("x" * 5000)
    log.write_text(f"val_tokens: 1000\nfinal val_loss:2.5 val_bpb:{2.5 / math.log(2) * 1000 / 5000:.6f}\n")
    assert main(["audit", "--log", str(log), "--text", str(text)]) == 1, "0.72 BPB is below what compressors reach"
    log.write_text(f"val_tokens: 1000\nfinal val_loss:4.5 val_bpb:{4.5 / math.log(2) * 1000 / 5000:.6f}\n")
    assert main(["audit", "--log", str(log), "--text", str(text)]) == 0
    assert main(["audit", "--log", str(log), "--text-bytes", "5000"]) == 0
    assert main(["audit", "--log", str(log), "--text-bytes", "5100"]) == 1
    assert main(["audit", "--log", str(log)]) == 1
    assert judge(read_log(log)).ledgers["bytes"].detail.count(f"{SPLIT_BYTES / 1e6:.2f}") == 1


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    log, table = tmp_path / "run.log", tmp_path / "forms.toml"
    log.write_text("RESULT nll=2.0373 bits=1.2065\n")
    assert main(["audit", "--log", str(log)]) == 1
    table.write_text(r"patterns = ['RESULT nll=(?P<val_loss>\d+\.\d+) bits=(?P<val_bpb>\d+\.\d+)']")
    assert main(["audit", "--log", str(log), "--log-patterns", str(table)]) == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--log", "missing.log"), "cannot be read"),
        (("--log", "LOG", "--text-bytes", "0"), "--text-bytes must be 1 or more"),
        (("--log", "LOG", "--text-bytes", "9", "--text", "LOG"), "not both"),
        (("--log", "LOG", "--text", "missing.txt"), "give the text that was scored"),
        (("--log", "LOG", "LOG", "--html", "v.html"), "--html draws one verdict"),
        (("--log", "LOG", "--log-patterns", "LOG"), "not a table of patterns"),
        (("--log", "LOG", "--json", "-", "--markdown", "-"), "would mix on stdout"),
        (("zoo:A4", "--text-bytes", "9"), "belongs to --log"),
        (("zoo:A4", "--log", "LOG"), "--log"),
    ],
)
def test_wrong_input_is_one_sentence(arguments: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(LOGS / "good_sp8192.log")
    assert main(["audit", *(log if a == "LOG" else a for a in arguments)]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("line", ["patterns = 3", "patterns = ['(']", "patterns = ['(?P<loss>.)']", "patterns = ['x']"])
def test_a_wrong_table_is_one_sentence(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.toml").write_text(line)
    log = str(LOGS / "good_sp8192.log")
    assert main(["audit", "--log", log, "--log-patterns", str(tmp_path / "t.toml")]) == 2
    assert "t.toml: " in capsys.readouterr().err


def test_a_log_may_hold_anything(tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.log"
    hostile.write_bytes(
        b"\xff\x00val_loss:1.0 val_bpb:0.0\n"
        + b"val_loss:" * 200_000
        + b"\nval_tokens: ___\nval_tokens: 9"
        + b"9" * 400
    )
    assert judge(read_log(hostile)).verdict != "legal"
