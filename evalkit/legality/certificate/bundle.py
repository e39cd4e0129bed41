"""A certificate's folder: the bitstream, the artifact, and a manifest that says how to decode.

manifest.json has no text: settings, fingerprints, sizes, a crc32 of every 512 targets, and the sha256 of the bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from evalkit.errors import InputError, NoError

SCHEMA = 2
BITSTREAM, MANIFEST, ARTIFACT, TOKENIZER = "bitstream.bin", "manifest.json", "artifact", "tokenizer.model"
DECODED = "decoded.bin"
MAX_MANIFEST = 1 << 24


class Manifest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything the decoder is told, and what it must find."""

    schema: int = SCHEMA
    settings: dict[str, Any]
    """Plan, adapters (specification and settings), chunk_tokens, batch_tokens, seed, checkpoint options, threads."""
    fingerprint: dict[str, str]
    """model, tokenizer, code."""
    environment: dict[str, Any]
    artifact: str
    """File name of the checkpoint inside the folder."""
    artifact_bytes: int
    artifact_sha256: str
    tokenizer_sha256: str
    """Of tokenizer.model in the folder; "" when it travels inside the artifact."""
    first_token: int
    targets: int
    text_bytes: int
    text_sha256: str
    bitstream_bytes: int
    bitstream_sha256: str
    booked_bits: float
    """Of the fast path, the figure that is certified."""
    strict_bits: float
    checks: list[int]
    seal: str
    """sha256 of everything above: a manifest with a flipped bit is not read as another one."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def seal(manifest: dict[str, Any]) -> str:
    """sha256 over the canonical JSON of all fields but the seal."""
    kept = {k: v for k, v in manifest.items() if k != "seal"}
    return sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode())


def write(folder: Path, manifest: Manifest, bitstream: bytes) -> int:
    """Write bitstream and manifest, sealed; returns the manifest's bytes."""
    folder.joinpath(BITSTREAM).write_bytes(bitstream)
    plain = json.loads(json.dumps(msgspec.to_builtins(manifest)))
    text = json.dumps({**plain, "seal": seal(plain)}, indent=1) + "\n"
    folder.joinpath(MANIFEST).write_text(text, encoding="utf-8")
    return len(text.encode())


def read(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest and the bitstream, checked against it.

    InputError when the folder is no certificate; NoError when a file is not the one that was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder} holds no certificate: {MANIFEST} is missing; make one with evalkit certify --out {folder}"
        )
    if path.stat().st_size > MAX_MANIFEST:
        raise InputError(f"{path}: {path.stat().st_size} bytes, a manifest has at most {MAX_MANIFEST}")
    try:
        data = path.read_bytes()
        manifest = msgspec.json.decode(data, type=Manifest)
        sealed = seal(json.loads(data))
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise InputError(f"{path}: not a manifest of this version ({fault})") from None
    if manifest.schema != SCHEMA or manifest.targets < 1:
        raise InputError(f"{path}: schema {manifest.schema} with {manifest.targets} targets; schema {SCHEMA} is read")
    if sealed != manifest.seal:
        raise NoError(
            f"{path}: the manifest is damaged (sha256 {sealed[:12]}, its seal says {manifest.seal[:12]}); nothing was decoded"
        )
    bitstream = _file(folder / BITSTREAM, manifest.bitstream_bytes, manifest.bitstream_sha256, "bitstream")
    return manifest, bitstream


def check_artifact(folder: Path, manifest: Manifest) -> Path:
    """The artifact's path, after its bytes were compared with the manifest."""
    name = Path(manifest.artifact)
    if name.name != manifest.artifact:
        raise InputError(f"{folder / MANIFEST}: artifact '{manifest.artifact}' must be a file of this folder")
    _file(folder / name, manifest.artifact_bytes, manifest.artifact_sha256, "artifact")
    if manifest.tokenizer_sha256:
        found = sha256((folder / TOKENIZER).read_bytes()) if (folder / TOKENIZER).is_file() else "missing"
        if found != manifest.tokenizer_sha256:
            raise NoError(f"{folder / TOKENIZER} is not the tokenizer of this certificate (sha256 {found[:12]})")
    return folder / name


def _file(path: Path, size: int, digest: str, what: str) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: the {what} of this certificate is missing")
    if path.stat().st_size != size:
        raise NoError(
            f"{path}: the {what} has {path.stat().st_size:,} bytes, the manifest says {size:,}; nothing was decoded"
        )
    data = path.read_bytes()
    if sha256(data) != digest:
        raise NoError(
            f"{path}: the {what} is damaged (sha256 {sha256(data)[:12]}, the manifest says {digest[:12]}); nothing was decoded"
        )
    return data
