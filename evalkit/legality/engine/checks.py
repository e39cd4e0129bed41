"""Checks of a setup beside the probes: windows, bytes, batches, artifact size, corpora."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from evalkit.adapters.base import CountsCorpus
from evalkit.adapters.info import carried, stream_info
from evalkit.legality.engine.setup import Setup, fresh, lanes_of, replay, stream_of
from evalkit.legality.verdict import Check
from evalkit.models.base import SizedModel
from evalkit.models.ek.container import CAP_BYTES
from evalkit.scoring.run import families
from evalkit.stream import Stream

BATCH_TOLERANCE = 2e-3


def setup_checks(setup: Setup, stream: Stream) -> list[Check]:
    """All of them, in the order of their tests."""
    return [
        windows(setup, stream),
        byte_count(stream),
        batches(setup, stream),
        artifact(setup.model),
        *corpora(setup, stream),
    ]


def windows(setup: Setup, stream: Stream) -> Check:
    """Does the plan book every target of this stream once, in order?"""
    expected, at = 1, -1
    count = 0
    for chunk in setup.plan.chunks(stream.n_targets + 1, stream.doc_start, setup.chunked()):
        for window in chunk.windows:
            if window.lo != expected or window.start >= window.lo:
                at = window.lo
            expected, count = window.hi, count + 1
    good = at < 0 and expected == stream.n_targets + 1
    detail = f"{count:,} windows book targets 1..{stream.n_targets:,} once, in order"
    if not good:
        detail = f"plan {setup.plan.name} skips or repeats at target {at if at >= 0 else expected}"
    return Check(test="T7", name="windows", status="ok" if good else "violated", detail=detail, ledger="coverage")


def byte_count(stream: Stream) -> Check:
    """Do the bytes of the targets add up to those of the documents?"""
    targets = stream.target_bytes(1, stream.n_targets + 1)
    owner = stream.doc_of_target(1, stream.n_targets + 1)
    by_document = np.bincount(owner, weights=targets, minlength=len(stream.doc_bytes)).astype(np.int64)
    wrong = np.flatnonzero(by_document != stream.doc_bytes)
    detail = f"{int(targets.sum()):,} bytes in {len(stream.doc_bytes):,} documents, bytes from the {stream.bytes_from}"
    if len(wrong):
        d = int(wrong[0])
        detail = f"document {d}: its targets have {by_document[d]} bytes, its text {stream.doc_bytes[d]}"
    return Check(test="T8", name="bytes", status="violated" if len(wrong) else "ok", detail=detail, ledger="bytes")


def batches(setup: Setup, stream: Stream) -> Check:
    """Do scores depend on which windows share a forward call?  One window a call against many."""
    tokens = np.asarray(stream.tokens[: min(stream.n_targets, 1024) + 1], dtype=np.int64)
    part = stream_of(tokens, setup.tokenizer)
    many = replay(setup, part)
    single = replay(replace(setup, batch_tokens=1, adapters=tuple(_one_lane(a) for a in setup.adapters)), part)
    moved = float(np.abs(many - single).max())
    status = "ok" if moved <= BATCH_TOLERANCE else "warning"
    detail = f"scores move by at most {moved:.2g} nats when every window has a forward call of its own"
    return Check(test="T11", name="batch composition", status=status, detail=detail)


def _one_lane(adapter: Any) -> Any:
    """One document at a time where several learn side by side."""
    return fresh(adapter, lanes=1) if lanes_of(adapter) > 1 else adapter


def corpora(setup: Setup, stream: Stream) -> list[Check]:
    """P2: does the scored text stand in what an expert counted before the first target?  One for each that counted any."""
    experts = families(setup.fresh())[1]
    info = stream_info(stream, setup.seed, setup.model.vocab_size, carried(setup.model, experts))
    found = [(e, e.overlap(stream, info)) for e in experts if isinstance(e, CountsCorpus)]
    return [
        Check(
            test="P2",
            name=f"corpus of {expert.name}",
            status="violated" if overlap.exact or overlap.near else "ok",
            detail=overlap.sentence(),
            ledger="provenance",
        )
        for expert, overlap in found
        if overlap is not None
    ]


def artifact(model: Any) -> Check:
    """Bytes of the artifact against the field's cap."""
    if not isinstance(model, SizedModel):
        return Check(
            test="T16", name="artifact size", status="not-tested", detail="the checkpoint does not say its size"
        )
    status = "ok" if model.size_bytes <= CAP_BYTES else "warning"
    detail = f"{model.size_bytes:,} bytes of at most {CAP_BYTES:,} (code is not counted here)"
    return Check(test="T16", name="artifact size", status=status, detail=detail)


def weights_digest(model: Any) -> str:
    """blake2b over names and bytes of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    if model.module is None:
        return ""
    import torch

    for name, tensor in sorted(model.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
