"""What does a token cost in the count tables, and how far is that from what the machine can do?

    python -m benches.bench_tables [--tokens 10000000] [--out benches/results/tables.json]

CPU nanoseconds per token, medians; every table is followed at once by the floor of its size (six random
read-modify-writes of cache lines per token, fetched ahead), so that ratios hold when the machine is shared.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benches.hashed_numpy import HashedCache
from evalkit import _native
from evalkit.adapters.ppm import PpmSettings
from evalkit.adapters.ppm_naive import NaiveDirichlet

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ORDERS = 6
GIB = 1 << 30


def tokens_of(vocab: int, wanted: int) -> np.ndarray:
    """int32 tokens of the training text, BOS before each document, at most ``wanted``."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(SHARED / f"tokenizers/fineweb_{vocab}_bpe.model"))
    parts, have = [], 0
    with lzma.open(SHARED / "train.jsonl.xz", "rt", encoding="utf-8") as file:
        for line in file:
            parts.append(np.array([1, *model.encode(json.loads(line)["text"])], np.int32))
            have += len(parts[-1])
            if have > wanted:
                break
    return np.concatenate(parts)[:wanted]


def cost(work: Callable[[], Any], tokens: int) -> float:
    """CPU nanoseconds of this thread per token."""
    begin = time.thread_time()
    work()
    return (time.thread_time() - begin) / tokens * 1e9


def floor_of(size: int, tokens: int = 500_000) -> float:
    """Nanoseconds of six random read-modify-writes in a region of ``size`` bytes: median of 5."""
    probe = _native.Probe(size)
    return statistics.median(cost(lambda: probe.touch(ORDERS * tokens), tokens) for _ in range(5))


def count_all(table: _native.GramTable, x: np.ndarray, chunk: int = 8192) -> None:
    table.start(int(x[0]))
    for lo in range(1, len(x), chunk):
        table.count(x[lo : lo + chunk])


def table_row(x: np.ndarray, vocab: int, repeats: int, reserve: bool) -> dict[str, Any]:
    """Six orders (2..7) scored and committed on one table, and the floor of its size."""
    costs, floors, table = [], [], None
    for _ in range(repeats):
        table = _native.GramTable(vocab, ORDERS + 1, 6 * GIB, len(x) if reserve else 0)
        costs.append(cost(lambda t=table: count_all(t, x), len(x)))
        floors.append(floor_of(table.bytes))
    assert table is not None
    return {
        "tokens": len(x),
        "reserved": reserve,
        "ns": round(statistics.median(costs), 1),
        "floor_ns": round(statistics.median(floors), 1),
        "ratio": round(statistics.median(c / f for c, f in zip(costs, floors, strict=True)), 2),
        "mib_per_million_tokens": round(table.bytes / (1 << 20) / (len(x) / 1e6), 1),
        "grams": table.grams,
    }


def numpy_rows(x: np.ndarray) -> dict[str, float]:
    """The field's hashed cache by segment length: it reads and counts six orders, inexactly."""
    x, rows = x.astype(np.int64), {}
    for segment in (64, 2048, 32768):
        n = min(len(x) - 8, 60_000 if segment == 64 else 1_000_000)
        cache, p = HashedCache(), np.full(segment, 0.01)
        begin = time.thread_time()
        for lo in range(8, n, segment):
            hi = min(lo + segment, n)
            cache.segment(x, lo, hi, p[: hi - lo])
        rows[str(segment)] = round((time.thread_time() - begin) / (n - 8) * 1e9, 1)
    return rows


def ppm_rows(x: np.ndarray, vocab: int) -> dict[str, float]:
    """The whole expert: from p of the target to p' of the target."""
    chunk, p = 8192, np.random.default_rng(0).uniform(1e-4, 1.0, (8192, 1))
    entropy, top = np.random.default_rng(1).uniform(0, 6, 8192), np.zeros(8192, np.int32)
    orders = list(range(1, ORDERS + 1))
    cores = {
        "dirichlet 2..7": _native.DirichletPpm(vocab, [2, 3, 4, 5, 6, 7], [4.0] * 6, 1, 4 * GIB, len(x)),
        "learned, stream 1..6": _native.LearnedPpm(vocab, 1, orders, [], 0.3, False, 4 * GIB, GIB, len(x)),
        "learned, both clocks": _native.LearnedPpm(vocab, 1, orders, orders, 0.3, False, 4 * GIB, GIB, len(x)),
        "learned, both clocks, side": _native.LearnedPpm(vocab, 1, orders, orders, 0.3, True, 4 * GIB, GIB, len(x)),
    }
    rows = {}
    for name, core in cores.items():
        core.begin(int(x[0]))

        def run(core: Any = core, learned: bool = name.startswith("learned")) -> None:
            for lo in range(1, len(x), chunk):
                part = x[lo : lo + chunk]
                n = len(part)
                side = (entropy[:n], top[:n]) if learned else ()
                core.score(part, part[:, None], p[:n], *side)

        rows[name] = round(cost(run, len(x)), 1)
    return rows


def naive_row(x: np.ndarray) -> float:
    """The twin in Python dicts: counting alone, without its rows."""
    twin = NaiveDirichlet(PpmSettings(escape="dirichlet"), int(x[0]))

    def run() -> None:
        for token in x[1:].tolist():
            for order in twin.settings.stream_orders:
                twin.counts.at(order).get(token)
            twin.observe(token)

    return round(cost(run, len(x)), 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benches/results/tables.json"))
    args = parser.parse_args()
    if not SHARED.is_dir():
        print(f"no text to count: {SHARED} is missing", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"unit": "CPU nanoseconds per token", "orders": ORDERS, "vocabularies": {}}
    for vocab in (1024, 8192):
        x = tokens_of(vocab, args.tokens)
        sizes = sorted({n for n in (1_000_000, 2_000_000, 4_000_000, len(x)) if n <= len(x)})
        rows = [table_row(x[:n], vocab, args.repeats, True) for n in sizes]
        grown = table_row(x[: min(len(x), 4_000_000)], vocab, 1, False)
        numpy_ns = numpy_rows(x[:1_000_008])
        row = {
            "table": rows,
            "table_grown_from_nothing": grown,
            "numpy_by_segment": numpy_ns,
            "numpy_best_over_table": round(min(numpy_ns.values()) / rows[0]["ns"], 1),
            "naive_python": naive_row(x[:100_000]),
            "ppm": ppm_rows(x[:2_000_000], vocab),
        }
        result["vocabularies"][str(vocab)] = row
        print(f"V={vocab}\n{json.dumps(row, indent=1)}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
