"""Which shards are read, and is every lie in a header found before it is believed?"""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from evalkit.errors import InputError
from evalkit.stream.shard import read_shard, write_shard

TOKENS = np.array([1, 500, 65535, 0, 7], np.int64)


def header(magic: int = 20240520, version: int = 1, count: int = 5, order: str = "<") -> bytes:
    fields = np.zeros(256, f"{order}i4")
    fields[:3] = magic, version, count
    return fields.tobytes()


def put(folder: Path, data: bytes) -> Path:
    path = folder / "s.bin"
    path.write_bytes(data)
    return path


BODY = TOKENS.astype("<u2").tobytes()


def test_the_written_bytes_are_the_fields_format(tmp_path: Path):
    write_shard(tmp_path / "s.bin", TOKENS)
    assert (tmp_path / "s.bin").read_bytes() == header() + BODY
    tokens = read_shard(tmp_path / "s.bin")
    assert isinstance(tokens, np.memmap)
    assert not tokens.flags.writeable
    assert tokens.tolist() == TOKENS.tolist()


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_a_packed_shard_is_read_into_memory(tmp_path: Path, pack):
    tokens = read_shard(put(tmp_path, pack(header() + BODY)))
    assert tokens.tolist() == TOKENS.tolist()
    assert tokens.dtype == np.uint16
    assert not tokens.flags.writeable


BAD = [
    (header(magic=20240521) + BODY, r"begins with 20240521, not with the shard magic 20240520"),
    (header(magic=20240801) + BODY, "uint32 format"),
    (header(order=">") + BODY, "big-endian"),
    (b"\x93NUMPY" + bytes(2000), "a NumPy file"),
    (BODY, "if it is a headerless token file"),
    (header()[:500], "500 bytes are too few for a shard's 1024-byte header"),
    (header()[:3], r"not with the shard magic"),
    (header(version=2) + BODY, "shard version 2, but only version 1"),
    (header(count=0), "claims 0 tokens"),
    (header(count=-5) + BODY, "claims -5 tokens"),
    (header() + BODY[:-1], r"claims 5 tokens \(1,034 bytes\) and the file has 1,033 bytes; it is truncated"),
    (header(), "1,024 bytes; it is truncated"),
    (header() + BODY + b"\x00", "longer than its header says"),
    (header(count=2**31 - 1) + BODY, r"claims 2,147,483,647 tokens \(4,294,968,318 bytes\)"),
]


@pytest.mark.parametrize(("data", "match"), BAD)
def test_a_bad_shard_is_refused_with_both_numbers(tmp_path: Path, data: bytes, match: str):
    with pytest.raises(InputError, match=match):
        read_shard(put(tmp_path, data))
    with pytest.raises(InputError, match=match):
        read_shard(put(tmp_path, lzma.compress(data)))


def test_a_packed_shard_that_goes_on_is_dropped_early(tmp_path: Path):
    with pytest.raises(InputError, match=r"has at least 1,0\d\d,\d\d\d bytes; it is longer"):
        read_shard(put(tmp_path, lzma.compress(header() + bytes(1 << 26), preset=0)))


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        (np.array([1, 65536]), "token id 65,536 does not fit"),
        (np.array([1, -1]), "token id -1 does not fit"),
        (np.array([], int), "holds 1 to 2,147,483,647 tokens, not 0"),
    ],
)
def test_tokens_that_no_shard_can_hold_are_refused(tmp_path: Path, tokens: np.ndarray, match: str):
    with pytest.raises(InputError, match=match):
        write_shard(tmp_path / "s.bin", tokens)
    assert list(tmp_path.iterdir()) == []
