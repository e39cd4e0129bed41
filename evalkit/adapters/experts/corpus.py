"""What ``ppm`` does with a corpus: counts from before the first target, and the check that the scored text is not among them.

A corpus is part of the artifact: fixed before the first target.  So it must not hold what is scored.  Exact: a scored
document whose ids are those of a document of the corpus.  Near: the share of a scored document's 13-word sequences
(lower case, letters and digits only) that stand anywhere in the corpus.  Both are read off the corpus itself.
"""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evalkit.adapters.experts.native import MIB, native
from evalkit.errors import InputError
from evalkit.stream.corpus import Corpus, Overlap, read_corpus

if TYPE_CHECKING:
    from evalkit.stream.stream import Stream

NEAR = 0.5
"""Share of shared 13-word sequences from which a document counts as a near copy."""
UInt64 = npt.NDArray[np.uint64]

_OPEN: weakref.WeakValueDictionary[tuple[str, int, int], Corpus] = weakref.WeakValueDictionary()
_COUNTED: weakref.WeakValueDictionary[tuple[str, int, int, int], Any] = weakref.WeakValueDictionary()
_COMPARED: dict[tuple[str, str, tuple[str, ...]], Overlap] = {}
COMPARED = 4
"""Comparisons that are remembered."""
_LAST: dict[str, Any] = {}
"""The last one of each: an audit opens the same adapter hundreds of times, one after the other."""


def open_corpus(path: str | Path) -> Corpus:
    """The corpus in this file; read once as long as someone holds it, or no other one is asked for.  InputError."""
    try:
        status = Path(path).stat()
        key = (str(Path(path).resolve()), status.st_size, status.st_mtime_ns)
    except OSError:
        return read_corpus(path)  # says what is wrong with it
    if (known := _OPEN.get(key)) is None:
        known = _OPEN[key] = read_corpus(path)
    _LAST["opened"] = known
    return known


def counted(corpus: Corpus, vocab_size: int, max_order: int, memory: int) -> Any:
    """Its n-grams of orders 1..max_order, within ``memory`` bytes; counted once, as :func:`open_corpus` reads."""
    key = (corpus.digest, vocab_size, max_order, memory)
    if (known := _COUNTED.get(key)) is None:
        least = native().smallest_table(vocab_size, max_order)
        if memory < least:
            raise InputError(
                f"adapter ppm: corpus_mib={memory // MIB} is too small for {vocab_size} ids and order {max_order}: give at "
                f"least corpus_mib={-(-least // MIB)}"
            )
        known = native().CountedCorpus(
            tokens=corpus.ids.astype(np.int32), vocab=vocab_size, max_order=max_order, bytes=memory
        )
        _COUNTED[key] = known
    _LAST["counted"] = known
    return known


def shingles(text: bytes) -> UInt64:
    """64-bit hashes of all 13-word sequences of a text, distinct, sorted: uint64 [n]."""
    return np.unique(native().word_sequences(text))


def overlap(corpus: Corpus, stream: Stream) -> Overlap:
    """Compare a corpus with a stream of the same tokenizer.  Seconds per hundred megabytes of corpus, once for a text: a
    search scores the same documents with a dozen stacks."""
    key = (corpus.digest, stream.fingerprint, stream.doc_names)
    if key not in _COMPARED:
        if len(_COMPARED) >= COMPARED:
            del _COMPARED[next(iter(_COMPARED))]
        _COMPARED[key] = _overlap(corpus, stream)
    return _COMPARED[key]


def _overlap(corpus: Corpus, stream: Stream) -> Overlap:
    exact, shares, shared = shared_text(corpus, stream)
    most = int(np.argmax(shares))
    return Overlap(
        corpus=corpus.digest,
        corpus_tokens=corpus.header.tokens,
        corpus_documents=corpus.header.documents,
        corpus_bytes=corpus.size,
        documents=len(exact),
        exact=sum(exact),
        near=sum(share >= NEAR for share in shares),
        shared=shared,
        most=shares[most],
        most_document=stream.doc_names[most],
    )


def shared_text(corpus: Corpus, stream: Stream) -> tuple[list[bool], list[float], float]:
    """Which documents of the stream stand in the corpus, the share of each one's 13-word sequences, and of all of them."""
    ends = np.append(stream.doc_start[1:], len(stream.tokens))
    scored = [stream.tokens[start + 1 : end] for start, end in zip(stream.doc_start, ends, strict=True)]
    known = {_hash(ids) for ids in corpus.documents()}
    parts = [shingles(stream.tokenizer.decode_bytes(ids)) for ids in scored]
    wanted = np.unique(np.concatenate(parts))
    pieces, bos = stream.tokenizer.pieces, np.array([corpus.header.bos_id])
    found = native().SequenceSet(wanted)
    if len(wanted):
        for ids in corpus.documents():
            if len(ids):
                found.read(pieces.decode(np.concatenate((bos, ids[:-1])), ids))
    shared = wanted[found.seen()]
    shares = [float(np.isin(part, shared).mean()) if len(part) else 0.0 for part in parts]
    return [_hash(ids) in known for ids in scored], shares, len(shared) / max(1, len(wanted))


def _hash(ids: npt.NDArray[np.integer]) -> bytes:
    return hashlib.blake2b(ids.astype("<u4").tobytes(), digest_size=16).digest()
