"""What does a run leave behind?  Totals, stages with intervals, documents; ``run.json`` and the rows beside it."""

from __future__ import annotations

import gzip
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapters.base import Float64
from evalkit.scoring.ledger import BookedChunk
from evalkit.scoring.statistics import paired_interval
from evalkit.units import LN2, bits_per_byte, total_nats

SCHEMA = 1
LARGEST_EXPONENT = 709.0
"""exp of more is beyond float64."""


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
    """``run``: the content of run.json.  ``documents``: the rows.  ``folder``: where they lie, or None."""

    run: dict[str, Any]
    documents: DocumentTable
    folder: Path | None = None
    stage_names: tuple[str, ...] = field(default=("model",))
    spans: Any = None
    """The loop's :class:`~evalkit.scoring.loop.Spans`."""

    @property
    def bpb(self) -> float:
        """Bits per byte of the last stage."""
        return self.run["totals"]["bpb"]

    @property
    def base_bpb(self) -> float:
        return self.run["totals"]["base_bpb"]

    @property
    def complete(self) -> bool:
        return self.run["complete"]


def totals(table: DocumentTable) -> dict[str, Any]:
    """Sums over documents, exactly rounded; BPB is null when no byte was scored."""
    size = int(table.bytes.sum())
    base, last = total_nats(table.nats[:, 0]), total_nats(table.nats[:, -1])
    return {
        "targets": int(table.targets.sum()),
        "bytes": size,
        "base_nats": base,
        "base_bpb": bits_per_byte(base, size) if size else None,
        "nats": last,
        "bpb": bits_per_byte(last, size) if size else None,
    }


def perplexities(sums: dict[str, Any], words: int) -> dict[str, Any]:
    """What other tools print, from :func:`totals`: perplexity a token (target), a word and a byte, of base and whole stack.

    Null where there is nothing to divide by, or the number is beyond float64.
    """

    def of(nats: float, bpb: float | None) -> dict[str, float | None]:
        return {
            "token": _perplexity(nats, sums["targets"]),
            "word": _perplexity(nats, words),
            "byte": None if bpb is None else _perplexity(bpb * LN2, 1),
        }

    return {"words": words, "base": of(sums["base_nats"], sums["base_bpb"]), "stack": of(sums["nats"], sums["bpb"])}


def _perplexity(nats: float, count: int) -> float | None:
    """exp(nats / count)."""
    return math.exp(nats / count) if count and nats / count < LARGEST_EXPONENT else None


def stage_rows(table: DocumentTable, adapters: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """One entry per expert, in stack order; ``delta_bpb`` against the stage before it, paired by document."""
    size, rows = int(table.bytes.sum()), list[dict[str, Any]]()
    if not size:
        return rows
    for s, adapter in enumerate(adapters, start=1):
        delta = table.nats[:, s] - table.nats[:, s - 1]
        interval = paired_interval(delta, table.bytes.astype(np.float64), seed)
        rows.append(
            {
                **adapter,
                "bpb": bits_per_byte(total_nats(table.nats[:, s]), size),
                "delta_bpb": bits_per_byte(total_nats(delta), size),
                "ci95": list(interval) if interval else None,
            }
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
    """Write whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
