"""The diary of a search: finished runs on whole documents, one checksummed line each, and what is read off one of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from evalkit.budget.costs import DEVICE, HOST, LEARN, place_of
from evalkit.errors import InputError
from evalkit.scoring.journal import decode_line, encode_line
from evalkit.units import LN2

SCHEMA = 2


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the search.  nats [S+1][D] of the model, learners and experts; bytes, targets [D]."""

    key: str
    targets: int
    doc_targets: list[int]
    bytes: list[int]
    nats: list[list[float]]
    wall: float
    elapsed: float
    """With start and finish: what it took of the search's time."""
    cpu: float
    """Processor seconds of the process over ``elapsed``."""
    verbs: dict[str, float]
    """Seconds of the loop by verb, first chunk included."""
    chunks: list[tuple[int, int, dict[str, float]]]
    complete: bool

    @property
    def plan(self) -> str:
        return json.loads(self.key)[0]

    @property
    def documents(self) -> list[int]:
        """What was asked for; where the run was stopped it holds the first of them."""
        return json.loads(self.key)[2]

    def bpb(self, stage: int) -> float:
        return math.fsum(self.nats[stage]) / LN2 / sum(self.bytes)

    def pace(self) -> float:
        """Seconds per target without the first chunk."""
        later = self.chunks[1:] or self.chunks
        if not later:
            raise InputError("the search's time was over before one chunk was scored: give --search-seconds more")
        return sum(sum(s.values()) for _, _, s in later) / sum(hi - lo for lo, hi, _ in later)

    def parts(self) -> dict[str, float]:
        """Seconds per target by place; what no span covers is the host's."""
        parts = {DEVICE: 0.0, HOST: 0.0, LEARN: 0.0}
        for verb, seconds in self.verbs.items():
            parts[place_of(verb)] += seconds / self.targets
        parts[HOST] += max(0.0, self.wall - sum(self.verbs.values())) / self.targets
        return parts


class Diary:
    """Finished runs, one checksummed line each, on disk before the next begins.  InputError for another search's."""

    def __init__(self, path: Path, fingerprint: dict[str, Any]) -> None:
        self.path, self.known = path, dict[str, Measured]()
        header = {"schema": SCHEMA, "fingerprint": fingerprint}
        good = 0
        for i, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else []):
            record = decode_line(line)
            if record is None:
                break
            if i == 0 and record != json.loads(json.dumps(header)):
                raise InputError(
                    f"{path}: another search was kept here (other model, text or budget); give another --out"
                )
            if i:
                run = msgspec.convert(record, Measured)
                self.known[run.key] = run
            good += len(line)
        if good:
            os.truncate(path, good)
        else:
            path.write_bytes(encode_line(header))

    def add(self, run: Measured) -> Measured:
        """What a later call will read, keys in the same order: sums are the same to the bit."""
        line = encode_line(msgspec.to_builtins(run))
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.known[run.key] = msgspec.convert(decode_line(line), Measured)
        return self.known[run.key]


def of_documents(stream: Any, documents: Sequence[int]) -> Any:
    """A stream of these whole documents, in this order; the target behind the last one (the next BOS) is not in it."""
    ends = np.append(stream.doc_start[1:], len(stream.tokens))
    parts = [stream.tokens[stream.doc_start[d] : ends[d]] for d in documents]
    sizes = [len(p) for p in parts]
    return replace(
        stream,
        tokens=np.concatenate(parts),
        doc_start=np.cumsum([0, *sizes[:-1]]).astype(np.int64),
        doc_bytes=stream.doc_bytes[list(documents)],
        doc_names=tuple(stream.doc_names[d] for d in documents),
        folded={},
    )


def whole_documents(sizes: Sequence[int], order: Sequence[int], targets: int) -> list[int]:
    """Documents in this order until ``targets`` are there; one that would overshoot by a quarter is passed over."""
    kept, held = list[int](), 0
    for d in order:
        if held >= targets:
            break
        if held + sizes[d] <= 1.25 * targets or (not kept and sizes[d] <= 2 * targets):
            kept.append(d)
            held += sizes[d]
    return kept or [min(order, key=lambda d: sizes[d])]


def in_common(run: Measured, base: Measured) -> tuple[Measured, Measured]:
    """Both without the documents that either of them had no time to finish."""
    n = min(len(x.bytes) - (not x.complete) for x in (run, base))
    cut = (
        msgspec.structs.replace(
            x,
            doc_targets=x.doc_targets[:n],
            targets=sum(x.doc_targets[:n]),
            bytes=x.bytes[:n],
            nats=[stage[:n] for stage in x.nats],
        )
        for x in (run, base)
    )
    first, second = cut
    return first, second
