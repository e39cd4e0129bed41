"""The ``.manifest.json`` beside a token shard: counts, sha256, and a hash of every document.

The hashes are blake2b-128 of each document's UTF-8 text, so that two shards made with different tokenizers can be
checked for shared documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.files import slices, write_atomic
from evalkit.stream.read import encoded
from evalkit.stream.shard import write_shard
from evalkit.stream.text import kind_of, read_documents
from evalkit.stream.tokenizer import Tokenizer

SCHEMA = 1


class TokenizerRecord(msgspec.Struct, frozen=True):
    name: str
    vocab_size: int
    bos_id: int
    fingerprint: str


class DocumentColumns(msgspec.Struct):
    """One entry per document, in stream order; ``start`` is the index of its BOS, ``source`` an index into sources."""

    name: list[str] = msgspec.field(default_factory=list)
    source: list[int] = msgspec.field(default_factory=list)
    start: list[int] = msgspec.field(default_factory=list)
    bytes: list[int] = msgspec.field(default_factory=list)
    blake2b: list[str] = msgspec.field(default_factory=list)


class Manifest(msgspec.Struct):
    """Counts are of the whole shard; ``sha256`` is of the shard file."""

    shard: str
    tokenizer: TokenizerRecord
    sources: list[str]
    documents: DocumentColumns = msgspec.field(default_factory=DocumentColumns)
    tokens: int = 0
    bytes: int = 0
    sha256: str = ""
    hash: str = "blake2b-128 of the UTF-8 text"
    schema: int = SCHEMA


def manifest_path(shard: str | Path) -> Path:
    """``FILE.bin`` -> ``FILE.manifest.json``."""
    shard = Path(shard)
    return shard.with_name(shard.name.removesuffix(".bin") + ".manifest.json")


def document_hash(data: bytes) -> str:
    """blake2b-128 of a document's UTF-8 bytes, hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def tokenize(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    force: bool = False,
    watch: Callable[[Manifest], None] = lambda manifest: None,
) -> Manifest:
    """Encode text files into the shard ``out`` and its manifest; returns the manifest.

    ``watch`` is called with the manifest so far after each batch of about 4 MB of text.

    Raises InputError when ``out`` exists (unless ``force``), for input that is no text, and when the vocabulary does
    not fit 16 bits; ByteCountError when a document does not come back from its tokens.
    """
    out = Path(out)
    _check_out(out, force)
    if tokenizer.vocab_size > 1 << 16:
        raise InputError(f"{tokenizer.name} has {tokenizer.vocab_size:,} ids, but a shard's 16 bits hold only 65,536")
    manifest = Manifest(out.name, _record(tokenizer), [str(path) for path in paths])
    parts = list[npt.NDArray[np.uint16]]()
    for i, path in enumerate(paths):
        for ids in _encode_file(path, i, tokenizer, manifest):
            parts.append(ids)
            watch(manifest)
    write_shard(out, np.concatenate(parts))
    manifest.sha256 = file_sha256(out)
    write_atomic(manifest_path(out), [msgspec.json.format(msgspec.json.encode(manifest), indent=1), b"\n"])
    return manifest


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest; raises InputError when it is not one or its columns differ in length."""
    data = b"".join(slices(Path(path), decompress=False))
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise InputError(f"{path}: not a shard manifest ({fault}); make it with evalkit tokenize") from None
    columns = manifest.documents
    lengths = {len(c) for c in (columns.name, columns.source, columns.start, columns.bytes, columns.blake2b)}
    if manifest.schema != SCHEMA or len(lengths) != 1:
        raise InputError(
            f"{path}: schema {manifest.schema} with columns of {sorted(lengths)} documents, but schema {SCHEMA} with "
            f"equal columns is expected; make it again with evalkit tokenize"
        )
    return manifest


def file_sha256(path: str | Path) -> str:
    """sha256 of a file as it lies, hex."""
    digest = hashlib.sha256()
    for piece in slices(Path(path), decompress=False):
        digest.update(piece)
    return digest.hexdigest()


def _record(tokenizer: Tokenizer) -> TokenizerRecord:
    return TokenizerRecord(tokenizer.name, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.fingerprint)


def _check_out(out: Path, force: bool) -> None:
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist; make it first")
    for path in (out, manifest_path(out)):
        if path.exists() and not force:
            raise InputError(f"{path}: already exists; add --force to replace it")


def _encode_file(
    path: str | Path, source: int, tokenizer: Tokenizer, manifest: Manifest
) -> Iterator[npt.NDArray[np.uint16]]:
    kind = kind_of(path)
    if kind == "shard":
        raise InputError(f"{path}: this is a token shard already; give text (.txt or .jsonl)")
    columns = manifest.documents
    for batch, ids in encoded(read_documents(path, kind), tokenizer):
        columns.name += [d.name for d in batch]
        columns.source += [source] * len(batch)
        columns.start += (np.flatnonzero(ids == tokenizer.bos_id) + manifest.tokens).tolist()
        columns.bytes += [len(d.data) for d in batch]
        columns.blake2b += [document_hash(d.data) for d in batch]
        manifest.tokens += len(ids)
        manifest.bytes += sum(len(d.data) for d in batch)
        yield ids.astype(np.uint16)
