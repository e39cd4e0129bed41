"""The stream that is scored: token ids, where documents begin, and the true bytes of their text.

Targets are the positions 1..len(tokens)-1.  Target t is predicted from the tokens before it and belongs to the
document that contains token t-1, so the next BOS is the last target of a document: it costs nats and counts 0 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream import shard
from evalkit.stream.pieces import SLAB, WHITE, Int64, utf8
from evalkit.stream.read import Part, documents_part, read_part, tokens_part
from evalkit.stream.shard import read_shard
from evalkit.stream.text import Document, Kind, kind_of
from evalkit.stream.tokenizer import Tokenizer

__all__ = ["Stream", "open_stream", "open_texts", "read_shard", "stream_of_tokens", "write_shard"]

Tokens = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Folding:
    """What a lossy tokenizer changed, over the documents that it changed: whole ones, also where a limit cuts the last."""

    documents: int
    text_bytes: int
    """Bytes of these documents as they were given."""
    scored_bytes: int
    """Bytes of these documents as the tokenizer gives them back: what is scored."""
    changed_bytes: int
    """Bytes of words and white space that came back otherwise or not at all."""

    def __str__(self) -> str:
        count = "1 document" if self.documents == 1 else f"{self.documents:,} documents"
        return (
            f"lossy: the tokenizer does not give {count} back as given ({self.changed_bytes:,} bytes differ); what is scored "
            f"is the text that it gives back, {self.scored_bytes:,} bytes for {self.text_bytes:,}"
        )


@dataclass(frozen=True, eq=False)
class Stream:
    """The text as the engine sees it.

    tokens: uint16 or int32 [n_targets + 1], a memory map for a plain shard; token 0 is a BOS, context only.
    doc_start: int64 [D], index of each document's BOS, strictly increasing from 0; every one of them owns a target.
    doc_bytes: int64 [D], bytes of each document's text as far as it is in the stream.
    doc_names: D names for people.  sources: the files.
    bytes_from: "text" when every document was reconciled with its text, "tokenizer" when the bytes are those that
    the tokenizer's pieces carry (shards), "folded text" when documents were reconciled with their text as a lossy
    tokenizer gives it back, joined by "+" when several occur.
    folded: document -> (bytes of its text as given, bytes as given back, bytes changed), where a tokenizer was lossy.
    """

    tokens: Tokens
    tokenizer: Tokenizer
    doc_start: Int64
    doc_bytes: Int64
    doc_names: tuple[str, ...]
    bytes_from: str
    sources: tuple[str, ...]
    folded: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def n_targets(self) -> int:
        return len(self.tokens) - 1

    @property
    def total_bytes(self) -> int:
        """Bytes of all targets."""
        return int(self.doc_bytes.sum())

    @property
    def folding(self) -> Folding | None:
        """Sums over :attr:`folded`; None when every document is scored as it is."""
        if not self.folded:
            return None
        return Folding(len(self.folded), *(sum(column) for column in zip(*self.folded.values(), strict=True)))

    def target_bytes(self, lo: int, hi: int) -> Int64:
        """Bytes of targets lo..hi-1 given their predecessors: int64 [hi - lo], 1 <= lo <= hi <= n_targets + 1."""
        self._check(lo, hi)
        return self.tokenizer.pieces.target_bytes(self.tokens[lo - 1 : hi - 1], self.tokens[lo:hi])

    def words(self, n_targets: int) -> int:
        """Words of the first ``n_targets`` targets: runs of bytes without ASCII white space; no word spans documents.

        A word counts when its first byte is there.
        """
        count, behind_gap = 0, True
        for lo in range(1, n_targets + 1, SLAB):
            before, ids = (
                self.tokens[lo - 1 : min(lo + SLAB - 1, n_targets)],
                self.tokens[lo : min(lo + SLAB, n_targets + 1)],
            )
            size = self.tokenizer.pieces.target_bytes(before, ids)
            data = np.frombuffer(self.tokenizer.pieces.decode(before, ids), np.uint8)
            begins = np.zeros(len(data) + 1, np.bool_)  # where a document begins
            begins[(np.cumsum(size) - size)[ids == self.tokenizer.bos_id]] = True
            gap = np.isin(data, np.frombuffer(WHITE, np.uint8))
            follows = np.concatenate(([behind_gap], gap[:-1])) if len(data) else gap
            count += int((~gap & (follows | begins[:-1])).sum())
            behind_gap = bool(begins[-1] or (gap[-1] if len(data) else behind_gap))
        return count

    def doc_of_target(self, lo: int, hi: int) -> Int64:
        """Document of targets lo..hi-1 (the one that contains token t-1): int64 [hi - lo]."""
        self._check(lo, hi)
        first, last = np.searchsorted(self.doc_start, [lo - 1, max(lo - 1, hi - 2)], side="right") - 1
        edges = np.clip(self.doc_start[first : last + 2], lo - 1, hi - 1)
        ends = np.append(edges[1 : last - first + 1], hi - 1)
        return np.repeat(np.arange(first, last + 1), ends - edges[: last - first + 1])

    def head(self, n_targets: int) -> Stream:
        """The first ``n_targets`` targets; a document that is cut gets its bytes from the piece table."""
        if n_targets < 1:
            raise InputError(f"a stream needs at least 1 target, not {n_targets}; ask for 1 or more")
        if n_targets >= self.n_targets:
            return self
        tokens = self.tokens[: n_targets + 1]
        starts = self.doc_start[: np.searchsorted(self.doc_start, n_targets)]
        sizes = self.doc_bytes[: len(starts)].copy()
        sizes[-1] = _table_bytes(tokens, self.tokenizer, starts[-1:])[0]
        names, folded = self.doc_names[: len(starts)], {d: f for d, f in self.folded.items() if d < len(starts)}
        return replace(self, tokens=tokens, doc_start=starts, doc_bytes=sizes, doc_names=names, folded=folded)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 hex over tokens (as uint32), doc_start, doc_bytes and the tokenizer's fingerprint."""
        digest = hashlib.sha256(self.tokenizer.fingerprint.encode())
        for array in (self.doc_start, self.doc_bytes):
            digest.update(len(array).to_bytes(8, "little") + array.astype("<i8").tobytes())
        for lo in range(0, len(self.tokens), SLAB):
            digest.update(self.tokens[lo : lo + SLAB].astype("<u4").tobytes())
        return digest.hexdigest()

    def _check(self, lo: int, hi: int) -> None:
        if not 1 <= lo <= hi <= len(self.tokens):
            raise ValueError(f"targets {lo}..{hi - 1} are not within 1..{self.n_targets}")


def open_stream(
    paths: Sequence[str | Path], tokenizer: Tokenizer, *, limit_targets: int | None = None, lossy: bool = False
) -> Stream:
    """Read text files and token shards, in the order given, as one stream.

    ``limit_targets``: stop after this many targets (files beyond it are looked at but not read).  A shard that does not
    begin with BOS continues the shard before it; as the first file, or after a text file, it is refused.
    ``lossy``: a document that the tokenizer does not reproduce (a normaliser folded it) is scored as the tokenizer decodes
    it: its bytes are those of the decoded text, and :attr:`Stream.folding` says how much changed.  Without it: refused.
    Raises InputError, and ByteCountError for a document that its tokens do not reproduce.
    """
    if limit_targets is not None and limit_targets < 1:
        raise InputError(f"the limit of targets must be at least 1, not {limit_targets}")
    if not paths:
        raise InputError("no text to score; give text files or token shards")
    kinds: list[Kind] = [kind_of(path) for path in paths]
    parts, room = list[Part](), None if limit_targets is None else limit_targets + 1
    for path, kind in zip(paths, kinds, strict=True):
        part = read_part(path, kind, tokenizer, room, parts[-1] if parts else None, lossy=lossy)
        parts.append(part)
        room = None if room is None else room - len(part.tokens)
        if room is not None and room <= 0:
            break
    stream = _join(parts, tokenizer)
    return stream if limit_targets is None else stream.head(limit_targets)


def open_texts(texts: Sequence[str], tokenizer: Tokenizer, source: str = "texts", *, lossy: bool = False) -> Stream:
    """Texts in memory as one stream, one document per text, in the order given; ``lossy``: see :func:`open_stream`.

    Raises InputError when there is no text, and ByteCountError for one that its tokens do not reproduce.
    """
    if not any(texts):
        raise InputError(f"{source}: all {len(texts)} texts are empty; a stream needs at least one with text")
    documents = [Document(source, i, f"{source}#{i}", utf8(text)) for i, text in enumerate(texts)]
    return _join([documents_part(source, documents, tokenizer, lossy=lossy)], tokenizer)


def stream_of_tokens(tokens: Tokens, tokenizer: Tokenizer, source: str = "tokens") -> Stream:
    """Token ids [n] that begin with BOS as a stream; bytes are those that the tokenizer's pieces carry.  InputError."""
    if not len(tokens):
        raise InputError(f"{source}: no tokens; a stream needs a BOS and at least 1 target")
    return _join([tokens_part(np.asarray(tokens), tokenizer, source)], tokenizer)


def write_shard(path: str | Path, stream_or_tokens: Stream | Tokens) -> None:
    """Write a stream, or tokens [n], as a token shard, whole or not at all; raises InputError."""
    tokens = stream_or_tokens.tokens if isinstance(stream_or_tokens, Stream) else stream_or_tokens
    shard.write_shard(path, tokens)


def _join(parts: Sequence[Part], tokenizer: Tokenizer) -> Stream:
    tokens = parts[0].tokens if len(parts) == 1 else np.concatenate([p.tokens for p in parts])
    if len(tokens) < 2:
        raise InputError(f"{parts[0].source}: {len(tokens)} token is context only; a stream needs at least 1 target")
    shifts = np.cumsum([0, *(len(p.tokens) for p in parts[:-1])])
    starts = np.concatenate([p.doc_start + shift for p, shift in zip(parts, shifts, strict=True)])
    sizes = np.concatenate([p.doc_bytes for p in parts])
    names = [name for p in parts for name in p.doc_names]
    firsts = np.cumsum([0, *(len(p.doc_bytes) for p in parts[:-1])]).tolist()
    folded = {
        first + d: (was, int(p.doc_bytes[d]), changed)
        for p, first in zip(parts, firsts, strict=True)
        for d, (was, changed) in p.folded.items()
    }
    owns = starts < len(tokens) - 1  # a BOS at the very end is a target of the document before it and owns none
    starts, sizes, names = starts[owns], sizes[owns], names[: int(owns.sum())]
    if (sizes < 0).any():
        sizes = np.where(sizes < 0, _table_bytes(tokens, tokenizer, starts), sizes)
    folded = {d: f for d, f in folded.items() if d < len(starts)}
    origins = [o for o in ("text", "folded text", "tokenizer") if any(p.bytes_from == o for p in parts)]
    sources = tuple(p.source for p in parts)
    return Stream(tokens, tokenizer, starts, sizes, tuple(names), "+".join(origins), sources, folded)


def _table_bytes(tokens: Tokens, tokenizer: Tokenizer, starts: Int64) -> Int64:
    """Bytes per document by the piece table, for documents that begin at ``starts`` and run on to the end."""
    sizes = np.zeros(len(starts), np.int64)
    for lo in range(int(starts[0]) + 1, len(tokens), SLAB):
        hi = min(lo + SLAB, len(tokens))
        counts = tokenizer.pieces.target_bytes(tokens[lo - 1 : hi - 1], tokens[lo:hi])
        first, after = np.searchsorted(starts, [lo, hi - 1]) - [1, 0]  # documents that begin in tokens [.., hi-2]
        cuts = np.maximum(starts[first:after] + 1 - lo, 0)
        sizes[first:after] += np.add.reduceat(counts, cuts)
    return sizes
