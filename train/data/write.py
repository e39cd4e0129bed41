"""Token shards from text: ``STEM_000000.bin`` and so on, each with a manifest that hashes every document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.stream.files import write_atomic
from evalkit.stream.manifest import Manifest, TokenizerRecord, document_hash, file_sha256, manifest_path
from evalkit.stream.read import encoded
from evalkit.stream.shard import LARGEST, write_shard
from evalkit.stream.text import Document
from evalkit.stream.tokenizer import Tokenizer

SHARD_TOKENS = 100_000_000
"""The field's shard."""


def write_shards(
    documents: Iterator[Document], tokenizer: Tokenizer, folder: Path, stem: str, shard_tokens: int = LARGEST
) -> list[Manifest]:
    """Encode ``documents`` into FOLDER/STEM_%06d.bin, BOS before each and no EOS; returns the manifests.

    A shard ends with the document that brings it to ``shard_tokens``.  Every document is checked to come back from its
    tokens (ByteCountError).  Raises InputError for a vocabulary beyond 16 bits.
    """
    if tokenizer.vocab_size > 1 << 16:
        raise InputError(f"{tokenizer.name} has {tokenizer.vocab_size:,} ids, but a shard's 16 bits hold only 65,536")
    done: list[Manifest] = []
    shard = _Shard(folder / f"{stem}_000000.bin", tokenizer)
    for batch, ids in encoded(documents, tokenizer):
        starts = np.flatnonzero(ids == tokenizer.bos_id)
        for document, part in zip(batch, np.split(ids.astype(np.uint16), starts[1:]), strict=True):
            shard.add(document, part)
            if shard.manifest.tokens >= shard_tokens:
                done.append(shard.close())
                shard = _Shard(folder / f"{stem}_{len(done):06d}.bin", tokenizer)
    return [*done, shard.close()] if shard.parts else done


def encode_some(documents: Iterator[Document], tokenizer: Tokenizer, tokens: int) -> npt.NDArray[np.int32]:
    """At least the first ``tokens`` tokens of the documents (fewer when there are none left), BOS before each."""
    parts = [ids for _, ids in encoded(documents, tokenizer, tokens)]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


class _Shard:
    """One shard in the making; memory follows its tokens."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        record = TokenizerRecord(tokenizer.name, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.fingerprint)
        self.path, self.parts = path, list[npt.NDArray[np.uint16]]()
        self.manifest = Manifest(path.name, record, [])

    def add(self, document: Document, ids: npt.NDArray[np.uint16]) -> None:
        manifest, columns = self.manifest, self.manifest.documents
        source = Path(document.source).name
        if source not in manifest.sources[-1:]:
            manifest.sources.append(source)
        columns.name.append(document.name)
        columns.source.append(len(manifest.sources) - 1)
        columns.start.append(manifest.tokens)
        columns.bytes.append(len(document.data))
        columns.blake2b.append(document_hash(document.data))
        manifest.tokens += len(ids)
        manifest.bytes += len(document.data)
        self.parts.append(ids)

    def close(self) -> Manifest:
        write_shard(self.path, np.concatenate(self.parts))
        self.manifest.sha256 = file_sha256(self.path)
        data = msgspec.json.format(msgspec.json.encode(self.manifest), indent=1)
        write_atomic(manifest_path(self.path), [data, b"\n"])
        return self.manifest
