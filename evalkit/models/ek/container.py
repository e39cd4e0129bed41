"""The artifact format, version 1: a model in one file that is safe to load.

    magic 8 bytes | version u32 | header length u32 | header crc32 u32 | header JSON | sections | sha256 of all before

The header is canonical JSON: model config, tokenizer entry, tensor table in name order.  A corpus file may be the last
section.  Each tensor is one section:

    grid: float16 scale per row, uint16 frequency table of symbols lo.., range-coded 32-bit words
    half: float16 values
    lqer: uint16 rank, float16 steps [2, rank], int8 left [rows, rank], int8 right [rank, cols], then a grid to add to

All numbers are little-endian.  Nothing in the file is executed.  Every length is checked against the file and every
shape against the config *before* memory is taken for it.
"""

from __future__ import annotations

import hashlib
import lzma
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.models.ek import coder, lqer
from evalkit.models.ek.config import GPTConfig, parameter_shapes
from evalkit.models.ek.grid import Grid, largest
from evalkit.models.ek.lqer import Corrected
from evalkit.stream.files import write_atomic

Coded = Grid | Corrected | npt.NDArray[np.float16]
MAGIC = b"EVALKIT\x1a"
VERSION = 1
CAP_BYTES = 16_000_000
MAX_ELEMENTS = 1 << 28
MAX_TOKENIZER_BYTES = 1 << 24
LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20}]
_PREFIX = struct.Struct("<8sIII")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where bytes lie: ``offset`` from the end of the header, ``length`` in bytes, and their crc32."""

    offset: int
    length: int
    crc32: int


class TensorEntry(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    shape: tuple[int, ...]
    kind: Literal["grid", "half", "lqer"]
    bits: int = 16
    lo: int = 0
    """Smallest symbol of a grid."""
    table: int = 0
    """Entries of the frequency table."""


class TokenizerEntry(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A SentencePiece model as raw LZMA2; ``bytes`` and ``sha256`` are of the model itself."""

    bytes: int
    sha256: str


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    config: GPTConfig
    tokenizer: TokenizerEntry
    tensors: tuple[TensorEntry, ...]
    notes: dict[str, str | int | float] = {}
    """How it was made: recipe, steps, held-out BPB.  Read by people only."""
    corpus: Section | msgspec.UnsetType = msgspec.UNSET
    """A corpus file (evalkit/stream/corpus.py), as it is."""

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Every section in file order, with its name for errors."""
        yield "the tokenizer", self.tokenizer
        for entry in self.tensors:
            yield f"tensor {entry.name}", entry
        if self.corpus:
            yield "the corpus", self.corpus


class Artifact(NamedTuple):
    """What a file holds.  ``tensors``: float32 arrays by parameter name; ``digest``: hex sha256 of the file's content."""

    config: GPTConfig
    tensors: dict[str, npt.NDArray[np.float32]]
    tokenizer_model: bytes
    header: Header
    digest: str
    size: int
    corpus: bytes | None = None
    """The bytes of a corpus file, counted before the first target."""


def write_artifact(
    path: Path,
    config: GPTConfig,
    coded: dict[str, Coded],
    tokenizer_model: bytes,
    notes: dict[str, str | int | float] | None = None,
) -> int:
    """Write the coded tensors; returns the size in bytes.  The same input gives the same file, byte for byte."""
    if {n: _shape(c) for n, c in coded.items()} != parameter_shapes(config):
        raise ValueError("the coded tensors are not those of the config")
    packed = lzma.compress(tokenizer_model, lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    sections = [packed]
    tokenizer = TokenizerEntry(
        **_place(packed, 0), bytes=len(tokenizer_model), sha256=hashlib.sha256(tokenizer_model).hexdigest()
    )
    entries, offset = [], len(packed)
    for name in sorted(coded):
        section, facts = _pack(coded[name])
        entries.append(TensorEntry(name=name, shape=_shape(coded[name]), **_place(section, offset), **facts))
        sections.append(section)
        offset += len(section)
    return _write(path, Header(config=config, tokenizer=tokenizer, tensors=tuple(entries), notes=notes or {}), sections)


def add_corpus(path: Path, corpus: bytes | None, out: Path) -> int:
    """Write the artifact ``path`` again with this corpus file inside (None: with none); returns the size in bytes."""
    read_artifact(path)
    header, payload = _read_header(path, path.read_bytes())
    end = max(entry.offset + entry.length for _, entry in header.sections() if entry is not header.corpus)
    sections = [bytes(payload[:end]), corpus or b""]
    entry = Section(**_place(corpus, end)) if corpus else msgspec.UNSET
    return _write(out, msgspec.structs.replace(header, corpus=entry), sections)


def _write(path: Path, header: Header, sections: Sequence[bytes]) -> int:
    encoded = msgspec.json.encode(header, order="sorted")
    content = _PREFIX.pack(MAGIC, VERSION, len(encoded), zlib.crc32(encoded)) + encoded + b"".join(sections)
    write_atomic(path, [content + hashlib.sha256(content).digest()])
    return len(content) + 32


def read_artifact(path: Path) -> Artifact:
    """Read and check a whole artifact; raises InputError, one sentence, on anything that is not as written."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= 1 << 31 else b""
    except OSError as error:
        raise InputError(f"cannot read the artifact {path}: {error.strerror}; check the path") from None
    header, payload = _read_header(path, data)
    for what, entry in header.sections():
        _check_crc(path, what, entry, payload)
    if data[-32:] != hashlib.sha256(memoryview(data)[:-32]).digest():
        raise InputError(f"artifact {path}: the sha256 at its end does not match its content; copy or train it again")
    tensors = {entry.name: _unpack(path, entry, payload) for entry in header.tensors}
    tokenizer = _tokenizer(path, header.tokenizer, payload)
    corpus = bytes(_section(header.corpus, payload)) if header.corpus else None
    return Artifact(header.config, tensors, tokenizer, header, data[-32:].hex(), size, corpus)


def is_artifact(path: Path) -> bool:
    """True when the file starts with the magic; reads eight bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _shape(coded: Coded) -> tuple[int, ...]:
    grid = coded.grid if isinstance(coded, Corrected) else coded
    return (grid.symbols if isinstance(grid, Grid) else grid).shape


def _place(section: bytes, offset: int) -> dict[str, int]:
    return {"offset": offset, "length": len(section), "crc32": zlib.crc32(section)}


def _pack(coded: Coded) -> tuple[bytes, dict[str, Any]]:
    """One tensor -> (section bytes, the table entry's own fields)."""
    if isinstance(coded, Corrected):
        section, facts = _pack(coded.grid)
        return coded.correction.pack() + section, facts | {"kind": "lqer"}
    if not isinstance(coded, Grid):
        return coded.astype("<f2").tobytes(), {"kind": "half"}
    lo, table = coder.frequencies(coded.symbols)
    words = coder.encode(coded.symbols, lo, table)
    section = coded.scale.astype("<f2").tobytes() + table.astype("<u2").tobytes() + words
    return section, {"kind": "grid", "bits": coded.bits, "lo": lo, "table": len(table)}


def _read_header(path: Path, data: bytes) -> tuple[Header, memoryview]:
    """Header and sections, with everything checked that does not need the tensors' content."""
    if len(data) < _PREFIX.size + 32 or not data.startswith(MAGIC):
        raise InputError(
            f"{path} ({len(data)} bytes) is not an artifact: wrong magic; give a .ek file made by python -m evalkit.train"
        )
    _, version, length, crc = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise InputError(f"artifact {path} has version {version}, this program reads {VERSION}; use a matching release")
    room = len(data) - _PREFIX.size - 32
    if length > room:
        raise InputError(f"artifact {path} is cut short: a header of {length} bytes in {room}; copy it again")
    encoded = data[_PREFIX.size : _PREFIX.size + length]
    if zlib.crc32(encoded) != crc:
        raise InputError(f"artifact {path}: header crc32 {zlib.crc32(encoded):08x}, expected {crc:08x}; copy it again")
    try:
        header = msgspec.json.decode(encoded, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"artifact {path}: the header is not understood ({error}); train it again") from None
    _check_table(path, header)
    _check_places(path, header, room - length)
    return header, memoryview(data)[_PREFIX.size + length : -32]


def _check_table(path: Path, header: Header) -> None:
    """Names and shapes must be those that the config asks for, and of a sane total size."""
    try:
        expected = parameter_shapes(header.config.check())
    except InputError as error:
        raise InputError(f"artifact {path}: {error}") from None
    if (total := sum(math.prod(shape) for shape in expected.values())) > MAX_ELEMENTS:
        raise InputError(f"artifact {path} asks for {total} weights, the limit is {MAX_ELEMENTS}; it cannot be ours")
    names = [entry.name for entry in header.tensors]
    if names != sorted(expected):
        raise InputError(
            f"artifact {path} lists {len(names)} tensors that are not the config's {len(expected)}; train it again"
        )
    for entry in header.tensors:
        if entry.shape != expected[entry.name]:
            raise InputError(
                f"artifact {path}: tensor {entry.name} claims shape {entry.shape} ({math.prod(entry.shape)} elements), the "
                f"config gives {expected[entry.name]}; train it again"
            )


def _check_places(path: Path, header: Header, room: int) -> None:
    """Sections must follow each other without gap or overlap, fill the file, and fit their shapes."""
    at = 0
    for _, entry in header.sections():
        if entry.offset != at or entry.length < 0:
            raise InputError(f"artifact {path}: a section starts at {entry.offset}, expected {at}; copy it again")
        at += entry.length
    if at != room:
        raise InputError(f"artifact {path}: sections of {at} bytes in a file that has {room} for them; copy it again")
    for entry in header.tensors:
        count = math.prod(entry.shape)
        least, rest = 2 * count, 0
        if entry.kind != "half":
            r = largest(entry.bits) if 2 <= entry.bits <= 16 else 0
            if len(entry.shape) != 2 or not (-r <= entry.lo <= r and 2 <= entry.table <= r - entry.lo + 2):
                raise InputError(
                    f"artifact {path}: tensor {entry.name} has symbols from {entry.lo}, {entry.table} of them, which "
                    f"{entry.bits} bits do not hold; train it again"
                )
            least = 2 * entry.shape[0] + 2 * entry.table
            least += lqer.packed_bytes(entry.shape[0], entry.shape[1], 1) if entry.kind == "lqer" else 0
            rest = entry.length - least if entry.kind == "grid" else 0
        if entry.length < least or rest % 4 or (entry.kind == "half" and entry.length != least):
            raise InputError(
                f"artifact {path}: tensor {entry.name} has {entry.length} bytes, which do not fit its shape"
            )


def _section(entry: Section, payload: memoryview) -> memoryview:
    return payload[entry.offset : entry.offset + entry.length]


def _check_crc(path: Path, what: str, entry: Section, payload: memoryview) -> None:
    if (crc := zlib.crc32(_section(entry, payload))) != entry.crc32:
        raise InputError(f"artifact {path}: {what} has crc32 {crc:08x}, expected {entry.crc32:08x}; copy it again")


def _unpack(path: Path, entry: TensorEntry, payload: memoryview) -> npt.NDArray[np.float32]:
    """One tensor as float32; the inverse of :func:`_pack`."""
    section = _section(entry, payload)
    if entry.kind == "half":
        values = np.frombuffer(section, dtype="<f2").astype(np.float32).reshape(entry.shape)
    elif entry.kind == "lqer":
        values = _corrected(path, entry, section)
    else:
        values = _grid(path, entry, section)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise InputError(
            f"artifact {path}: tensor {entry.name} has {bad} values that are NaN or infinite; train it again"
        )
    return values


def _grid(path: Path, entry: TensorEntry, section: memoryview) -> npt.NDArray[np.float32]:
    rows, at = entry.shape[0], 2 * entry.shape[0]
    scale = np.frombuffer(section[:at], dtype="<f2").astype(np.float16)
    table = np.frombuffer(section[at : at + 2 * entry.table], dtype="<u2").astype(np.uint16)
    if not table.any():
        raise InputError(f"artifact {path}: tensor {entry.name} has an empty frequency table; train it again")
    symbols = _symbols(path, entry, bytes(section[at + 2 * entry.table :]), table)
    return Grid(symbols.reshape(rows, -1), scale, entry.bits).dequantise()


def _corrected(path: Path, entry: TensorEntry, section: memoryview) -> npt.NDArray[np.float32]:
    """A low-rank correction and the grid that it is added to; their lengths are checked here, where the rank is known."""
    rows, cols = entry.shape
    try:
        correction, size = lqer.unpack(section, rows, cols)
    except ValueError as fault:
        raise InputError(f"artifact {path}: tensor {entry.name}: {fault}; copy it again") from None
    left = len(section) - size - 2 * rows - 2 * entry.table
    if left < 0 or left % 4:
        raise InputError(
            f"artifact {path}: tensor {entry.name} has {len(section)} bytes, which do not fit its shape and a correction "
            f"of rank {correction.rank}; copy it again"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # steps that are not finite: the reader reports them
        return _grid(path, entry, section[size:]) + correction.dense()


def _symbols(path: Path, entry: TensorEntry, words: bytes, table: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
    """The range-coded symbols; the coder reports words that no encoder wrote by an AssertionError (fuzzing found it)."""
    try:
        return coder.decode(words, math.prod(entry.shape), entry.lo, table)
    except (AssertionError, ValueError) as fault:
        raise InputError(
            f"artifact {path}: the {len(words)} coded bytes of tensor {entry.name} are not what its frequency table gives "
            f"({str(fault).splitlines()[0] if str(fault) else 'no reason given'}); copy it again"
        ) from None


def _tokenizer(path: Path, entry: TokenizerEntry, payload: memoryview) -> bytes:
    section = _section(entry, payload)
    if not 0 < entry.bytes <= MAX_TOKENIZER_BYTES:
        raise InputError(
            f"artifact {path} claims a tokenizer of {entry.bytes} bytes, the limit is {MAX_TOKENIZER_BYTES}"
        )
    try:
        opener = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS)
        model = opener.decompress(bytes(section), max_length=entry.bytes)
    except lzma.LZMAError as error:
        raise InputError(f"artifact {path}: the tokenizer does not unpack ({error}); copy it again") from None
    if len(model) != entry.bytes or hashlib.sha256(model).hexdigest() != entry.sha256:
        raise InputError(f"artifact {path}: the tokenizer's sha256 is not {entry.sha256[:16]}...; copy it again")
    return model
