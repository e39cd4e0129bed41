"""Does ``evalkit tokenize`` write what it says, whole, and never over something?"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import msgspec
import pytest

from evalkit.cli import tokenize as verb
from evalkit.errors import InputError
from evalkit.stream.manifest import manifest_path, read_manifest, tokenize
from evalkit.stream.stream import open_stream
from evalkit.stream.tokenizer import ByteTokenizer


def put(folder: Path, name: str, *texts: str) -> Path:
    path = folder / name
    path.write_bytes(b"\n".join(msgspec.json.encode({"text": t}) for t in texts))
    return path


def command(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(["tokenize", *argv])
    return args.run(args)


def test_the_verb_writes_shard_and_manifest_and_prints_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = put(tmp_path, "a.jsonl", "one", ""), put(tmp_path, "b.jsonl", "caf\u00e9")
    out = tmp_path / "ab.bin"
    assert command(str(a), str(b), "--tokenizer", "byte", "--out", str(out)) == 0
    assert "3 documents, 11 tokens, 8 bytes" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "ab.manifest.json")
    assert (manifest.tokens, manifest.bytes, manifest.shard) == (11, 8, "ab.bin")
    assert manifest.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert manifest.documents.start == [0, 4, 5]
    assert manifest.documents.bytes == [3, 0, 5]
    assert manifest.documents.source == [0, 0, 1]
    assert manifest.documents.blake2b[2] == hashlib.blake2b("caf\u00e9".encode(), digest_size=16).hexdigest()
    assert manifest.sources == [str(a), str(b)]
    assert manifest.tokenizer.fingerprint == ByteTokenizer.fingerprint
    assert open_stream([out], ByteTokenizer()).fingerprint == open_stream([a, b], ByteTokenizer()).fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "ab.bin", "ab.manifest.json", "b.jsonl"]


def test_nothing_is_replaced_without_force(tmp_path: Path):
    text, out = put(tmp_path, "a.jsonl", "one"), tmp_path / "a.bin"
    out.write_bytes(b"precious")
    with pytest.raises(InputError, match=r"a\.bin: already exists; add --force"):
        command(str(text), "--tokenizer", "byte", "--out", str(out))
    assert out.read_bytes() == b"precious"
    command(str(text), "--tokenizer", "byte", "--out", str(out), "--force")
    out.unlink()
    with pytest.raises(InputError, match=r"a\.manifest\.json: already exists"):
        command(str(text), "--tokenizer", "byte", "--out", str(out))


def test_a_refused_text_leaves_nothing_behind(tmp_path: Path):
    text = tmp_path / "bad.txt"
    text.write_bytes(b"\x00")
    with pytest.raises(InputError, match="binary"):
        tokenize([text], ByteTokenizer(), tmp_path / "a.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.txt"]


def test_a_shard_is_not_tokenised_again_and_the_folder_must_exist(tmp_path: Path):
    text = put(tmp_path, "a.jsonl", "one")
    tokenize([text], ByteTokenizer(), tmp_path / "a.bin")
    with pytest.raises(InputError, match="a token shard already"):
        tokenize([tmp_path / "a.bin"], ByteTokenizer(), tmp_path / "b.bin")
    with pytest.raises(InputError, match="does not exist"):
        tokenize([text], ByteTokenizer(), tmp_path / "absent" / "b.bin")


def test_manifest_path_replaces_the_ending():
    assert manifest_path("x/train.bin") == Path("x/train.manifest.json")
    assert manifest_path("x/train") == Path("x/train.manifest.json")


@pytest.mark.parametrize("data", [b"{}", b"not json", b"[1]", b"\xff"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: bytes):
    path = tmp_path / "m.manifest.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a shard manifest"):
        read_manifest(path)


def test_a_manifest_with_torn_columns_is_refused(tmp_path: Path):
    tokenize([put(tmp_path, "a.jsonl", "one", "two")], ByteTokenizer(), tmp_path / "a.bin")
    path = tmp_path / "a.manifest.json"
    row = msgspec.json.decode(path.read_bytes())
    row["documents"]["start"].pop()
    path.write_bytes(msgspec.json.encode(row))
    with pytest.raises(InputError, match=r"columns of \[1, 2\] documents"):
        read_manifest(path)
