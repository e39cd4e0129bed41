"""What a run leaves behind: totals, stages with intervals, documents; ``run.json`` and the rows beside it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from evalkit.adapters.base import Float64
from evalkit.errors import InputError
from evalkit.scoring.ledger import BookedChunk
from evalkit.scoring.statistics import paired_interval
from evalkit.stream.files import write_atomic
from evalkit.units import LN2, bits_per_byte, total_nats

SCHEMA = 1
LARGEST_EXPONENT = 709.0
"""exp of more is beyond float64."""
RUN_FILE = "run.json"


class Totals(msgspec.Struct, kw_only=True, frozen=True):
    """Sums over documents, exactly rounded.  BPB is None when no byte was scored."""

    targets: int
    bytes: int
    base_nats: float
    base_bpb: float | None
    nats: float
    bpb: float | None


class Stage(msgspec.Struct, kw_only=True, frozen=True):
    """What one adapter adds: BPB through it, and its step against the stage before it with a 95 % interval."""

    adapter: str
    settings: dict[str, Any] = {}
    bpb: float
    delta_bpb: float
    ci95: list[float] | None
    """None: one document has no interval."""


_Range = Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]


class Coverage(msgspec.Struct, kw_only=True, frozen=True):
    """Half-open ranges of targets: those that were booked, and all of them."""

    booked: list[_Range] = []
    targets: _Range = msgspec.field(default_factory=lambda: [0, 0])


class Budget(msgspec.Struct, kw_only=True, frozen=True):
    """What the guard was told and did."""

    seconds: float | None = None
    policy: str = "none"
    spent: float = 0.0
    shed: list[dict[str, Any]] = []
    """Work left out: ``work``, ``from_target``, ``change``."""
    stopped: str | None = None
    """Why the run ended early: "signal" or "budget"."""


class _Said(msgspec.Struct):
    """The settings that every reader relies on."""

    plan: dict[str, Any]
    adapters: list[dict[str, Any]]
    chunk_tokens: int
    batch_tokens: int
    seed: int


class _Prints(msgspec.Struct):
    """The fingerprints that every reader relies on."""

    model: str
    tokenizer: str
    text: str


class RunRecord(msgspec.Struct, kw_only=True):
    """run.json: the one reader and writer of it.  Fields with a default may be missing in a file."""

    schema: int
    settings: dict[str, Any]
    """All of them, resolved."""
    fingerprint: dict[str, Any]
    """Model, tokenizer, text, plan, adapters, code and what else must agree for a run to be resumed."""
    world_size: int = 1
    complete: bool
    coverage: Coverage = Coverage()
    budget: Budget = Budget()
    totals: Totals
    perplexity: dict[str, Any] = {}
    """See :func:`perplexities`."""
    stages: list[Stage] = []
    """In stack order."""
    bytes_from: str
    """Where the byte counts come from: "text" or "tokenizer"."""
    folding: dict[str, int] | None = None
    """What a folding tokenizer changed of the text, where that was allowed."""
    documents: int = 0
    provenance: list[dict[str, Any]] = []
    """How much of the text stands in what an expert counted before the first target."""
    notes: list[str] = []
    """What a reader must know about these numbers."""
    resumed_chunks: int = 0
    seconds: dict[str, float] = {}
    """By verb of the loop, and ``wall``."""
    peak_memory_bytes: int = 0
    state_bytes: dict[str, int] = {}
    verdicts: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    ranks: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    """One entry a rank, where ranks shared the work."""

    def json(self) -> dict[str, Any]:
        """The content of run.json."""
        return msgspec.to_builtins(self)

    def write(self, folder: Path) -> None:
        """``run.json``, whole or not at all."""
        write_json(folder / RUN_FILE, self.json())

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """``run.json`` of a run directory; InputError when there is none, it is damaged, or of a later format."""
        path = folder / RUN_FILE
        if not path.is_file():
            raise InputError(
                f"{folder} is no run directory: no run.json there; give the --out folder of a finished 'evalkit eval' "
                "(a run that was cut short writes it when it resumes)"
            )
        try:
            found = json.loads(path.read_bytes())
            schema = found["schema"] if isinstance(found, dict) and "schema" in found else None
            if isinstance(schema, int) and schema > SCHEMA:
                raise InputError(
                    f"{folder}: run.json has schema {schema}, this evalkit reads up to {SCHEMA}; install a newer one"
                )
            record = msgspec.convert(found, cls)
            msgspec.convert(record.settings, _Said)
            msgspec.convert(record.fingerprint, _Prints)
        except (ValueError, OSError, RecursionError) as fault:  # msgspec's ValidationError is a ValueError
            raise InputError(
                f"{folder}: the run cannot be read ({fault}); score it again with evalkit eval into another --out"
            ) from None
        return record


@dataclass(frozen=True)
class DocumentTable:
    """One row per document: index, targets, bytes, and nats float64 [D, S+1] (stage 0 is the model)."""

    doc: np.ndarray
    targets: np.ndarray
    bytes: np.ndarray
    nats: Float64

    @classmethod
    def from_chunks(cls, chunks: list[BookedChunk], stages: int) -> DocumentTable:
        """Add the parts of each document with ``math.fsum``."""
        parts: dict[int, list[Any]] = {}
        for chunk in chunks:
            for part in chunk.parts:
                parts.setdefault(part.doc, []).append(part)
        docs = sorted(parts)
        nats = [[math.fsum(stage) for stage in zip(*(p.nats for p in parts[d]), strict=True)] for d in docs]
        return cls(
            np.array(docs, dtype=np.int64),
            np.array([sum(p.targets for p in parts[d]) for d in docs], dtype=np.int64),
            np.array([sum(p.bytes for p in parts[d]) for d in docs], dtype=np.int64),
            np.array(nats, dtype=np.float64).reshape(len(docs), stages),
        )


@dataclass
class Result:
    """``record``: run.json, typed.  ``documents``: the rows.  ``folder``: where they lie, or None."""

    record: RunRecord
    documents: DocumentTable
    folder: Path | None = None
    stage_names: tuple[str, ...] = field(default=("model",))
    spans: Any = None
    """The loop's :class:`~evalkit.scoring.loop.Spans`."""

    @cached_property
    def run(self) -> dict[str, Any]:
        """The content of run.json."""
        return self.record.json()

    @property
    def bpb(self) -> float | None:
        """Bits per byte of the last stage; None when no byte was scored."""
        return self.record.totals.bpb

    @property
    def base_bpb(self) -> float | None:
        """Bits per byte of the model alone."""
        return self.record.totals.base_bpb

    @property
    def complete(self) -> bool:
        return self.record.complete


def totals(table: DocumentTable) -> Totals:
    """Sums over documents, exactly rounded."""
    size = int(table.bytes.sum())
    base, last = total_nats(table.nats[:, 0]), total_nats(table.nats[:, -1])
    return Totals(
        targets=int(table.targets.sum()),
        bytes=size,
        base_nats=base,
        base_bpb=bits_per_byte(base, size) if size else None,
        nats=last,
        bpb=bits_per_byte(last, size) if size else None,
    )


def perplexities(sums: Totals, words: int) -> dict[str, Any]:
    """What other tools print: perplexity a token (target), a word and a byte, of base and whole stack.

    Null where there is nothing to divide by, or the number is beyond float64.
    """

    def of(nats: float, bpb: float | None) -> dict[str, float | None]:
        return {
            "token": _perplexity(nats, sums.targets),
            "word": _perplexity(nats, words),
            "byte": None if bpb is None else _perplexity(bpb * LN2, 1),
        }

    return {"words": words, "base": of(sums.base_nats, sums.base_bpb), "stack": of(sums.nats, sums.bpb)}


def _perplexity(nats: float, count: int) -> float | None:
    """exp(nats / count)."""
    return math.exp(nats / count) if count and nats / count < LARGEST_EXPONENT else None


def stage_rows(table: DocumentTable, adapters: Sequence[tuple[str, dict[str, Any]]], seed: int) -> list[Stage]:
    """One entry per (name, settings) of ``adapters``, in stack order; ``delta_bpb`` against the stage before, paired by
    document.  Empty when no byte was scored."""
    size, rows = int(table.bytes.sum()), list[Stage]()
    if not size:
        return rows
    for s, (name, settings) in enumerate(adapters, start=1):
        delta = table.nats[:, s] - table.nats[:, s - 1]
        interval = paired_interval(delta, table.bytes.astype(np.float64), seed)
        rows.append(
            Stage(
                adapter=name,
                settings=settings,
                bpb=bits_per_byte(total_nats(table.nats[:, s]), size),
                delta_bpb=bits_per_byte(total_nats(delta), size),
                ci95=list(interval) if interval else None,
            )
        )
    return rows


def document_columns(table: DocumentTable, stages: tuple[str, ...], names: list[str]) -> dict[str, list[Any]]:
    """Column name -> values: document, name, bytes, targets, nats_base, nats, and nats_STAGE for each expert."""
    columns: dict[str, list[Any]] = {
        "document": table.doc.tolist(),
        "name": [names[d] for d in table.doc],
        "bytes": table.bytes.tolist(),
        "targets": table.targets.tolist(),
        "nats_base": table.nats[:, 0].tolist(),
        "nats": table.nats[:, -1].tolist(),
    }
    for s, stage in enumerate(stages[1:], start=1):
        columns[f"nats_{s}_{stage}"] = table.nats[:, s].tolist()
    return columns


def write_documents(folder: Path, columns: dict[str, list[Any]]) -> Path:
    """``documents.parquet`` when pyarrow is there (extra ``report``), else ``documents.jsonl.gz``."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        path = folder / "documents.jsonl.gz"
        with gzip.open(path, "wt", encoding="utf-8") as file:
            for values in zip(*columns.values(), strict=True):
                file.write(json.dumps(dict(zip(columns, values, strict=True))) + "\n")
        return path
    path = folder / "documents.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def read_documents(folder: Path) -> dict[str, list[Any]]:
    """The columns of a run's documents, whichever form it has.  FileNotFoundError when it has none."""
    if (folder / "documents.parquet").exists():
        import pyarrow.parquet

        return pyarrow.parquet.read_table(folder / "documents.parquet").to_pydict()
    with gzip.open(folder / "documents.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
