"""What does a token cost in the tables of the experts, and how far is that from what the machine can do?

    python -m benches.bench_tables [--tokens 10000000] [--text FILE... --tokenizer FILE.model]

CPU nanoseconds per token of one thread.  Every measurement is followed at once by the floor of its size: six random
read-modify-writes of cache lines a token, fetched ahead, in huge pages.  Ratios hold when the machine is shared, the
nanoseconds only on the machine named.  Writes benches/results/tables.json and tables.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from sysconfig import get_paths
from tempfile import mkdtemp
from typing import Any

import numpy as np

from benches.hashed_numpy import HashedCache
from benches.token_text import tokens_of
from evalkit import _native
from evalkit.adapters.experts.ppm import PpmSettings
from tests.twins.ppm import NaiveDirichlet

ORDERS = 6
CHUNK = 8192
GIB = 1 << 30
MILLION = 1_000_000
SEGMENTS = (64, 512, 2048, 8192, 32768)
TARGETS = {
    "six orders over floor": ("most", 3.0),
    "numpy over six orders": ("least", 20.0),
    "best_agree, token 16 and within-word, ns": ("most", 80.0),
    "best_agree, with two words, ns": ("most", 150.0),
    "tilt, nine orders, ns": ("most", 120.0),
}


@cache
def tables() -> Any:
    """The module csrc/bench/tables.cpp: the count table alone, and the floor of the machine.  Built here, shipped nowhere."""
    from importlib.util import module_from_spec, spec_from_file_location

    import pybind11

    csrc, out = Path(__file__).parents[1] / "csrc", Path(mkdtemp()) / "tables.so"
    sources = [csrc / "bench/tables.cpp", *sorted((csrc / "core").glob("gram_table*.cpp")), csrc / "core/pages.cpp"]
    include = [f"-I{pybind11.get_include()}", f"-I{get_paths()['include']}"]
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC"]
    flags += ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    subprocess.run(["c++", *flags, *include, *map(str, sources), "-o", str(out)], check=True)
    spec = spec_from_file_location("tables", out)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cost(work: Callable[[], Any], tokens: int) -> float:
    """CPU nanoseconds of this thread per token."""
    begin = time.thread_time()
    work()
    return (time.thread_time() - begin) / tokens * 1e9


def floor_of(size: int, tokens: int = 300_000) -> float:
    """Nanoseconds of six random read-modify-writes in a region of ``size`` bytes: median of 3."""
    probe = tables().Probe(bytes=size)
    return statistics.median(cost(lambda: probe.touch(ORDERS * tokens), tokens) for _ in range(3))


def measured(costs: list[float], size: int, tokens: int) -> dict[str, Any]:
    """The first cost is a warm-up: it pays for memory that the system hands out for the first time."""
    ns, floor = statistics.median(costs[1:]), floor_of(size)
    return {
        "tokens": tokens,
        "ns": round(ns, 1),
        "first_ns": round(costs[0], 1),
        "floor_ns": round(floor, 1),
        "over_floor": round(ns / floor, 2),
        "mib": round(size / (1 << 20), 1),
        "bytes_per_token": round(size / tokens, 1),
    }


def count_all(table: Any, x: np.ndarray) -> None:
    table.start(int(x[0]))
    for lo in range(1, len(x), CHUNK):
        table.count(x[lo : lo + CHUNK])


def table_row(x: np.ndarray, vocab: int, repeats: int, expected: int) -> dict[str, Any]:
    """Six orders (2..7): counts of token and context read in each, then counted."""
    costs, table = [], None
    for _ in range(repeats + 1):
        table = None
        table = tables().GramTable(vocab=vocab, max_order=ORDERS + 1, bytes=6 * GIB, expected_tokens=expected)
        costs.append(cost(lambda t=table: count_all(t, x), len(x)))
    assert table is not None
    return measured(costs, table.bytes, len(x)) | {"grams": table.grams, "rebuilds": table.rebuilds}


def slot_rows(x: np.ndarray, vocab: int) -> list[dict[str, Any]]:
    """Tables of 2^18 to 2^26 slots (eight to a line), each with the text that it is made for."""
    rows = []
    for log2 in range(18, 27):
        n = (1 << (log2 - 3)) * 96 // ((ORDERS + 1) * (vocab - 1).bit_length())
        if n <= len(x):
            rows.append({"slots_log2": log2} | table_row(x[:n], vocab, 1, n))
    return rows


def numpy_rows(x: np.ndarray) -> dict[str, float]:
    """The field's hashed cache by segment length: it reads and counts six orders, inexactly."""
    x, rows = x.astype(np.int64), {}
    for segment in SEGMENTS:
        n = min(len(x), 60_000 if segment == 64 else MILLION)
        cache, p = HashedCache(), np.full(segment, 0.01)

        def run(cache: HashedCache = cache, p: np.ndarray = p, n: int = n, segment: int = segment) -> None:
            for lo in range(8, n, segment):
                hi = min(lo + segment, n)
                cache.segment(x, lo, hi, p[: hi - lo])

        rows[str(segment)] = round(cost(run, n - 8), 1)
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


def hint_row(make: Callable[[int], Any], x: np.ndarray) -> dict[str, Any]:
    """An expert on hints: ``ns`` is propose (tables read and counted), ``score_ns`` the tilt and its learning."""
    costs, scores, core = [], [], None
    for _ in range(2):
        core = None
        core = make(len(x))
        core.begin(int(x[0]))
        made = scored = 0.0
        for lo in range(1, len(x), CHUNK):
            part = x[lo : lo + CHUNK]
            begin = time.thread_time()
            hints = core.propose(part)
            made += time.thread_time() - begin
            cands = np.ascontiguousarray(np.concatenate((part[:, None], hints), axis=1))
            p = np.full(cands.shape, 0.1)
            begin = time.thread_time()
            core.score(part, cands, 1, p, None)
            scored += time.thread_time() - begin
        costs.append(made / len(x) * 1e9)
        scores.append(scored / len(x) * 1e9)
    assert core is not None
    return measured(costs, core.bytes, len(x)) | {"score_ns": round(scores[-1], 1)}


def hint_rows(x: np.ndarray, vocab: int, roles: np.ndarray) -> dict[str, Any]:
    block = [0.0] * _native.count_buckets

    def agree(orders: list[int], words: list[int], document: list[int]) -> Callable[[int], Any]:
        theta = [block * len(orders)] * bool(orders) + [block] * (2 * len(words) + 2 * len(document))
        return lambda n: _native.Agree(
            vocab=vocab,
            orders=orders,
            words=words,
            document_words=document,
            roles=roles,
            bos=1,
            theta=theta,
            bytes=4 * GIB,
            expected_tokens=n,
        )

    nine = list(range(8, 17))
    makers = {
        "best_agree, token 16 and within-word": agree([16], [1], []),
        "best_agree, with two words": agree([16], [1, 2], []),
        "best_agree, default": agree([4, 8, 16], [1, 2], [1]),
        "tilt, nine orders": lambda n: _native.Tilt(
            vocab=vocab,
            orders=nine,
            min_share=[0.0] * 9,
            min_count=[1] * 9,
            fixed=-1.0,
            theta=[block * 9],
            bytes=4 * GIB,
            expected_tokens=n,
        ),
    }
    return {name: hint_row(make, x) for name, make in makers.items()}


def ppm_rows(x: np.ndarray, vocab: int) -> dict[str, float]:
    """The whole expert: from p of the target to p' of the target."""
    rng, orders = np.random.default_rng(0), list(range(1, ORDERS + 1))
    p, entropy, top = rng.uniform(1e-4, 1.0, (CHUNK, 1)), rng.uniform(0, 6, CHUNK), np.zeros(CHUNK, np.int32)
    cores = {
        "dirichlet 2..7": _native.DirichletPpm(
            vocab=vocab,
            orders=[2, 3, 4, 5, 6, 7],
            strength=[4.0] * 6,
            min_count=1,
            bytes=4 * GIB,
            expected_tokens=len(x),
        ),
        "learned, stream 1..6": _native.LearnedPpm(
            vocab=vocab,
            bos=1,
            orders=orders,
            document_orders=[],
            rate=0.3,
            side=False,
            bytes=4 * GIB,
            document_bytes=GIB,
            expected_tokens=len(x),
        ),
        "learned, both clocks, side": _native.LearnedPpm(
            vocab=vocab,
            bos=1,
            orders=orders,
            document_orders=orders,
            rate=0.3,
            side=True,
            bytes=4 * GIB,
            document_bytes=GIB,
            expected_tokens=len(x),
        ),
        "learned, continuations": _native.ContinuationPpm(
            vocab=vocab,
            bos=1,
            orders=orders,
            document_orders=orders,
            rate=0.3,
            side=True,
            bytes=4 * GIB,
            document_bytes=GIB,
            expected_tokens=len(x),
            fast=0.5,
            discount=0.7,
        ),
    }
    rows = {}
    for name, core in cores.items():
        core.begin(int(x[0]))

        def run(core: Any = core, learned: bool = name.startswith("learned")) -> None:
            for lo in range(1, len(x), CHUNK):
                part = x[lo : lo + CHUNK]
                n = len(part)
                core.score(part, part[:, None], p[:n], *((entropy[:n], top[:n]) if learned else ()))

        rows[name] = round(cost(run, len(x)), 1)
    return rows


def vocabulary(vocab: int, args: argparse.Namespace) -> dict[str, Any]:
    x, source, roles = tokens_of(vocab, args.tokens, args.text, args.tokenizer)
    print(f"V={vocab}: {len(x):,} tokens, {source}", flush=True)
    vocab = max(vocab, len(roles))
    sizes = sorted({n * MILLION for n in (1, 2, 4, 6, 8, 10) if n * MILLION < len(x)} | {len(x)})
    row: dict[str, Any] = {"text": source, "six_orders": []}
    for n in sizes:
        row["six_orders"].append(table_row(x[:n], vocab, args.repeats, n))
        print(json.dumps(row["six_orders"][-1]), flush=True)
    row["slots"] = slot_rows(x, vocab)
    row["grown_from_nothing"] = table_row(x[: 4 * MILLION], vocab, 1, 0)
    row["numpy_by_segment"] = numpy_rows(x[:MILLION])
    row["naive_python"] = naive_row(x[:50_000])
    row["ppm_on_2_million"] = ppm_rows(x[: 2 * MILLION], vocab)
    row["hints"] = {
        str(len(part)): hint_rows(part, vocab, roles) for part in {len(p): p for p in (x[:MILLION], x)}.values()
    }
    row["against_targets"] = against(row)
    print(json.dumps({k: v for k, v in row.items() if k not in ("six_orders", "slots")}, indent=1), flush=True)
    return row


def against(row: dict[str, Any]) -> dict[str, Any]:
    """What was asked of the largest text, what was measured, and whether that is met."""
    last, hints = row["six_orders"][-1], list(row["hints"].values())[-1]
    values = {
        "six orders over floor": last["over_floor"],
        "numpy over six orders": round(min(row["numpy_by_segment"].values()) / last["ns"], 1),
        **{f"{name}, ns": found["ns"] for name, found in hints.items()},
    }
    met = {"most": lambda a, b: a <= b, "least": lambda a, b: a >= b}
    return {
        name: {"asked": f"at {word} {limit:g}", "measured": values[name], "met": met[word](values[name], limit)}
        for name, (word, limit) in TARGETS.items()
    }


def plot(rows: dict[str, Any]) -> str:
    """Cost over length of the text, and its floor, for each vocabulary."""
    from evalkit.report.svg import Series, line_file

    series = []
    for vocab, row in rows.items():
        x = [r["tokens"] / 1e6 for r in row["six_orders"]]
        for name, key in (("six orders", "ns"), ("floor", "floor_ns")):
            series.append(Series(f"{name}, V={vocab}", x, [r[key] for r in row["six_orders"]]))
    return line_file(series, "million tokens", "CPU ns per token", level=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10 * MILLION)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vocab", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument(
        "--text", nargs="+", default=[], help="text files; else the shared training text, else synthetic"
    )
    parser.add_argument("--tokenizer", help="SentencePiece model for --text")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/tables.json")
    args = parser.parse_args()
    from evalkit.scoring.environment import environment

    known = json.loads(args.out.read_text("utf-8"))["vocabularies"] if args.out.is_file() else {}
    result: dict[str, Any] = {
        "command": "python -m benches.bench_tables",
        "unit": "CPU nanoseconds per token, one thread",
        "environment": environment("cpu"),
        "vocabularies": known,
    }
    for vocab in args.vocab:
        result["vocabularies"][str(vocab)] = vocabulary(vocab, args)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".svg").write_text(plot(result["vocabularies"]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
