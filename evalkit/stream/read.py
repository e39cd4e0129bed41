"""One file becomes tokens with their documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.pieces import SLAB, Int64
from evalkit.stream.reconcile import bytes_changed, given_back, reconcile
from evalkit.stream.shard import read_shard
from evalkit.stream.text import Document, Kind, read_documents
from evalkit.stream.tokenizer import Tokenizer

BATCH_BYTES = 4 << 20
"""Text encoded at a time: enough for all cores, little enough to check in memory."""
SMALL_BATCH_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class Part:
    """Tokens of one file; ``doc_bytes`` is -1 where only the piece table can tell (shards).

    ``folded``: documents that the tokenizer did not give back as they are, by index, with (bytes of their text, bytes
    changed).
    """

    source: str
    tokens: npt.NDArray[np.integer]
    doc_start: Int64
    doc_bytes: Int64
    doc_names: list[str]
    bytes_from: str
    folded: dict[int, tuple[int, int]] = field(default_factory=dict)


def read_part(
    path: str | Path, kind: Kind, tokenizer: Tokenizer, room: int | None, previous: Part | None, *, lossy: bool = False
) -> Part:
    """Read one file, at least its first ``room`` tokens (None: all of them).  Raises InputError."""
    if kind == "shard":
        return _shard_part(Path(path), tokenizer, room, previous)
    return documents_part(str(path), read_documents(path, kind), tokenizer, room, lossy=lossy)


def encoded(
    documents: Iterable[Document], tokenizer: Tokenizer, room: int | None = None, *, lossy: bool = False
) -> Iterator[tuple[list[Document], npt.NDArray[np.int32]]]:
    """Encode and reconcile in batches until ``room`` tokens are there: (documents, their tokens with BOS before each).

    ``lossy``: documents as the tokenizer gives them back, instead of an error where that is not the text.
    """
    for _, scored, tokens in _encoded(documents, tokenizer, room, lossy=lossy):
        yield scored, tokens


def _encoded(
    documents: Iterable[Document], tokenizer: Tokenizer, room: int | None, *, lossy: bool
) -> Iterator[tuple[list[Document], list[Document], npt.NDArray[np.int32]]]:
    """(documents as they are, as they are scored, their tokens); the first two differ under ``lossy`` only."""
    held = 0
    small = room is not None and room < BATCH_BYTES
    for batch in _batches(documents, SMALL_BATCH_BYTES if small else BATCH_BYTES):
        ids = tokenizer.encode_batch([d.text for d in batch])
        scored = given_back(tokenizer, batch, ids) if lossy else batch
        tokens = reconcile(tokenizer, scored, ids)
        yield batch, scored, tokens
        held += len(tokens)
        if room is not None and held >= room:
            return


def documents_part(
    source: str, documents: Iterable[Document], tokenizer: Tokenizer, room: int | None = None, *, lossy: bool = False
) -> Part:
    """Encode documents, at least as far as ``room`` tokens.  ``lossy``: see :func:`open_stream`.  Raises InputError."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    tokens, sizes, names = list[npt.NDArray](), list[int](), list[str]()
    folded = dict[int, tuple[int, int]]()
    for batch, scored, ids in _encoded(documents, tokenizer, room, lossy=lossy):
        tokens.append(ids.astype(dtype))
        for was, now in zip(batch, scored, strict=True):
            if was.data != now.data:
                folded[len(sizes)] = len(was.data), max(1, bytes_changed(was.data, now.data))
            sizes.append(len(now.data))
            names.append(now.name)
    joined = np.concatenate(tokens)
    starts = np.flatnonzero(joined == tokenizer.bos_id)
    origin = "folded text" if folded else "text"
    return Part(source, joined, starts, np.array(sizes, np.int64), names, origin, folded)


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
    continues = previous is not None and previous.bytes_from == "tokenizer"
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
