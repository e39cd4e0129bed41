"""Validation text that stands in what is trained on: then a run does not start.

Texts and manifests are compared by evalkit's provenance check (whole documents by hash, 13-word sequences).  Shards
are compared as tokens: a validation document is a near copy when half of its sequences of SPAN tokens stand in the
training shards.  The leak of issue #2127 (10,000 of 50,000 validation documents held out) shows at the first sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evalkit.errors import InputError
from evalkit.legality.provenance import NEAR, overlap_checks
from evalkit.stream.manifest import manifest_path, read_manifest
from evalkit.stream.shard import UInt16 as Tokens
from evalkit.stream.shard import read_shard

SPAN = 32
"""Tokens of a sequence; 13 words are 25 to 30 tokens at 1,024 pieces."""
SLAB = 1 << 20
UInt64 = npt.NDArray[np.uint64]


def refuse(train: Sequence[str | Path], val: Sequence[str | Path]) -> list[str]:
    """Compare texts and ``.manifest.json`` files; returns what was found, raises InputError on overlap."""
    said = []
    for check in overlap_checks([str(p) for p in train], [str(p) for p in val]):
        if check.status == "violated":
            raise InputError(f"{check.name}: {check.detail}; take these documents out of the training text")
        said.append(f"{check.name}: {check.status}, {check.detail}")
    return said


def refuse_shards(train: Sequence[Path], val: Sequence[Path], sample: int, bos_id: int) -> list[str]:
    """Compare shards: whole documents where all have manifests, token sequences of ``sample`` tokens of each (0: all)."""
    said = []
    manifests = [manifest_path(p) for p in (*train, *val)]
    if all(p.exists() for p in manifests):
        hashes = set().union(*(read_manifest(manifest_path(p)).documents.blake2b for p in train))
        held = [h for p in val for h in read_manifest(manifest_path(p)).documents.blake2b]
        if shared := sum(h in hashes for h in held):
            raise InputError(
                f"{shared} of {len(held)} validation documents stand in the training shards of {train[0].parent} (by the "
                "hashes in their manifests); hold them out and tokenise the training text again"
            )
        said.append(f"exact overlap: none of {len(held)} validation documents is a training document")
    near, documents = near_documents((read_shard(p) for p in train), [read_shard(p) for p in val], sample, bos_id)
    if near:
        raise InputError(
            f"{near} of {documents} validation documents share half of their {SPAN}-token sequences with the training "
            f"shards of {train[0].parent}; make the shards again with these documents held out"
        )
    said.append(f"near overlap: none of {documents} validation documents in {sample or 'all'} tokens of each shard")
    return said


def near_documents(train, val: Sequence[Tokens], sample: int, bos_id: int) -> tuple[int, int]:
    """(near copies, documents): ``train`` iterates over shards; a validation document has at least SPAN tokens."""
    parts = [spans(document) for tokens in val for document in _documents(tokens, bos_id)]
    parts = [p for p in parts if len(p)]
    if not parts:
        return 0, 0
    wanted = np.unique(np.concatenate(parts))
    seen = np.zeros(len(wanted), bool)
    for shard in train:
        end = min(len(shard), sample or len(shard))
        for at in range(0, end, SLAB):
            found = spans(shard[at : min(at + SLAB + SPAN - 1, end)])
            place = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
            seen[place[wanted[place] == found]] = True
    known = wanted[seen]
    shares = [np.isin(p, known, assume_unique=False).mean() for p in parts] if len(known) else []
    return sum(share >= NEAR for share in shares), len(parts)


def spans(tokens: Tokens) -> UInt64:
    """64-bit hashes of all sequences of SPAN tokens: uint64 [n - SPAN + 1], empty for shorter ones."""
    n = len(tokens) - SPAN + 1
    if n < 1:
        return np.empty(0, np.uint64)
    mixed = tokens.astype(np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):
        # Sums over windows of 1, 2, 4, .. 32 tokens: five passes instead of 32.
        width = 1
        while width < SPAN:
            mixed = mixed[:-width] * np.uint64(0x9E3779B97F4A7C15) + mixed[width:]
            mixed ^= mixed >> np.uint64(29)
            width *= 2
    return mixed


def _documents(tokens: Tokens, bos_id: int) -> list[Tokens]:
    """The runs after each BOS; a first part without BOS is a document too."""
    cuts = np.flatnonzero(tokens == bos_id)
    return [part[1:] if len(part) and part[0] == bos_id else part for part in np.split(tokens, cuts)]
