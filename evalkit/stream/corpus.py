"""Corpus files (``.ekc``): token ids of whole documents, to be counted before the first target.

    magic 8 bytes | version u32 | header length u32 | header crc32 u32 | header JSON | ids as raw LZMA2
    | trusts as raw LZMA2, version 2 only | sha256 of all before

The header is canonical JSON (:class:`CorpusHeader`); numbers are little-endian, ids uint16 where the vocabulary allows and
uint32 beyond.  Trusts (:class:`TrustsHeader`) are where ``ppm`` begins to learn how far each count can be believed; they
were learned behind a checkpoint from documents of this corpus, so they have no provenance of their own.

A corpus holds its text and not counts of it, for three reasons: per byte of file it brings more than pruned counts do
(benches/DEADENDS.md); whatever the bytes are, counts taken from text sum up to their totals, so no file can break a row;
and the file itself says which documents it was made from, so that nothing about its provenance has to be believed.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError, LegalityError
from evalkit.stream.files import check_file, write_atomic
from evalkit.stream.pieces import Int64
from evalkit.stream.read import encoded
from evalkit.stream.text import kind_of, read_documents
from evalkit.stream.tokenizer import Tokenizer

MAGIC = b"EVKCORP\x1a"
VERSION = 1
WITH_TRUSTS = 2
"""Version of a file that carries trusts."""
WORDS = 13
"""Length of the word sequences by which near copies are found."""
MAX_TOKENS = 1 << 32
MAX_HEADER = 1 << 16
MAX_FILE = 1 << 36
MAX_TRUSTS = 1 << 28
DICTIONARY = 1 << 25
"""LZMA2's window, bytes: what a decoder must hold beside the ids."""
PRESET = 6
SLAB = 1 << 20
HELD = 9 << 13
"""More bytes than the encoder ever holds back: a chunk of 64 KiB and what it looks ahead."""
STORED = 1.001
"""More than a byte of ids takes where LZMA2 finds nothing to pack."""
SMOOTH = 0.1
"""Weight of all texts in the pairs of the wanted text, as a share of its length."""
_PREFIX = struct.Struct("<8sIII")
_BUCKETS = 1 << 20

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Float64 = npt.NDArray[np.float64]


class TrustsHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose trusts a file carries: settings of ``ppm`` that say how many there are, and what they mean."""

    vocab_size: int
    orders: tuple[int, ...]
    document: tuple[int, ...]
    corpus_orders: tuple[int, ...]
    side: bool
    targets: int
    """Targets that they were learned from."""
    values: int
    """Weights and sums of squares, one byte each."""
    packed_bytes: int


@dataclass(frozen=True, eq=False)
class Trusts:
    """codes: uint8 [values], in the order of the kernel's weights; :class:`~evalkit.adapters.experts.ppm.Ppm` reads them."""

    header: TrustsHeader
    codes: npt.NDArray[np.uint8]


class CorpusHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the file says of itself; ``tokens`` counts a BOS before each of ``documents``."""

    vocab_size: int
    bos_id: int
    tokenizer: str
    """Fingerprint of the tokenizer that made the ids."""
    tokens: int
    documents: int
    text_bytes: int
    packed_bytes: int
    trusts: TrustsHeader | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """ids: [tokens], every document after its BOS.  digest: hex sha256 of the file's content.  size: bytes of the file."""

    header: CorpusHeader
    ids: Ids
    digest: str
    size: int
    name: str
    trusts: Trusts | None = None

    @cached_property
    def doc_start(self) -> Int64:
        """Index of each document's BOS: int64 [documents]."""
        return np.flatnonzero(self.ids == self.header.bos_id)

    def documents(self) -> Iterator[Ids]:
        """Ids of each document, BOS left out."""
        ends = np.append(self.doc_start[1:], len(self.ids))
        for start, end in zip(self.doc_start, ends, strict=True):
            yield self.ids[start + 1 : end]

    def split(self, tokens: int) -> tuple[Ids, Ids]:
        """About ``tokens`` ids of evenly drawn documents, and the ids of all others.  InputError when that leaves nothing."""
        starts = np.append(self.doc_start, len(self.ids))
        step = max(2, round(len(self.ids) / max(1, tokens)))
        drawn = np.zeros(self.header.documents, np.bool_)
        drawn[:: min(step, self.header.documents)] = True
        if drawn.all():
            raise InputError(
                f"{self.name}: {self.header.documents} document cannot be split; give --text with more of them"
            )
        mask = np.repeat(drawn, np.diff(starts))
        return self.ids[mask], self.ids[~mask]

    def check_tokenizer(self, vocab_size: int, fingerprint: str) -> None:
        """InputError unless the ids are those of this tokenizer."""
        if self.header.tokenizer != fingerprint:
            raise InputError(
                f"{self.name}: made with another tokenizer ({self.header.vocab_size} ids, sha256 "
                f"{self.header.tokenizer[:12]}) than this checkpoint's ({vocab_size} ids, sha256 {fingerprint[:12]}); "
                "make it again with evalkit corpus build --checkpoint C"
            )


def read_corpus(path: str | Path) -> Corpus:
    """Read and check a whole file.  InputError, one sentence, on anything that is not exactly as written."""
    path = check_file(path)
    if (size := path.stat().st_size) > MAX_FILE:
        raise InputError(f"{path}: {size:,} bytes is too long for a corpus (at most {MAX_FILE:,})")
    return parse_corpus(path.read_bytes(), str(path))


def parse_corpus(data: bytes, name: str) -> Corpus:
    """The same from bytes; ``name`` is for errors."""
    header, body = _header(data, name)
    width = _width(header.vocab_size)
    packed, rest = body[: header.packed_bytes], body[header.packed_bytes :]
    ids = np.frombuffer(_unpacked(packed, _filters(width), width * header.tokens, "ids", name), dtype=f"<u{width}")
    if int(ids.max()) >= header.vocab_size:
        raise InputError(f"{name}: id {int(ids.max())} is outside its vocabulary of {header.vocab_size}; make it again")
    starts = int(np.count_nonzero(ids == header.bos_id))
    if ids[0] != header.bos_id or starts != header.documents:
        raise InputError(
            f"{name}: {starts:,} documents begin in the ids, the header says {header.documents:,}; make it again"
        )
    trusts = None
    if header.trusts is not None:
        codes = _unpacked(rest, _filters(1), header.trusts.values, "trusts", name)
        trusts = Trusts(header.trusts, np.frombuffer(codes, np.uint8))
    return Corpus(header, ids.astype(ids.dtype.newbyteorder("=")), data[-32:].hex(), len(data), name, trusts)


def _header(data: bytes, name: str) -> tuple[CorpusHeader, memoryview]:
    if len(data) < _PREFIX.size + 32 or not data.startswith(MAGIC):
        raise InputError(
            f"{name} ({len(data):,} bytes) is not a corpus: wrong magic; make one with evalkit corpus build"
        )
    _, version, length, crc = _PREFIX.unpack_from(data)
    if version not in (VERSION, WITH_TRUSTS):
        raise InputError(
            f"{name}: corpus version {version}, this program reads {VERSION} and {WITH_TRUSTS}; use a matching release"
        )
    room = len(data) - _PREFIX.size - 32
    if length > min(room, MAX_HEADER):
        raise InputError(f"{name} is cut short: a header of {length:,} bytes where {room:,} remain; copy it again")
    encoded_header = data[_PREFIX.size : _PREFIX.size + length]
    if zlib.crc32(encoded_header) != crc:
        raise InputError(f"{name}: header crc32 {zlib.crc32(encoded_header):08x}, expected {crc:08x}; copy it again")
    try:
        header = msgspec.json.decode(encoded_header, type=CorpusHeader)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise InputError(f"{name}: the header is not understood ({fault}); make it again") from None
    if data[-32:] != hashlib.sha256(memoryview(data)[:-32]).digest():
        raise InputError(f"{name}: the sha256 at its end does not match its content; copy or make it again")
    if (header.trusts is None) != (version == VERSION):
        raise InputError(f"{name}: version {version} and its header disagree about trusts; make it again")
    said = header.packed_bytes + (0 if header.trusts is None else header.trusts.packed_bytes)
    if said != room - length or not 0 <= header.packed_bytes <= said:
        raise InputError(f"{name}: {room - length:,} packed bytes, the header says {said:,}; copy it again")
    sane = 2 <= header.vocab_size <= 1 << 31 and 0 <= header.bos_id < header.vocab_size and header.text_bytes >= 0
    if not sane or not 1 < header.tokens <= MAX_TOKENS or not 1 <= header.documents <= header.tokens:
        raise InputError(
            f"{name}: {header.tokens} tokens in {header.documents} documents of {header.vocab_size} ids cannot be; "
            "make it again"
        )
    if header.trusts is not None and not 0 < header.trusts.values <= MAX_TRUSTS:
        raise InputError(f"{name}: {header.trusts.values} trusts cannot be (1..{MAX_TRUSTS:,}); make it again")
    return header, memoryview(data)[_PREFIX.size + length : -32]


def _unpacked(body: memoryview, filters: list[dict[str, Any]], size: int, what: str, name: str) -> bytes:
    """Exactly ``size`` bytes, or InputError; memory grows with what really comes out."""
    opener, parts, held = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters), [], 0
    feed: bytes | memoryview = body
    try:
        while not opener.eof and held <= size:
            piece = opener.decompress(bytes(feed), max_length=SLAB * 16)
            parts.append(piece)
            held += len(piece)
            feed = b""
            if not piece and opener.needs_input:
                break
    except lzma.LZMAError as fault:
        raise InputError(f"{name}: the {what} do not unpack ({fault}); copy it again") from None
    if held != size or not opener.eof or opener.unused_data:
        raise InputError(f"{name}: {held:,} bytes of {what} come out, the header says {size:,}; copy it again")
    return b"".join(parts)


def _width(vocab_size: int) -> int:
    return 2 if vocab_size <= 1 << 16 else 4


def _filters(width: int, preset: int = PRESET) -> list[dict[str, Any]]:
    # lp and pb: ids repeat their place every two bytes; of 4-byte ids the upper halves cost next to nothing all the same
    return [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": preset,
            "dict_size": DICTIONARY,
            "lc": 3,
            "lp": width // 2,
            "pb": width // 2,
        }
    ]


@dataclass
class Built:
    """What :func:`build_corpus` has done so far; ``watch`` gets it."""

    documents: int = 0
    """Documents read."""
    tokens: int = 0
    text_bytes: int = 0
    kept_documents: int = 0
    kept_tokens: int = 0
    kept_bytes: int = 0
    packed_bytes: int = 0
    size: int = 0


def build_corpus(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    size: int | None = None,
    like: Sequence[str | Path] = (),
    force: bool = False,
    watch: Callable[[Built], None] = lambda built: None,
) -> Built:
    """Write the corpus of these text files; returns what was kept.

    ``size``: bytes of the file at most; None keeps every document.  Which documents to keep then: those most like the
    text ``like`` (:func:`likeness`), or, without it, an even sample by hash.  Memory is bounded: ids wait in a
    temporary file beside ``out``.  A tokenizer that folds the text is taken as it is: counts need no way back.
    Raises InputError.
    """
    out = Path(out)
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist; make it first")
    if out.exists() and not force:
        raise InputError(f"{out}: already exists; add --force to replace it")
    if size is not None and size < 4096:
        raise InputError(f"{out}: {size} bytes is too little for a corpus; give at least 4096")
    if like and size is None:
        raise InputError("--like says which documents to keep, but without --bytes all are kept; give --bytes N")
    done = Built()
    with TemporaryFile(dir=out.parent) as spool:
        starts, bytes_of = _spooled(paths, tokenizer, spool, done, watch)
        ids = np.memmap(spool, dtype=np.dtype(f"<u{_width(tokenizer.vocab_size)}"), mode="r")
        order: Iterable[int] = range(len(bytes_of))
        if size is not None:
            order = np.argsort(-_worth(ids, starts, tokenizer, like), kind="stable").tolist()
        _write_some(out, ids, starts, bytes_of, order, size, tokenizer, done, watch)
        del ids
    return done


def sample_corpus(
    out: str | Path,
    ids: npt.NDArray[np.integer],
    tokenizer: Tokenizer,
    size: int,
    like: Sequence[str | Path] = (),
) -> Built:
    """Write as many of the documents in ids [n], each after its BOS, as fit into ``size`` bytes; see build_corpus."""
    starts = np.append(np.flatnonzero(ids == tokenizer.bos_id), len(ids))
    held = ids.astype(f"<u{_width(tokenizer.vocab_size)}")
    sizes = tokenizer.pieces.target_bytes(held[:-1], held[1:])
    bytes_of = np.diff(np.append(0, np.cumsum(sizes))[starts.clip(1) - 1])
    done = Built(documents=len(bytes_of), tokens=len(ids), text_bytes=int(bytes_of.sum()))
    order = np.argsort(-_worth(held, starts, tokenizer, like), kind="stable").tolist()
    _write_some(Path(out), held, starts, bytes_of, order, size, tokenizer, done, lambda built: None)
    return done


def _write_some(
    out: Path,
    ids: Ids,
    starts: Int64,
    bytes_of: Int64,
    order: Iterable[int],
    size: int | None,
    tokenizer: Tokenizer,
    done: Built,
    watch: Callable[[Built], None],
) -> None:
    with TemporaryFile(dir=out.parent) as packed:
        _packed(ids, starts, bytes_of, order, size, packed, done, watch)
        header = CorpusHeader(
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id,
            tokenizer=tokenizer.fingerprint,
            tokens=done.kept_tokens,
            documents=done.kept_documents,
            text_bytes=done.kept_bytes,
            packed_bytes=done.packed_bytes,
        )
        packed.seek(0)
        write_atomic(out, _pieces(header, iter(lambda: packed.read(SLAB), b"")))
    done.size = out.stat().st_size


def write_with_trusts(out: str | Path, source: str | Path, trusts: Trusts) -> int:
    """Write the corpus file ``source`` with these trusts; returns the bytes of ``out``.  InputError."""
    data = check_file(source).read_bytes()
    header, body = _header(data, str(source))
    packed = lzma.compress(trusts.codes.tobytes(), lzma.FORMAT_RAW, filters=_filters(1))
    theirs = msgspec.structs.replace(trusts.header, values=len(trusts.codes), packed_bytes=len(packed))
    write_atomic(out, _pieces(msgspec.structs.replace(header, trusts=theirs), [body[: header.packed_bytes], packed]))
    return Path(out).stat().st_size


def write_corpus(
    out: str | Path,
    ids: npt.NDArray[np.integer],
    *,
    vocab_size: int,
    bos_id: int,
    tokenizer: str,
    text_bytes: int = 0,
    preset: int = PRESET,
) -> None:
    """Write ids [n], a BOS before each document, as they are.  ``tokenizer``: its fingerprint.  ``preset``: of LZMA2."""
    width = _width(vocab_size)
    packed = lzma.compress(ids.astype(f"<u{width}").tobytes(), lzma.FORMAT_RAW, filters=_filters(width, preset))
    header = CorpusHeader(
        vocab_size=vocab_size,
        bos_id=bos_id,
        tokenizer=tokenizer,
        tokens=len(ids),
        documents=int(np.count_nonzero(ids == bos_id)),
        text_bytes=text_bytes,
        packed_bytes=len(packed),
    )
    write_atomic(out, _pieces(header, [packed]))


def _pieces(header: CorpusHeader, packed: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The whole file."""
    encoded_header = msgspec.json.encode(header, order="sorted")
    version = VERSION if header.trusts is None else WITH_TRUSTS
    prefix = _PREFIX.pack(MAGIC, version, len(encoded_header), zlib.crc32(encoded_header)) + encoded_header
    digest = hashlib.sha256()
    for piece in itertools.chain([prefix], packed):
        digest.update(piece)
        yield piece
    yield digest.digest()


def _spooled(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer,
    spool: IO[bytes],
    done: Built,
    watch: Callable[[Built], None],
) -> tuple[Int64, Int64]:
    """Encode all documents into ``spool``: (start of each and the end, bytes of each)."""
    starts, bytes_of = [0], list[int]()
    for path in paths:
        kind = kind_of(path)
        if kind == "shard":
            raise InputError(f"{path}: this is a token shard; give the text (.txt or .jsonl) that it was made from")
        for batch, ids in encoded(read_documents(path, kind), tokenizer, lossy=True):
            found = np.flatnonzero(ids == tokenizer.bos_id)
            starts += (np.append(found[1:], len(ids)) + done.tokens).tolist()
            bytes_of += [len(d.data) for d in batch]
            spool.write(ids.astype(f"<u{_width(tokenizer.vocab_size)}").tobytes())
            done.documents, done.tokens = len(bytes_of), done.tokens + len(ids)
            done.text_bytes += sum(len(d.data) for d in batch)
            watch(done)
    spool.flush()
    return np.array(starts, np.int64), np.array(bytes_of, np.int64)


def _packed(
    ids: Ids,
    starts: Int64,
    bytes_of: Int64,
    order: Iterable[int],
    size: int | None,
    packed: IO[bytes],
    done: Built,
    watch: Callable[[Built], None],
) -> None:
    """Compress documents in this order, as far as ``size`` reaches."""
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=_filters(ids.itemsize))
    room = math.inf if size is None else size - _PREFIX.size - 32 - 512  # 512: the header, of some 250 bytes
    raw = 0
    for i in order:
        part = ids[starts[i] : starts[i + 1]]
        # What the encoder will make of a document is not known before, so it counts at full length: HELD and this, or all
        # that was fed so far, is more than can still come out.
        if done.packed_bytes + HELD + part.nbytes > room and (raw + part.nbytes) * STORED > room:
            continue
        piece = packer.compress(part.tobytes())
        packed.write(piece)
        raw += part.nbytes
        done.packed_bytes += len(piece)
        done.kept_documents += 1
        done.kept_tokens += len(part)
        done.kept_bytes += int(bytes_of[i])
        watch(done)
    if not done.kept_documents:
        raise InputError(f"no document fits into {size} bytes; give more --bytes")
    piece = packer.flush()
    packed.write(piece)
    done.packed_bytes += len(piece)
    packed.flush()


def _worth(ids: Ids, starts: Int64, tokenizer: Tokenizer, like: Sequence[str | Path]) -> Float64:
    """What comes first: float64 [documents]."""
    if not like:
        return np.random.default_rng(0).random(len(starts) - 1)
    wanted, everything = np.zeros(_BUCKETS), np.zeros(_BUCKETS)
    for path in like:
        for _, found in encoded(read_documents(path, kind_of(path)), tokenizer, lossy=True):
            _count_pairs(found, wanted)
    for lo in range(0, len(ids), SLAB):
        _count_pairs(ids[lo : lo + SLAB + 1], everything)
    return likeness(ids, starts, wanted, everything)


def likeness(ids: Ids, starts: Int64, wanted: Float64, everything: Float64) -> Float64:
    """Mean over a document's tokens of log p(pair in the wanted text) / p(pair in all texts), nats: float64 [documents].

    wanted, everything: counts of hashed pairs of neighbouring tokens, [_BUCKETS].  (Moore and Lewis, "Intelligent
    selection of language model training data", 2010, with pairs smoothed towards all texts.)
    """
    n = wanted.sum()
    ratio = wanted / np.maximum(everything, 1.0) * everything.sum()
    gain = np.log((ratio + SMOOTH * n) / (n + SMOOTH * n))
    out = np.empty(len(starts) - 1)
    for i in range(len(out)):
        part = ids[starts[i] : starts[i + 1]]
        out[i] = gain[_pairs(part)].mean() if len(part) > 1 else -np.inf
    return out


def _pairs(ids: npt.NDArray[np.integer]) -> Int64:
    """Bucket of each pair of neighbours: int64 [n - 1]."""
    x = ids.astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (x[:-1] * np.uint64(0x9E3779B97F4A7C15) + x[1:]) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(44)).astype(np.int64)


def _count_pairs(ids: npt.NDArray[np.integer], counts: Float64) -> None:
    counts += np.bincount(_pairs(ids), minlength=_BUCKETS)


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the scored text stands in a corpus.  Shares are of 13-word sequences, 0..1."""

    corpus: str
    """sha256 of the corpus file's content."""
    corpus_tokens: int
    corpus_documents: int
    corpus_bytes: int
    """Bytes of the corpus in the artifact."""
    documents: int
    """Scored documents that were looked at: all."""
    exact: int
    near: int
    shared: float
    """Share of all the scored text's sequences."""
    most: float
    """The largest share of one document, and its name."""
    most_document: str

    def sentence(self) -> str:
        """What a reader is told."""
        return (
            f"{self.exact} of {self.documents:,} scored documents stand in the corpus of {self.corpus_documents:,}, {self.near} "
            f"share half of their {WORDS}-word sequences with it; {self.shared:.2%} of all sequences are shared, the most "
            f"{self.most:.1%} of '{self.most_document}'"
        )

    def check(self, who: str) -> None:
        """LegalityError, law provenance, when a scored document or a near copy of one stands in the corpus."""
        if self.exact or self.near:
            raise LegalityError(
                "provenance",
                0,
                f"law provenance: {who} has counted what is scored: {self.sentence()}; take these documents out of the "
                "text and make the corpus again with evalkit corpus build",
            )
