"""How does one file become tokens with their documents?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.pieces import SLAB, Int64
from evalkit.stream.reconcile import reconcile
from evalkit.stream.shard import read_shard
from evalkit.stream.text import Document, Kind, read_documents
from evalkit.stream.tokenizer import Tokenizer

BATCH_BYTES = 4 << 20
"""Text encoded at a time: enough for all cores, little enough to check in memory."""
SMALL_BATCH_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class Part:
    """Tokens of one file; ``doc_bytes`` is -1 where only the piece table can tell (shards)."""

    source: str
    tokens: npt.NDArray[np.integer]
    doc_start: Int64
    doc_bytes: Int64
    doc_names: list[str]
    bytes_from: str


def read_part(path: str | Path, kind: Kind, tokenizer: Tokenizer, room: int | None, previous: Part | None) -> Part:
    """Read one file, at least its first ``room`` tokens (None: all of them).  Raises InputError."""
    if kind == "shard":
        return _shard_part(Path(path), tokenizer, room, previous)
    return _text_part(Path(path), kind, tokenizer, room)


def encoded(
    documents: Iterable[Document], tokenizer: Tokenizer, room: int | None = None
) -> Iterator[tuple[list[Document], npt.NDArray[np.int32]]]:
    """Encode and reconcile in batches until ``room`` tokens are there: (documents, their tokens with BOS before each)."""
    held = 0
    small = room is not None and room < BATCH_BYTES
    for batch in _batches(documents, SMALL_BATCH_BYTES if small else BATCH_BYTES):
        tokens = reconcile(tokenizer, batch, tokenizer.encode_batch([d.text for d in batch]))
        yield batch, tokens
        held += len(tokens)
        if room is not None and held >= room:
            return


def _text_part(path: Path, kind: Kind, tokenizer: Tokenizer, room: int | None) -> Part:
    return documents_part(str(path), read_documents(path, kind), tokenizer, room)


def documents_part(source: str, documents: Iterable[Document], tokenizer: Tokenizer, room: int | None = None) -> Part:
    """Encode documents, at least as far as ``room`` tokens.  Raises InputError."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    tokens, sizes, names = list[npt.NDArray](), list[int](), list[str]()
    for batch, ids in encoded(documents, tokenizer, room):
        tokens.append(ids.astype(dtype))
        sizes += [len(d.data) for d in batch]
        names += [d.name for d in batch]
    joined = np.concatenate(tokens)
    starts = np.flatnonzero(joined == tokenizer.bos_id)
    return Part(source, joined, starts, np.array(sizes, np.int64), names, "text")


def _batches(documents: Iterable[Document], limit: int) -> Iterator[list[Document]]:
    batch, size = list[Document](), 0
    for document in documents:
        batch.append(document)
        size += len(document.data) + 1
        if size >= limit:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _shard_part(path: Path, tokenizer: Tokenizer, room: int | None, previous: Part | None) -> Part:
    continues = previous is not None and previous.bytes_from != "text"
    return tokens_part(read_shard(path)[:room], tokenizer, str(path), continues=continues)


def tokens_part(tokens: npt.NDArray[np.integer], tokenizer: Tokenizer, source: str, *, continues: bool = False) -> Part:
    """Tokens with a BOS before each document; only what ``continues`` other tokens may begin without.  InputError."""
    _check_ids(tokens, tokenizer, source)
    if tokens[0] != tokenizer.bos_id and not continues:
        raise InputError(
            f"{source}: token 0 is id {tokens[0]}, not BOS ({tokenizer.bos_id}); it continues another shard (give the "
            f"shards in order) or was made with another tokenizer than {tokenizer.name}"
        )
    starts = np.flatnonzero(tokens == tokenizer.bos_id)
    names = [f"{Path(source).name}#{i}" for i in range(len(starts))]
    return Part(source, tokens, starts, np.full(len(starts), -1, np.int64), names, "tokenizer")


def _check_ids(tokens: npt.NDArray[np.integer], tokenizer: Tokenizer, source: str) -> None:
    """Raise InputError for an id outside the vocabulary, and for <unk>, whose text is lost."""
    lost = tokenizer.pieces.groups["unknown"]
    for lo in range(0, len(tokens), SLAB):
        slab = tokens[lo : lo + SLAB]
        if int(slab.max()) >= tokenizer.vocab_size:
            at = int((slab >= tokenizer.vocab_size).argmax())
            raise InputError(
                f"{source}: token {lo + at:,} is id {slab[at]:,}, but {tokenizer.name} has only "
                f"{tokenizer.vocab_size:,} ids; give the tokenizer that made the shard"
            )
        if lost[slab].any():
            at = int(lost[slab].argmax())
            raise InputError(
                f"{source}: token {lo + at:,} is <unk> (id {slab[at]}), so the bytes of its text are lost and cannot be "
                f"counted; make the shard with a tokenizer that has byte fallback"
            )
