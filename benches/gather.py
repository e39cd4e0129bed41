"""What does a training batch cost to gather: compiled or numpy, and how long is Python held up?

    python -m benches.gather [--out benches/results/gather.json]

CPU nanoseconds per token, medians of interleaved rounds, on warm shards of random ids.  "python left" is the share of its
own speed that a busy Python thread keeps while another thread gathers (1.0 = not held up; on one free core about
0.5, since the threads share it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.train.data import Blocks, Coprime
from evalkit.train.data.coprime import compiled_gather
from tests.twins.gather import gather as gather_naive

SHAPES = ((16, 256), (8, 512), (64, 2048), (384, 2048))
"""Rows and tokens of a row: tiny-cpu's two, an H200's batch, an 8xH100's."""
ROUNDS = 9


def cost(work: Callable[[], Any], repeat: int) -> float:
    """CPU seconds of this thread for one call."""
    begin = time.thread_time()
    for _ in range(repeat):
        work()
    return (time.thread_time() - begin) / repeat


def row(shards: tuple[np.ndarray, ...], rows: int, width: int) -> dict[str, Any]:
    """Nanoseconds per token of the bare gathers and of the two loaders' whole batches."""
    loader, blocks = Coprime(shards, width, 0), Blocks(shards[0], width, 0)
    shard, start = loader.places(0, rows)
    out = np.empty((rows, width + 1), np.int64)
    works: dict[str, Callable[[], Any]] = {
        "compiled": lambda: compiled_gather()(shards, shard, start, out),
        "numpy_twin": lambda: gather_naive(shards, shard, start, out),
        "coprime_batch": lambda: loader.batch(0, rows, width),
        "blocks_batch": lambda: blocks.batch(0, rows, width),
    }
    tokens, repeat = rows * width, max(1, 400_000 // (rows * width))
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            times[name].append(cost(work, repeat) / tokens * 1e9)
    found: dict[str, Any] = {name: round(statistics.median(t), 3) for name, t in times.items()}
    return {"rows": rows, "width": width, "ns_per_token": found, "numpy_over_compiled": ratio(found)}


def ratio(found: dict[str, float]) -> dict[str, float]:
    """Times faster: the bare gather, and the whole batch."""
    return {
        "gather": round(found["numpy_twin"] / found["compiled"], 2),
        "batch": round(found["blocks_batch"] / found["coprime_batch"], 2),
    }


def python_left(work: Callable[[], Any], seconds: float = 0.5) -> float:
    """Speed of a counting Python loop while ``work`` runs in a thread, over its speed alone."""

    def count() -> float:
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            done += sum(range(200))
        return done / (time.perf_counter() - begin)

    alone, stop = count(), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=busy)
    thread.start()
    beside = count()
    stop.set()
    thread.join()
    return beside / alone


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.gather", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benches/results/gather.json"))
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    shards = tuple(rng.integers(0, 8192, 2_000_000, dtype=np.uint16) for _ in range(8))
    rows = [row(shards, *shape) for shape in SHAPES]
    loader, shape = Coprime(shards, 2048, 0), (384, 2049)
    shard, start = loader.places(0, shape[0])
    left = {}
    for name, gather in (("compiled", compiled_gather()), ("numpy_twin", gather_naive)):
        out = np.empty(shape, np.int64)
        left[name] = round(
            statistics.median(python_left(lambda g=gather, o=out: g(shards, shard, start, o)) for _ in range(5)), 2
        )
    from evalkit.scoring.environment import environment

    found = {"schema": 1, "what": __doc__.splitlines()[0], "command": "python -m benches.gather", "rows": rows}
    found |= {"python_left": left, "environment": environment("cpu")}
    args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for one in rows:
        print(one["rows"], one["width"], one["ns_per_token"], one["numpy_over_compiled"])
    print("python left:", left)
    return 0


if __name__ == "__main__":
    sys.exit(main())
