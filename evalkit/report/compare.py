"""Two runs compared, paired by document: which is better, and can they be told apart?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import InputError
from evalkit.report.elements import distinct, flat, interval, note, section, signed, table
from evalkit.report.words import Columns, extremes, looked_at
from evalkit.scoring.result import RunRecord, read_documents
from evalkit.scoring.scores import read_scores
from evalkit.scoring.statistics import paired_interval
from evalkit.units import LN2, bits_per_byte, total_nats

COLUMNS = ("document", "name", "bytes", "targets", "nats", "nats_base")
FEW_DOCUMENTS = 10
"""Below it a bootstrap interval is known to be too narrow."""
SEED_SPREAD, GAIN_SPREAD = "0.00058", "0.000086"
"""Median standard deviations over three seeds of one pull request of openai/parameter-golf, from the logs of #1500 to #2149:
of the final BPB (117 pull requests), and of BPB before minus after test-time training (113)."""
LARGEST = 5
CALLING = ("checkpoint", "tokenizer", "text", "device", "threads", "nproc", "limit_tokens", "budget_seconds")
"""Settings that say how a run was called; what they decide shows in the fingerprint."""


@dataclass(frozen=True)
class Run:
    """run.json and the document columns of a run directory."""

    folder: Path
    run: RunRecord
    documents: dict[str, list[Any]]

    @property
    def tokenizer(self) -> str:
        return self.run.fingerprint["tokenizer"]


def read_run(folder: Path) -> Run:
    """InputError when the folder holds no run, one of a later format, or one that booked nothing."""
    run = RunRecord.read(folder)
    try:
        documents = {name: list(column) for name, column in read_documents(folder).items()}
    except (ValueError, OSError, KeyError, TypeError) as fault:
        raise InputError(
            f"{folder}: the run's documents cannot be read ({type(fault).__name__}: {fault}); score it again into another --out"
        ) from None
    if not documents or not run.totals.bytes:
        raise InputError(f"{folder}: the run booked no byte, so there is nothing to compare")
    missing = [name for name in COLUMNS if name not in documents]
    if missing:
        raise InputError(f"{folder}: its documents have no column {', '.join(missing)}")
    return Run(folder, run, documents)


def differences(a: Run, b: Run) -> list[str]:
    """What makes two runs incomparable: tokenizer, text, plan, coverage."""
    found, one, two = list[str](), a.run, b.run
    if a.tokenizer != b.tokenizer:
        found.append("tokenizer")
    elif one.fingerprint["text"] != two.fingerprint["text"]:
        found.append("text")
    if one.settings["plan"] != two.settings["plan"]:
        found.append(f"plan ({_words(one.settings['plan'])} against {_words(two.settings['plan'])})")
    if one.totals.targets != two.totals.targets:
        found.append(f"targets ({one.totals.targets:,} against {two.totals.targets:,})")
    if one.bytes_from != two.bytes_from:
        found.append(f"where bytes come from ({one.bytes_from} against {two.bytes_from})")
    return found


def _words(plan: dict[str, Any]) -> str:
    settings = ",".join(f"{k}={v}" for k, v in plan.items() if k != "name")
    return f"{plan.get('name')}:{settings}" if settings else str(plan.get("name"))


def compare(
    folder_a: Path, folder_b: Path, *, force: bool = False, column: str = "nats", seed: int = 0
) -> dict[str, Any]:
    """B minus A in BPB with a 95 % interval over documents, and the documents that differ most.

    ``column``: "nats" (adapted) or "nats_base".  InputError when text, plan or coverage differ; with ``force`` they
    are compared all the same, on the documents that both scored, and the result says so.
    """
    a, b = read_run(folder_a), read_run(folder_b)
    unlike = differences(a, b)
    if unlike and not force:
        raise InputError(f"{folder_a} and {folder_b} differ in {'; '.join(unlike)}; --force compares them all the same")
    rows_a, rows_b = pair(a, b)
    size = _column(a, "bytes", rows_a)
    delta = _column(b, column, rows_b) - _column(a, column, rows_a)
    total = int(size.sum())
    if not total:
        raise InputError(f"{folder_a} and {folder_b}: the documents that both scored have no bytes")
    span = paired_interval(delta, size, seed)
    one, two = _side(a, column, rows_a, total), _side(b, column, rows_b, total)
    same_tokens = a.tokenizer == b.tokenizer
    return {
        "schema": 1,
        "column": column,
        "a": one,
        "b": two,
        "delta_bpb": bits_per_byte(total_nats(delta), total),
        "delta_nats_per_token": two["nats_per_token"] - one["nats_per_token"] if same_tokens else None,
        "ci95": list(span) if span else None,
        "documents": len(rows_a),
        "left_out": [len(a.documents["bytes"]) - len(rows_a), len(b.documents["bytes"]) - len(rows_b)],
        "distinguishable": bool(span and (span[0] > 0 or span[1] < 0)),
        "forced": bool(unlike),
        "differs_in": unlike,
        "settings": changed_settings(a, b),
        "notes": _notes(a, b, len(rows_a)),
        "largest": _largest(a, rows_a, delta, size),
    }


def pair(a: Run, b: Run) -> tuple[list[int], list[int]]:
    """Row numbers of the same documents in each: position by position where the lists agree, else by name and bytes."""
    if all(a.documents[k] == b.documents[k] for k in ("document", "bytes")):
        rows = list(range(len(a.documents["bytes"])))
        return rows, rows
    index = {key: i for i, key in enumerate(_keys(b))}
    pairs = [(i, index[key]) for i, key in enumerate(_keys(a)) if key in index]
    if not pairs:
        raise InputError(
            f"{a.folder} and {b.folder} have no document in common (by name and bytes), so they cannot be paired"
        )
    return [i for i, _ in pairs], [j for _, j in pairs]


def _keys(run: Run) -> list[tuple[Any, Any, int]]:
    """(name, bytes, how often this pair was seen before), one a document."""
    seen, keys = Counter[tuple[Any, Any]](), []
    for key in zip(run.documents["name"], run.documents["bytes"], strict=True):
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _column(run: Run, name: str, rows: list[int]) -> np.ndarray:
    return np.array(run.documents[name], dtype=np.float64)[rows]


def _side(run: Run, column: str, rows: list[int], total: int) -> dict[str, Any]:
    nats, targets = total_nats(_column(run, column, rows)), int(_column(run, "targets", rows).sum())
    return {
        "run": str(run.folder),
        "bpb": bits_per_byte(nats, total),
        "nats_per_token": nats / targets,
        "complete": run.run.complete,
    }


def changed_settings(a: Run, b: Run) -> list[list[str]]:
    """[setting, in A, in B] of every setting that differs, and the model when its fingerprint does.

    Stacks of other adapters are one line: their settings cannot be told apart one by one.
    """
    one, two = dict(flat(_told(a))), dict(flat(_told(b)))
    if _stack(a) != _stack(b):
        one, two = ({k: v for k, v in found.items() if not k.startswith("adapters")} for found in (one, two))
        one["stack"], two["stack"] = _stack(a), _stack(b)
    if a.run.fingerprint["model"] != b.run.fingerprint["model"]:
        one["model"], two["model"] = _model(a), _model(b)
    return [[k, one.get(k, "-"), two.get(k, "-")] for k in {**one, **two} if one.get(k) != two.get(k)]


def _told(run: Run) -> dict[str, Any]:
    return {k: v for k, v in run.run.settings.items() if k not in CALLING}


def _stack(run: Run) -> str:
    return " + ".join(["base", *(str(a.get("adapter")) for a in run.run.settings.get("adapters", []))])


def _model(run: Run) -> str:
    return f"{run.run.settings.get('checkpoint', '')} ({run.run.fingerprint['model'][:8]})".strip()


def _notes(a: Run, b: Run, documents: int) -> list[str]:
    found = [f"{r.folder} is incomplete: its run was stopped early" for r in (a, b) if not r.run.complete]
    if 1 < documents < FEW_DOCUMENTS:
        found.append(f"{documents} documents are few: the interval is narrower than it should be")
    if a.run.fingerprint["model"] != b.run.fingerprint["model"]:
        found.append(
            f"two checkpoints: training seeds alone move a final score by {SEED_SPREAD} BPB (1 sd), which the interval "
            "does not know; compare several seeds"
        )
    elif _stack(a) != _stack(b) or changed_settings(a, b):
        found.append(
            f"paired on one checkpoint: over seeds such a gain varies by {GAIN_SPREAD} BPB (1 sd), a final score by "
            f"{SEED_SPREAD}, seven times as much"
        )
    return found


def compare_page(found: dict[str, Any], stream: Any) -> str:
    """What :func:`compare` found as a page: the answer, and the documents that B won and lost most, word by word.

    ``stream``: what both scored.  InputError when they did not score the same targets, or kept no scores of them.
    """
    from evalkit.report.html import page

    a, b = read_run(Path(found["a"]["run"])), read_run(Path(found["b"]["run"]))
    for run in (a, b):
        if run.run.fingerprint["text"] != stream.fingerprint or run.run.totals.targets != a.run.totals.targets:
            raise InputError(f"{run.folder} scored other targets, so its words cannot be drawn beside the other's")
        if not (run.folder / "scores.f64").is_file():
            raise InputError(
                f"{run.folder} kept no scores of single targets (scores.f64); score it again into another --out"
            )
    stacks = [("base", *(s.adapter for s in run.run.stages)) for run in (a, b)]
    scores = tuple(read_scores(r.folder / "scores.f64", len(s)) for r, s in zip((a, b), stacks, strict=True))
    labels = tuple(f"{side} {name}" for side, s in zip("AB", stacks, strict=True) for name in distinct(s))
    split, base = len(stacks[0]), found["column"] == "nats_base"
    columns = Columns(labels, scores, 0 if base else split - 1, split if base else len(labels) - 1)
    rows = list(range(len(a.documents["bytes"])))
    bits = (_column(b, found["column"], rows) - _column(a, found["column"], rows)) / LN2
    chosen, names, sizes = extremes(bits), a.documents["name"], a.documents["bytes"]
    titles = [f"{names[i][:80]}: {bits[i]:+,.0f} bits over {sizes[i]:,} bytes" for i in chosen]
    words = looked_at(stream, columns, [a.documents["document"][i] for i in chosen], titles)
    return page("evalkit: two runs", _answer(found) + section("Word by word", words or note("No document differs.")))


def _answer(found: dict[str, Any]) -> str:
    told = interval(found["ci95"])
    rows = [[f"{key.upper()}: {found[key]['run']}", f"{found[key]['bpb']:.5f}", ""] for key in ("a", "b")]
    rows.append(["B - A", signed(found["delta_bpb"], 5), told])
    notes = "".join(note(text) for text in found["notes"])
    return f"<h1>evalkit: two runs</h1>{table(['run', 'BPB', '95 % interval'], rows)}{notes}"


def _largest(a: Run, rows: list[int], delta: np.ndarray, size: np.ndarray) -> list[dict[str, Any]]:
    order = np.argsort(-np.abs(delta), kind="stable")[:LARGEST]
    return [
        {
            "document": a.documents["document"][rows[i]],
            "name": a.documents["name"][rows[i]],
            "bytes": a.documents["bytes"][rows[i]],
            "delta_bits": float(delta[i] / LN2),
            "delta_bpb": float(delta[i] / LN2 / size[i]) if size[i] else None,
        }
        for i in order.tolist()
        if delta[i]
    ]
