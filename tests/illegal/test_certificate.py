"""Does a slice really come back, bit for bit, from bitstream and artifact alone, and is every damage noticed?"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.cli.main import main
from evalkit.legality.certificate import bundle
from evalkit.stream.shard import read_shard
from evalkit.stream.tokenizer import ByteTokenizer

STACK = ["--adapter", "ppm", "--adapter", "slot:chunk=32,stride=16"]


def certify(checkpoint: Path, text: Path, out: Path, *flags: str, tokens: int = 96) -> int:
    base = ["--checkpoint", str(checkpoint), "--tokenizer", "byte", "--text", str(text), "--tokens", str(tokens)]
    return main(["certify", *base, "--out", str(out), *flags])


@pytest.fixture(scope="module")
def made(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cert") / "c"
    assert certify(checkpoint, text, out, *STACK, "--plan", "sliding:seq_len=32,stride=16", "--chunk-tokens", "32") == 0
    return out


def original(text: Path, n: int) -> bytes:
    """The first bytes of the documents, as the byte tokenizer counts them."""
    documents = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    return "".join(documents).encode()[:n]


def test_another_process_without_the_text_rebuilds_it(made: Path, text: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(made, moved)
    hidden = text.with_suffix(".hidden")
    text.rename(hidden)
    try:
        command = [sys.executable, "-m", "evalkit", "certify", "--decode", str(moved)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        hidden.rename(text)
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stdout
    tokens = read_shard(moved / bundle.DECODED)
    assert len(tokens) == 97
    assert ByteTokenizer().decode_bytes(tokens[1:]) == original(text, 96)


def test_the_file_is_as_small_as_the_books_say(made: Path) -> None:
    manifest, bitstream = bundle.read(made)
    assert abs(8 * len(bitstream) - manifest.booked_bits) <= 0.001 * manifest.booked_bits + 64
    assert abs(manifest.strict_bits - manifest.booked_bits) < 0.1
    assert b"cat sat" not in made.joinpath(bundle.MANIFEST).read_bytes() + bitstream


@pytest.mark.parametrize(
    ("plan", "adapters"),
    [
        ("banded:window=16,block=16,segment=32", ["ppm", "full_ttt:chunk=32,seq_len=16,lr=0.05"]),
        ("disjoint:seq_len=16", ["lora_ttt:chunk=32,seq_len=16,rank=2,reset=document"]),
        ("document:seq_len=16,stride=8", ["ppm"]),
        ("banded:window=16,block=16,segment=0", []),
    ],
)
def test_every_plan_and_clock_comes_back(
    plan: str, adapters: list[str], checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    flags = [f for a in adapters for f in ("--adapter", a)] or ["--adapter", "none"]
    assert certify(checkpoint, text, tmp_path / "c", *flags, "--plan", plan, "--chunk-tokens", "32", tokens=300) == 0
    assert main(["certify", "--decode", str(tmp_path / "c")]) == 0
    tokens = read_shard(tmp_path / "c" / bundle.DECODED)
    assert len(tokens) == 301


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


def reseal(folder: Path, **changes: object) -> None:
    """Write the manifest with other values and a seal that fits them."""
    manifest = {**json.loads((folder / bundle.MANIFEST).read_text()), **changes}
    (folder / bundle.MANIFEST).write_text(json.dumps({**manifest, "seal": bundle.seal(manifest)}))


def remade(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "c"
    shutil.copytree(made, folder)
    (folder / bundle.DECODED).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("name", [bundle.BITSTREAM, "artifact.pt", bundle.TOKENIZER])
def test_a_flipped_bit_is_one_sentence_and_no_text(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = remade(made, tmp_path)
    flip(folder / name, 5)
    assert main(["certify", "--decode", str(folder)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("evalkit:")]) == 1
    assert "Traceback" not in "".join(said)
    assert not (folder / bundle.DECODED).exists()


def test_a_bitstream_forged_together_with_its_manifest_still_fails(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = remade(made, tmp_path)
    flip(folder / bundle.BITSTREAM, 20)
    reseal(folder, bitstream_sha256=bundle.sha256((folder / bundle.BITSTREAM).read_bytes()))
    assert main(["certify", "--decode", str(folder)]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (folder / bundle.DECODED).exists()


@pytest.mark.parametrize(("field", "word"), [("booked_bits", "booked bits"), ("strict_bits", "strict bits")])
def test_claimed_bits_are_counted_again(
    field: str, word: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = remade(made, tmp_path)
    said = json.loads((folder / bundle.MANIFEST).read_text())[field]
    reseal(folder, **{field: 0.98 * said})
    assert main(["certify", "--decode", str(folder)]) == 1
    assert word in capsys.readouterr().err
    assert not (folder / bundle.DECODED).exists()


def test_two_hundred_flipped_bits(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any bit of any file: exit code 1 or 2, one sentence, no text."""
    folder, draw = remade(made, tmp_path), random.Random(0)
    names = [bundle.BITSTREAM, bundle.MANIFEST, "artifact.pt", bundle.TOKENIZER]
    sound = {name: (folder / name).read_bytes() for name in names}
    for turn in range(200):
        name = names[turn % len(names)]
        data = bytearray(sound[name])
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(bytes(data))
        assert main(["certify", "--decode", str(folder)]) in (1, 2), (turn, name)
        said = capsys.readouterr()
        assert not said.out
        assert len([line for line in said.err.splitlines() if line.startswith("evalkit:")]) == 1, said.err
        assert "internal fault" not in said.err
        assert not (folder / bundle.DECODED).exists()
        (folder / name).write_bytes(sound[name])


@pytest.mark.parametrize(
    ("text_of", "word"),
    [("", "not a manifest"), ("{}", "not a manifest"), ('{"schema": 1}', "not a manifest"), ("[1]", "not a manifest")],
)
def test_a_broken_manifest_is_wrong_input(
    text_of: str, word: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = remade(made, tmp_path)
    (folder / bundle.MANIFEST).write_text(text_of)
    assert main(["certify", "--decode", str(folder)]) == 2
    assert word in capsys.readouterr().err


def test_an_artifact_outside_the_folder_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = remade(made, tmp_path)
    reseal(folder, artifact="../artifact.pt")
    assert main(["certify", "--decode", str(folder)]) == 2
    assert "must be a file of this folder" in capsys.readouterr().err


def test_books_that_cannot_be_spent_are_refused(
    cheats: Path, checkpoint: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fused spelling that peeks books fewer bits than the strict path can code: exit code 1, and where they part."""
    flags = ["--adapter", f"{cheats}:Peek", "--plan", "sliding:seq_len=32,stride=16"]
    assert certify(checkpoint, text, tmp_path / "c", *flags, tokens=300) == 1
    assert "the two paths part at target" in capsys.readouterr().out


def test_foreign_folders_and_missing_words(
    made: Path, tmp_path: Path, checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert certify(checkpoint, text, tmp_path, tokens=8) == 2
    assert "no part of a certificate" in capsys.readouterr().err
    assert main(["certify"]) == 2
    assert main(["certify", "--decode", str(tmp_path / "nothing")]) == 2
    assert main(["certify", "--decode", str(made), "--out", str(tmp_path / "x")]) == 2
