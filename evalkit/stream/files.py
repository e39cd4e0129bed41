"""Files read, decompressed and written without trusting them.

Compression is recognised by the first bytes, never by the name.  Everything comes in slices of at most 1 MiB, so
memory follows what the reader keeps, not what a header claims.
"""

from __future__ import annotations

import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from evalkit.errors import InputError

SLICE = 1 << 20
XZ_MEMORY = 256 << 20
"""An xz stream may ask for a dictionary of up to 4 GiB; ``xz -9`` needs 65 MiB."""
ZST_WINDOW = 1 << 27
ZST_BITE = 1 << 12
"""Compressed bytes fed to zstd at a time: a run-length block makes 128 KiB of 4 bytes, so at most 128 MiB come out."""
MAGIC = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst"}


def check_file(path: str | Path) -> Path:
    """Return the path of a readable, non-empty regular file; raises InputError."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InputError(f"{path}: this is {kind}; name the files themselves")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as fault:
        raise InputError(f"{path}: cannot be read ({_reason(fault)})") from None
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty; give a file with text or tokens")
    return path


def read_small(path: str | Path, limit: int, what: str) -> bytes:
    """Read a whole file of at most ``limit`` bytes; raises InputError."""
    path = check_file(path)
    size = path.stat().st_size
    if size > limit:
        raise InputError(f"{path}: {size:,} bytes is too long for {what} (at most {limit:,})")
    return b"".join(slices(path, decompress=False))


def compression(path: Path) -> str:
    """ "xz", "gz", "zst" or "" by the first bytes of the file."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


def slices(path: Path, *, decompress: bool = True) -> Iterator[bytes]:
    """The file's bytes, decompressed, in slices of at most 1 MiB; raises InputError where it is damaged or cut."""
    kind = compression(path) if decompress else ""
    out = 0
    try:
        with path.open("rb") as file:
            raw = iter(lambda: file.read(SLICE), b"")
            for piece in READERS[kind](raw, path) if kind else raw:
                out += len(piece)
                yield piece
    except (lzma.LZMAError, zlib.error, EOFError) as fault:
        raise _damaged(path, kind, out, fault) from None
    except OSError as fault:
        raise InputError(f"{path}: reading failed after {out:,} bytes ({_reason(fault)})") from None


def _damaged(path: Path, kind: str, out: int, fault: BaseException) -> InputError:
    return InputError(
        f"{path}: the {kind} stream is damaged or cut after {out:,} decompressed bytes "
        f"({_reason(fault)}); fetch the file again"
    )


def _inflate(raw: Iterator[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    """Drive a decompressor object over one or more concatenated streams (zero padding between them is skipped)."""
    box, rest = make(), b""
    for piece in raw:
        rest = rest + piece
        while rest:
            if box.eof:
                rest = rest.lstrip(b"\x00")
                if not rest:
                    break
                box = make()
            yield from _drain(box, rest)
            rest = box.unused_data if box.eof else b""
    if not box.eof:
        raise EOFError("it ends in the middle")


def _drain(box: Any, data: bytes) -> Iterator[bytes]:
    """Feed ``data``; take what comes in slices of at most SLICE bytes."""
    while True:
        piece = box.decompress(data, SLICE)
        for lo in range(0, len(piece), SLICE):
            yield piece[lo : lo + SLICE]
        data = getattr(box, "unconsumed_tail", b"")  # zlib hands input back, lzma keeps it
        if box.eof or (not data and len(piece) < SLICE and getattr(box, "needs_input", True)):
            return


def _read_xz(raw: Iterator[bytes], path: Path) -> Iterator[bytes]:
    return _inflate(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY))


def _read_gz(raw: Iterator[bytes], path: Path) -> Iterator[bytes]:
    return _inflate(raw, lambda: zlib.decompressobj(wbits=31))


def _read_zst(raw: Iterator[bytes], path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise InputError(f"{path}: reading zstd needs the zstandard package; run: pip install zstandard") from None
    maker = zstandard.ZstdDecompressor(max_window_size=ZST_WINDOW)
    try:
        yield from _inflate(raw, lambda: _Zst(maker.decompressobj()))
    except zstandard.ZstdError as fault:
        raise EOFError(str(fault)) from None


class _Zst:
    """zstandard's decompressor with the face of zlib's: its own cannot bound the output, so the input is bounded."""

    def __init__(self, box: Any) -> None:
        self._box, self.unconsumed_tail = box, b""

    eof = property(lambda self: self._box.eof)
    unused_data = property(lambda self: self._box.unused_data + self.unconsumed_tail)

    def decompress(self, data: bytes, limit: int) -> bytes:
        self.unconsumed_tail = data[ZST_BITE:]
        return self._box.decompress(data[:ZST_BITE])


READERS: dict[str, Callable[[Iterator[bytes], Path], Iterator[bytes]]] = {
    "xz": _read_xz,
    "gz": _read_gz,
    "zst": _read_zst,
}


def write_atomic(path: str | Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file so that it is there whole or not at all, on disk; raises InputError when it cannot be written."""
    path, pieces = Path(path), [content] if isinstance(content, bytes) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, ValueError) as fault:
        raise InputError(f"{path}: cannot be written ({_reason(fault)}); choose another place") from None
    finally:
        part.unlink(missing_ok=True)


def _reason(fault: BaseException) -> str:
    return (isinstance(fault, OSError) and fault.strerror) or str(fault) or type(fault).__name__
