"""Which of two runs is better, and can they be told apart?  Paired by document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.errors import InputError
from evalkit.scoring.result import read_documents
from evalkit.scoring.statistics import paired_interval
from evalkit.units import LN2, bits_per_byte, total_nats

FIELD_NATS = 0.005
"""The field's bar for a new record: nats per token (openai/parameter-golf, README)."""


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """run.json and the document columns of a finished run.  InputError when the folder holds none."""
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(f"{folder}: no run.json there; give the --out folder of a finished 'evalkit eval'")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return run, read_documents(folder)
    except (ValueError, OSError) as fault:
        raise InputError(f"{folder}: the run cannot be read ({fault})") from None


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What makes two runs incomparable: the text, the plan, or coverage."""
    found = []
    if (
        a["fingerprint"]["text"] != b["fingerprint"]["text"]
        or a["fingerprint"]["tokenizer"] != b["fingerprint"]["tokenizer"]
    ):
        found.append("text or tokenizer")
    if a["settings"]["plan"] != b["settings"]["plan"]:
        found.append(f"plan ({a['settings']['plan']} against {b['settings']['plan']})")
    if a["totals"]["targets"] != b["totals"]["targets"]:
        found.append(f"targets ({a['totals']['targets']:,} against {b['totals']['targets']:,})")
    return found


def compare(
    folder_a: Path, folder_b: Path, *, force: bool = False, column: str = "nats", seed: int = 0
) -> dict[str, Any]:
    """B minus A in BPB with a 95 % interval over documents, and the documents that differ most.

    ``column``: "nats" (adapted) or "nats_base".  InputError when the documents cannot be paired, or when plans differ
    and ``force`` is not given.
    """
    (run_a, docs_a), (run_b, docs_b) = read_run(folder_a), read_run(folder_b)
    unlike = differences(run_a, run_b)
    if docs_a["document"] != docs_b["document"] or docs_a["bytes"] != docs_b["bytes"]:
        raise InputError(
            f"{folder_a} and {folder_b} scored different documents, so they cannot be paired; differ in: "
            f"{', '.join(unlike) or 'documents'}"
        )
    if unlike and not force:
        raise InputError(f"{folder_a} and {folder_b} differ in {'; '.join(unlike)}; --force compares them all the same")
    a, b = (np.array(d[column], dtype=np.float64) for d in (docs_a, docs_b))
    size = np.array(docs_a["bytes"], dtype=np.float64)
    interval = paired_interval(b - a, size, seed)
    total = int(size.sum())
    delta = bits_per_byte(total_nats(b - a), total)
    return {
        "schema": 1,
        "a": {"run": str(folder_a), "bpb": bits_per_byte(total_nats(a), total)},
        "b": {"run": str(folder_b), "bpb": bits_per_byte(total_nats(b), total)},
        "delta_bpb": delta,
        "delta_nats_per_token": total_nats(b - a) / run_a["totals"]["targets"],
        "ci95": list(interval) if interval else None,
        "documents": len(size),
        "distinguishable": bool(interval and (interval[0] > 0 or interval[1] < 0)),
        "differs_in": unlike,
        "largest": _largest(docs_a, b - a, size),
    }


def _largest(docs: dict[str, list[Any]], delta: np.ndarray, size: np.ndarray, count: int = 5) -> list[dict[str, Any]]:
    order = np.argsort(-np.abs(delta))[:count]
    return [
        {
            "document": docs["document"][i],
            "name": docs["name"][i],
            "bytes": docs["bytes"][i],
            "delta_bits": float(delta[i] / LN2),
            "delta_bpb": float(delta[i] / LN2 / size[i]) if size[i] else None,
        }
        for i in order.tolist()
    ]


def over_seeds(pairs: list[tuple[Path, Path]]) -> dict[str, Any]:
    """The field's rule over seeds: better by 0.005 nats/token at p < 0.01 (one-sided paired t test).

    Needs at least 2 pairs of runs that differ in their seed only.
    """
    import math

    gains = np.array([-compare(a, b, force=True)["delta_nats_per_token"] for a, b in pairs])
    if len(gains) < 2:
        raise InputError(f"the field's rule needs runs of at least 2 seeds, got {len(gains)} pair")
    excess = gains - FIELD_NATS
    spread = float(excess.std(ddof=1)) / math.sqrt(len(excess))
    t = math.inf if spread == 0 and excess.mean() > 0 else float(excess.mean()) / max(spread, 1e-300)
    p = 1.0 - _student_cdf(t, len(excess) - 1)
    return {"gain_nats_per_token": float(gains.mean()), "bar": FIELD_NATS, "t": t, "p": p, "record": p < 0.01}


def _student_cdf(t: float, freedom: int) -> float:
    """Student's t by Simpson's rule over its density; within 1e-9 for |t| < 1e3, freedom >= 1."""
    import math

    if not math.isfinite(t):
        return 1.0 if t > 0 else 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    x = np.linspace(0.0, angle, 20001)
    y = np.cos(x) ** (freedom - 1)
    step = angle / 20000
    area = step / 3 * float(y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum())
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    half = scale * area
    return 0.5 + half if t > 0 else 0.5 - half
