"""Are files recognised by content, decompressed in slices, refused when damaged, and written whole?"""

from __future__ import annotations

import gzip
import lzma
import os
import sys
from pathlib import Path

import pytest

from evalkit.errors import InputError
from evalkit.stream import files
from evalkit.stream.files import check_file, compression, read_small, slices, write_atomic

zstandard = pytest.importorskip("zstandard")

DATA = os.urandom(3000) * 1000  # 3 MB: several slices, and compressible
PACKERS = {
    "xz": lzma.compress,
    "gz": gzip.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
    "": lambda data: data,
}


def put(folder: Path, data: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", PACKERS)
def test_any_packing_is_read_by_content_in_bounded_slices(tmp_path: Path, kind: str):
    path = put(tmp_path, PACKERS[kind](DATA), "file.misleading.gz")
    assert compression(path) == kind
    pieces = list(slices(path))
    assert b"".join(pieces) == DATA
    assert max(len(p) for p in pieces) <= files.SLICE


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_concatenated_streams_are_one_file(tmp_path: Path, kind: str):
    path = put(tmp_path, PACKERS[kind](b"one ") + PACKERS[kind](b"two"))
    assert b"".join(slices(path)) == b"one two"


def test_xz_padding_between_streams_is_skipped(tmp_path: Path):
    path = put(tmp_path, lzma.compress(b"one ") + b"\x00" * 8 + lzma.compress(b"two") + b"\x00" * 4)
    assert b"".join(slices(path)) == b"one two"


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_a_cut_stream_is_refused_at_any_point(tmp_path: Path, kind: str):
    packed = PACKERS[kind](DATA)
    for keep in (7, 20, len(packed) // 2, len(packed) - 1):
        with pytest.raises(InputError, match=f"the {kind} stream is damaged or cut after"):
            list(slices(put(tmp_path, packed[:keep])))


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_trailing_garbage_and_flipped_bytes_are_refused(tmp_path: Path, kind: str):
    packed = bytearray(PACKERS[kind](os.urandom(5000)))
    with pytest.raises(InputError, match="damaged or cut"):
        list(slices(put(tmp_path, bytes(packed) + b"garbage!")))
    if kind != "zst":  # the zst frame made here carries no checksum
        packed[2500] ^= 1
        with pytest.raises(InputError, match="damaged or cut"):
            list(slices(put(tmp_path, bytes(packed))))


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_a_bomb_comes_in_slices(tmp_path: Path, kind: str):
    path = put(tmp_path, PACKERS[kind](bytes(1 << 26)))
    assert path.stat().st_size < 1 << 17
    assert max(len(piece) for piece in slices(path)) <= files.SLICE


def test_an_xz_dictionary_beyond_the_memory_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "XZ_MEMORY", 1 << 20)
    with pytest.raises(InputError, match=r"(?i)memory"):
        list(slices(put(tmp_path, lzma.compress(DATA, preset=6))))


def test_zstd_without_its_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match="pip install zstandard"):
        list(slices(put(tmp_path, PACKERS["zst"](DATA))))


def test_what_is_not_a_readable_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        check_file(tmp_path / "absent")
    with pytest.raises(InputError, match="a directory"):
        check_file(tmp_path)
    with pytest.raises(InputError, match="the file is empty"):
        check_file(put(tmp_path, b""))
    with pytest.raises(InputError, match="cannot be read"):
        check_file("nul\x00byte")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        check_file(tmp_path / "pipe")
    with pytest.raises(InputError, match="cannot be read"):
        check_file(put(tmp_path, b"x", "f") / "below a file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(tmp_path: Path):
    path = put(tmp_path, b"secret")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        check_file(path)


def test_a_small_file_is_not_read_beyond_its_limit(tmp_path: Path):
    path = put(tmp_path, b"x" * 11)
    assert read_small(path, 11, "a note") == b"x" * 11
    with pytest.raises(InputError, match=r"11 bytes is too long for a note \(at most 10\)"):
        read_small(path, 10, "a note")


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path):
    path = put(tmp_path, b"old")

    def pieces():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write_atomic(path, pieces())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_atomic(path, [b"new"])
    assert path.read_bytes() == b"new"


def test_a_full_disk_and_an_absent_folder_are_one_sentence(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "absent" / "file", [b"x"])
