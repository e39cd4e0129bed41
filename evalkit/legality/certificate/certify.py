"""Making and checking a certificate: encode on the strict path, compare with the fast path's books."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.errors import InputError, NoError
from evalkit.legality.certificate import bundle, codec
from evalkit.legality.engine.setup import Setup, replay, stream_of
from evalkit.scoring.environment import environment
from evalkit.stream import Stream, write_shard
from evalkit.units import LN2, total_nats

RELATIVE, ABSOLUTE_BITS = 1e-3, 64.0
"""How far the file may be from the booked bits."""


@dataclass(frozen=True)
class Account:
    """Sizes of a certificate.  ``parts_at``: first target at which strict and fast paths differ by over 0.05 nats, or 0."""

    targets: int
    text_bytes: int
    file_bits: int
    booked_bits: float
    strict_bits: float
    manifest_bytes: int
    artifact_bytes: int
    worst_nats: float
    worst_at: int
    parts_at: int

    @property
    def holds(self) -> bool:
        """Is the file as small as the books say, within 0.1 % and 64 bits?"""
        return abs(self.file_bits - self.booked_bits) <= RELATIVE * self.booked_bits + ABSOLUTE_BITS


def make(
    setup: Setup,
    stream: Stream,
    folder: Path,
    settings: dict[str, Any],
    artifact: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> Account:
    """Encode every target of ``stream`` and write the certificate.  ``settings``: what the decoder opens."""
    booked = replay(setup, stream)[-1]
    targets = np.asarray(stream.tokens[1:], dtype=np.int32)
    bitstream, strict = codec.encode(setup, int(stream.tokens[0]), targets, progress)
    text = stream.tokenizer.pieces.decode(stream.tokens[:-1], stream.tokens[1:])
    _free(folder)
    embedded = setup.model.tokenizer_model is not None
    kept = folder / (bundle.ARTIFACT + artifact.suffix)
    shutil.copyfile(artifact, kept)
    if not embedded:
        (folder / bundle.TOKENIZER).write_bytes(stream.tokenizer.model_bytes)
    manifest = bundle.Manifest(
        settings=settings,
        fingerprint={
            "model": setup.model.fingerprint,
            "tokenizer": stream.tokenizer.fingerprint,
            "code": setup.code_fingerprint(),
        },
        environment=environment(str(setup.model.device)),
        artifact=kept.name,
        artifact_bytes=kept.stat().st_size,
        artifact_sha256=bundle.sha256(kept.read_bytes()),
        tokenizer_sha256="" if embedded else bundle.sha256(stream.tokenizer.model_bytes),
        first_token=int(stream.tokens[0]),
        targets=stream.n_targets,
        text_bytes=len(text),
        text_sha256=bundle.sha256(text),
        bitstream_bytes=len(bitstream),
        bitstream_sha256=bundle.sha256(bitstream),
        booked_bits=total_nats(booked) / LN2,
        strict_bits=total_nats(strict) / LN2,
        checks=codec.block_checks(targets),
        seal="",
    )
    return _account(manifest, bundle.write(folder, manifest, bitstream), booked, strict)


def _free(folder: Path) -> None:
    """The folder, empty or holding an older certificate; never anything else."""
    ours = {bundle.BITSTREAM, bundle.MANIFEST, bundle.TOKENIZER, bundle.DECODED}
    if folder.exists():
        foreign = [p.name for p in folder.iterdir() if p.name not in ours and not p.name.startswith(bundle.ARTIFACT)]
        if foreign:
            raise InputError(
                f"--out {folder}: holds {foreign[0]}, which is no part of a certificate; choose another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ours:
        (folder / name).unlink(missing_ok=True)


def _account(manifest: bundle.Manifest, manifest_bytes: int, booked: Float64, strict: Float64) -> Account:
    apart = np.abs(booked - strict)
    beyond = np.flatnonzero(apart > 0.05)
    return Account(
        targets=manifest.targets,
        text_bytes=manifest.text_bytes,
        file_bits=8 * manifest.bitstream_bytes,
        booked_bits=manifest.booked_bits,
        strict_bits=manifest.strict_bits,
        manifest_bytes=manifest_bytes,
        artifact_bytes=manifest.artifact_bytes,
        worst_nats=float(apart.max()),
        worst_at=int(apart.argmax()) + 1,
        parts_at=int(beyond[0]) + 1 if len(beyond) else 0,
    )


def check(
    setup: Setup,
    tokenizer: Any,
    folder: Path,
    manifest: bundle.Manifest,
    bitstream: bytes,
    progress: Callable[[int], None],
) -> Path:
    """Decode, compare with the manifest, and write ``decoded.bin`` (a token shard).  NoError when anything differs.

    The decoded text is then scored on the fast path: the bits that the manifest says were booked must come out.
    """
    for name, found in (("model", setup.model.fingerprint), ("tokenizer", tokenizer.fingerprint)):
        if manifest.fingerprint.get(name) != found:
            raise NoError(
                f"the {name} opened from {folder} is not the certificate's ({found[:12]}); nothing was decoded"
            )
    targets, spent = codec.decode(setup, manifest.first_token, bitstream, manifest.targets, manifest.checks, progress)
    tokens = np.concatenate([[manifest.first_token], targets])
    text = tokenizer.pieces.decode(tokens[:-1], tokens[1:])
    if len(text) != manifest.text_bytes or bundle.sha256(text) != manifest.text_sha256:
        raise NoError(
            f"the decoded text has {len(text):,} bytes with another sha256 than the original; nothing was written"
        )
    _same_books(manifest, total_nats(spent) / LN2, total_nats(replay(setup, stream_of(tokens, tokenizer))[-1]) / LN2)
    out = folder / bundle.DECODED
    write_shard(out, tokens.astype(np.uint16))
    return out


def _same_books(manifest: bundle.Manifest, strict_bits: float, booked_bits: float) -> None:
    """Bits of the manifest against those found here; another machine's last digits are let pass."""
    for name, said, found in (
        ("strict", manifest.strict_bits, strict_bits),
        ("booked", manifest.booked_bits, booked_bits),
    ):
        if not abs(said - found) <= 0.1 * RELATIVE * found + 1.0:
            raise NoError(
                f"the text came back, but the manifest claims {said:,.1f} {name} bits and it costs {found:,.1f}; "
                "nothing was written"
            )
    size = 8 * manifest.bitstream_bytes
    if not abs(size - booked_bits) <= RELATIVE * booked_bits + ABSOLUTE_BITS:
        raise NoError(
            f"the text came back, but from {size:,} bits for {booked_bits:,.1f} booked: more than 0.1 % and 64 bits "
            "apart; nothing was written"
        )
