"""Provenance: whether validation text stands in the training text, and whether the artifact depends on it (#2127).

Exact: documents by hash, from manifests or texts.  Near: the share of a validation document's 13-word sequences (lower
case, letters and digits only) that stand somewhere in the training text; it needs the texts themselves.
"""

from __future__ import annotations

import hashlib
import random
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evalkit.adapters.experts.corpus import NEAR, UInt64, open_corpus, overlap, shingles
from evalkit.errors import InputError, LegalityError
from evalkit.legality.verdict import Check
from evalkit.models.ek.container import CAP_BYTES
from evalkit.stream.corpus import WORDS

if TYPE_CHECKING:
    from evalkit.stream.stream import Stream


@dataclass
class Side:
    """One side of the comparison: document hashes, names, and 13-word sequences where the text is at hand."""

    hashes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    shingles: list[UInt64] | None = None


def read_side(paths: Sequence[str], *, text: bool) -> Side:
    """Manifests (``.manifest.json``) and text files.  ``text``: keep the 13-word sequences of text files too."""
    side = Side(shingles=[] if text else None)
    for path in paths:
        if str(path).endswith(".json") and not str(path).endswith(".jsonl"):
            _add_manifest(side, path)
        else:
            for name, data in _documents(path):
                _add(side, name, data)
    if not side.hashes:
        raise InputError(f"{', '.join(paths)}: no document found to compare")
    return side


def _add_manifest(side: Side, path: str) -> None:
    from evalkit.stream.manifest import read_manifest

    columns = read_manifest(path).documents
    side.hashes += columns.blake2b
    side.names += columns.name
    if side.shingles is not None:
        side.shingles += [np.empty(0, np.uint64)] * len(columns.blake2b)


def _documents(path: str) -> Iterator[tuple[str, bytes]]:
    from evalkit.stream.text import kind_of, read_documents

    kind = kind_of(path)
    if kind == "shard":
        raise InputError(f"{path}: a token shard has no text to compare; give its manifest or the text")
    for document in read_documents(path, kind):
        yield document.name, document.data


def _add(side: Side, name: str, data: bytes) -> None:
    from evalkit.stream.manifest import document_hash

    side.hashes.append(document_hash(data))
    side.names.append(name)
    if side.shingles is not None:
        side.shingles.append(shingles(data))


def overlap_checks(train_paths: Sequence[str], val_paths: Sequence[str]) -> list[Check]:
    """Exact overlap, and near overlap where both sides are texts."""
    val = read_side(val_paths, text=True)
    assert val.shingles is not None
    wanted = np.unique(np.concatenate(val.shingles))
    seen, train_hashes, has_text = np.zeros(len(wanted), dtype=bool), set[str](), False
    for path in train_paths:
        manifest = str(path).endswith(".json") and not str(path).endswith(".jsonl")
        if manifest:
            train_hashes |= set(read_side([path], text=False).hashes)
            continue
        has_text = True
        for _, data in _documents(path):
            train_hashes.add(_hash(data))
            if len(wanted):
                found = shingles(data)
                at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
                seen[at[wanted[at] == found]] = True
    return [_exact(train_hashes, val), _near(wanted, seen, val, has_text)]


def _hash(data: bytes) -> str:
    from evalkit.stream.manifest import document_hash

    return document_hash(data)


def _exact(train: set[str], val: Side) -> Check:
    shared = [name for name, h in zip(val.names, val.hashes, strict=True) if h in train]
    detail = f"{len(shared)} of {len(val.hashes):,} validation documents stand in the {len(train):,} training documents"
    if shared:
        detail += f", for instance '{shared[0]}'"
    return Check(
        test="T14", name="exact overlap", status="violated" if shared else "ok", detail=detail, ledger="provenance"
    )


def _near(wanted: UInt64, seen: npt.NDArray[np.bool_], val: Side, has_text: bool) -> Check:
    assert val.shingles is not None
    if not has_text or not len(wanted):
        detail = "near overlap needs both texts; manifests hold hashes of whole documents only"
        return Check(test="T14", name="near overlap", status="not-tested", detail=detail)
    known = wanted[seen]
    shares = [float(np.isin(s, known).mean()) if len(s) else 0.0 for s in val.shingles]
    worst = int(np.argmax(shares))
    near = sum(share >= NEAR for share in shares)
    detail = (
        f"{near} of {len(shares):,} validation documents share half of their {WORDS}-word sequences with the training text; "
        f"{len(known):,} of {len(wanted):,} sequences are shared; the most: {shares[worst]:.1%} of '{val.names[worst]}'"
    )
    return Check(
        test="T14", name="near overlap", status="violated" if near else "ok", detail=detail, ledger="provenance"
    )


def check_planned(path: str, stream: Stream) -> str:
    """The text that a recipe was chosen on (a corpus file) against the text to be scored: a sentence when they differ.

    LegalityError, law provenance, when a scored document or a near copy of one stands in it: choosing on what is scored
    is a leak.  InputError when the file is not there or of another tokenizer.
    """
    corpus = open_corpus(path)
    corpus.check_tokenizer(stream.tokenizer.vocab_size, stream.tokenizer.fingerprint)
    found = overlap(corpus, stream)
    detail = (
        f"{found.exact} of {found.documents:,} scored documents stand among the {found.corpus_documents:,} that the recipe was "
        f"chosen on ({path}), {found.near} share half of their {WORDS}-word sequences with them"
    )
    if found.exact or found.near:
        raise LegalityError(
            "provenance", 0, f"law provenance: {detail}; score another text, or plan again on text that is not scored"
        )
    return f"planned: {detail}"


def planned_record(path: str) -> dict[str, str | int]:
    """What run.json says of the text that its recipe was chosen on."""
    corpus = open_corpus(path)
    header = corpus.header
    return {
        "file": Path(path).name,
        "sha256": corpus.digest,
        "documents": header.documents,
        "tokens": header.tokens,
        "text_bytes": header.text_bytes,
    }


def artifact_check(path: str) -> Check:
    """Size and sha256 of an artifact, for the record."""
    if not Path(path).is_file():
        raise InputError(f"--artifact {path}: no such file")
    data = Path(path).read_bytes()
    status = "ok" if len(data) <= CAP_BYTES else "warning"
    detail = f"{len(data):,} bytes of at most {CAP_BYTES:,}, sha256 {hashlib.sha256(data).hexdigest()[:16]}"
    return Check(test="T16", name="artifact", status=status, detail=detail)


def build_check(command: str, val_path: str) -> Check:
    """Run a build command twice on the validation text and once on a scrambled copy; its output must not change.

    ``command`` holds {val} and {out}.  Runs what it is told to, without a shell.
    """
    if "{val}" not in command or "{out}" not in command:
        raise InputError(
            "--build needs {val} and {out} in its command, for instance: --build 'make.py --val {val} --out {out}'"
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        same = root / Path(val_path).name
        same.write_bytes(Path(val_path).read_bytes())
        other = root / f"scrambled_{Path(val_path).name}"
        other.write_bytes(_scrambled(Path(val_path)))
        first, again, scrambled = (_built(command, root, v, i) for i, v in enumerate((same, same, other)))
    if first != again:
        detail = "two builds on the same text differ, so nothing is shown; fix the seeds of the build"
        return Check(test="T13", name="build", status="warning", detail=detail)
    if first != scrambled:
        detail = (
            f"the artifact changes with the validation text: sha256 {first[:12]}, on scrambled text {scrambled[:12]}"
        )
        return Check(test="T13", name="build", status="violated", detail=detail, ledger="provenance")
    detail = f"the artifact is the same on scrambled validation text (sha256 {first[:12]})"
    return Check(test="T13", name="build", status="ok", detail=detail, ledger="provenance")


def _built(command: str, root: Path, val: Path, number: int) -> str:
    out = root / f"artifact{number}"
    parts = [part.format(val=val, out=out) for part in shlex.split(command)]
    try:
        done = subprocess.run(parts, capture_output=True, text=True, check=False)
    except OSError as fault:
        raise InputError(f"--build: {parts[0]} cannot be run ({fault.strerror})") from None
    if done.returncode or not out.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [""]
        raise InputError(
            f"--build: the command ended with {done.returncode} and wrote no {{out}} file; it said: {said[0][:200]}"
        )
    return hashlib.sha256(out.read_bytes()).hexdigest()


def _scrambled(path: Path) -> bytes:
    """The same file with its letters replaced at random: form, length and escapes stay."""
    draw = random.Random(1)
    letters = b"abcdefghijklmnopqrstuvwxyz"
    table = bytes(draw.choice(letters) if b in letters else b for b in range(256))
    data = path.read_bytes()
    if path.suffix in (".xz", ".gz", ".zst"):
        raise InputError(f"{path}: give --build an uncompressed validation text, it is rewritten")
    if path.suffix == ".jsonl":
        import json

        rows = [json.loads(line) for line in data.splitlines() if line.strip()]
        kept = [{**row, "text": row["text"].encode().translate(table).decode()} for row in rows]
        return "".join(json.dumps(row) + "\n" for row in kept).encode()
    return data.translate(table)
