"""Which documents does a text file hold, and what is refused?"""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from evalkit.errors import InputError
from evalkit.stream import text
from evalkit.stream.stream import write_shard
from evalkit.stream.text import kind_of, read_documents


def put(folder: Path, data: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(path: Path) -> list[str]:
    return [d.text for d in read_documents(path, kind_of(path))]


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"plain text", "a.txt", "text"),
        (b"plain text", "a", "text"),
        (b'{"text": "x"}\n{"text": "y"}', "a.txt", "jsonl"),
        (b'\n \n{"id": 3, "text": "x"}', "a", "jsonl"),
        (b'{"text": 3}', "a.txt", "text"),
        (b"{ not json", "a.txt", "text"),
        (b"{ not json", "a.jsonl", "jsonl"),
        (b"nothing of the kind", "a.jsonl.gz", "jsonl"),
        (b"nothing of the kind", "a.bin", "shard"),
    ],
)
def test_content_decides_and_the_name_only_what_it_leaves_open(tmp_path: Path, data: bytes, name: str, kind: str):
    assert kind_of(put(tmp_path, data, name)) == kind
    assert kind_of(put(tmp_path, lzma.compress(data), "packed_" + name)) == kind


def test_a_shard_is_known_by_its_magic(tmp_path: Path):
    import numpy as np

    write_shard(tmp_path / "tokens.txt", np.array([1, 5, 6]))
    assert kind_of(tmp_path / "tokens.txt") == "shard"
    assert kind_of(put(tmp_path, gzip.compress((tmp_path / "tokens.txt").read_bytes()), "t")) == "shard"


def test_a_txt_file_is_one_document_kept_to_the_byte(tmp_path: Path):
    data = "\ufeffone\r\ntwo\r\n\r\n caf\u00e9 \u2028 \n".encode()
    [document] = read_documents(put(tmp_path, data, "a.txt"), "text")
    assert (document.data, document.index, document.name) == (data, 0, "a.txt")


def test_jsonl_documents_keep_their_text_and_take_id_or_line_as_name(tmp_path: Path):
    lines = [
        b'{"text": "a\\r\\n\\u0000\\ud83d\\ude00"}\r',
        b"",
        b'{"text": "", "id": "empty"}',
        b'{"text": "b", "id": 7}',
    ]
    documents = list(read_documents(put(tmp_path, b"\n".join(lines), "d.jsonl"), "jsonl"))
    assert [d.text for d in documents] == ["a\r\n\x00\U0001f600", "", "b"]
    assert [d.name for d in documents] == ["d.jsonl:1", "empty", "7"]
    assert [d.index for d in documents] == [0, 1, 2]


def test_lines_longer_than_a_slice_are_whole(tmp_path: Path):
    long = "x" * (3 << 20)
    assert read(put(tmp_path, f'{{"text": "{long}"}}\n{{"text": "y"}}\n'.encode(), "l.jsonl")) == [long, "y"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (b"not json", r"d\.jsonl line 2: not JSON"),
        (b'{"text": "a"', r"line 2: not JSON"),
        (b'{"body": "a"}', r"line 2: Object missing required field `text`"),
        (b'{"text": ["a"]}', r"line 2: Expected `str`, got `array`"),
        (b'["text"]', r"line 2: Expected `object`, got `array`"),
        (b'{"text": "\xff"}', r"line 2: the text is not UTF-8"),
        (b'{"text": "\\ud800"}', r"line 2: not JSON"),
        (b"[" * 100_000, r"line 2: "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, match: str):
    path = put(tmp_path, b'{"text": "good"}\n' + line + b"\n", "d.jsonl")
    with pytest.raises(InputError, match=match):
        read(path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"text\x00text", r"byte 4 is NUL, so this is binary"),
        (b"caf\xe9 au lait", r"byte 3 \(0xe9\) is not UTF-8"),
        ("hi there".encode("utf-16"), "this is UTF-16"),
        (b"ends in the middle \xe2\x96", r"byte 19 \(0xe2\) is not UTF-8"),
    ],
)
def test_binary_garbage_is_not_text(tmp_path: Path, data: bytes, match: str):
    with pytest.raises(InputError, match=match):
        read(put(tmp_path, data, "a.txt"))
    with pytest.raises(InputError, match=match):
        read(put(tmp_path, lzma.compress(data), "a.txt.xz"))


def test_empty_files_and_empty_documents_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="the file is empty"):
        kind_of(put(tmp_path, b"", "a.txt"))
    with pytest.raises(InputError, match="the xz stream is empty"):
        kind_of(put(tmp_path, lzma.compress(b""), "a.txt.xz"))
    for data in (b'{"text": ""}\n{"text": ""}\n', b"\n\n"):
        with pytest.raises(InputError, match="all its documents are empty"):
            read(put(tmp_path, data, "a.jsonl"))


def test_a_document_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text, "DOCUMENT_LIMIT", 1000)
    assert len(read(put(tmp_path, b"x" * 1000, "a.txt"))[0]) == 1000
    with pytest.raises(InputError, match="a document of more than 1,000 bytes"):
        read(put(tmp_path, b"x" * 1001, "a.txt"))
    with pytest.raises(InputError, match="a document of more than 1,000 bytes"):
        read(put(tmp_path, b'{"text": "' + b"x" * 1000 + b'"}', "a.jsonl"))
