"""What does the engine cost beyond the forward?  A model that is a look-up table, so that nothing but the engine is left.

    python -m benches.engine [--vocab 2048] [--targets 1000000] [--threads 1] [--adapter SPEC]... [--rounds 3]

Prints, and adds to benches/results/engine.json: microseconds per target by verb of the loop (processor time of this
process, so that other work on the machine counts little), beyond the forward in all, and as a ratio to torch's float32
logsumexp over rows of the same V in the same run.  ``--kernels`` times the native pass over rows and log_bias alone,
interleaved with torch's logsumexp.

The text is synthetic: phrases drawn by Zipf's law, half of them repeated, in documents of a thousand tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

RESULTS = Path(__file__).parent / "results" / "engine.json"
BOS = 1
BEST = ("log_bias", "ppm:counts=continuations,fast=0.5", "match", "best_agree", "hedge")
TABLE_CELLS = 1 << 24
"""Logits of the table, at most: 64 MiB."""


class Words:
    """A tokenizer of V pieces that only describes them: pad, BOS, and words of their number."""

    name, bos_id, model_bytes = "words", BOS, b"words"

    def __init__(self, vocab: int) -> None:
        from evalkit.stream.pieces import PieceTable
        from evalkit.stream.spmodel import PieceKind

        texts = [b"", b"", *(f" w{i}".encode() for i in range(2, vocab))]
        kinds = [PieceKind.CONTROL] * 2 + [PieceKind.NORMAL] * (vocab - 2)
        self.pieces = PieceTable.build(texts, kinds, leading_space_is_free=True)
        self.vocab_size, self.fingerprint = vocab, f"words{vocab}"

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        raise NotImplementedError("this tokenizer only describes pieces")


class Table:
    """Logits of the next token by the last one (modulo the table's rows), float32 [R, V]."""

    max_seq_len, can, tokenizer_model, module = None, frozenset[str](), None, None

    def __init__(self, vocab: int, seed: int = 0) -> None:
        import torch

        rng = np.random.default_rng(seed)
        rows = max(1, min(vocab, TABLE_CELLS // vocab))
        zipf = -np.log(np.arange(2, vocab + 2, dtype=np.float32))
        logits = zipf + rng.standard_normal((rows, vocab), dtype=np.float32) * 2.0
        self.table = torch.from_numpy(logits.astype(np.float32))
        self.vocab_size, self.fingerprint, self.device = vocab, f"table{vocab}-{seed}", torch.device("cpu")

    def logits(self, ids: Any, owners: Any = None) -> Any:
        return self.table[ids % len(self.table)]


def text(vocab: int, targets: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Phrases of 2 to 9 tokens; every second one was said before, the recent more often."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(2, vocab)
    fresh = rng.choice(np.arange(2, vocab), size=targets + 1, p=weights / weights.sum()).astype(np.int32)
    at, out = 16, fresh
    while at < len(out):
        size = int(rng.integers(2, 10))
        if rng.random() < 0.5:
            back = int(min(at, rng.exponential(20_000.0) + size))
            piece = out[at - back : at - back + size].copy()
            out[at : at + size] = piece[: len(out) - at]
        at += size
    out[::1000] = BOS
    return out


def run(vocab: int, targets: int, specs: list[str], threads: int, batch: int, out: Path | None) -> dict[str, Any]:
    import torch

    from evalkit import _native
    from evalkit.adapters.registry import parse_adapter
    from evalkit.legality.engine.setup import stream_of
    from evalkit.plan import parse_plan
    from evalkit.scoring import loop
    from evalkit.scoring.score import ScoreOptions, score

    loop.time = SimpleNamespace(perf_counter=time.process_time, time=time.time)  # type: ignore[assignment]
    _native.keep_large_blocks()
    torch.set_num_threads(threads)
    stream = stream_of(text(vocab, targets).astype(np.int64), Words(vocab))
    adapters = [parse_adapter(s) for s in specs]
    options = ScoreOptions(chunk_tokens=65_536, batch_tokens=batch, save_scores=False)
    begin = time.perf_counter()
    result = score(Table(vocab), stream, adapters, parse_plan("disjoint:seq_len=256"), out=out, options=options)
    wall = time.perf_counter() - begin
    micro = {verb: 1e6 * s / targets for verb, s in result.run["seconds"].items() if verb != "wall"}
    beyond = sum(s for verb, s in micro.items() if verb != "forward")
    return {"us": micro, "beyond_forward": beyond, "wall_seconds": wall, "bpb": result.bpb, "stages": len(specs)}


def torch_logsumexp(vocab: int) -> float:
    """Microseconds a row, one thread, median of 15; rows as many as fit 2 MiB."""
    import torch

    torch.set_num_threads(1)
    rows = torch.randn(max(1, (1 << 19) // vocab), vocab) * 4.0
    taken = []
    for _ in range(15):
        begin = time.thread_time()
        torch.logsumexp(rows, -1)
        taken.append(1e6 * (time.thread_time() - begin) / len(rows))
    return statistics.median(taken)


def kernels(vocab: int, rounds: int = 31) -> dict[str, Any]:
    """Medians of microseconds a row, and of ratios to torch's logsumexp taken just before."""
    import torch

    from evalkit import _native

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    n = max(64, (1 << 19) // vocab)
    logits = (rng.standard_normal((n, vocab)) * 4.6).astype(np.float32)
    tensor = torch.from_numpy(logits)
    lse, *_, weights, factors = _native.row_sums(logits, weights=True)
    tokens = rng.integers(2, vocab, n).astype(np.int32)
    bias = _native.LogBias(
        vocab=vocab,
        bos=BOS,
        stride=16,
        fisher=True,
        rate=0.03,
        global_prior=16.0,
        document_prior=5.0,
        previous_prior=0.0,
        keep=0.0,
        bytes=0,
    )
    bias.begin(first_token=0)
    cands = tokens[:, None].copy()
    work = {f"row_sums {isa}": lambda isa=isa: _native.row_sums(logits, isa=isa) for isa in _native.row_isas()}
    work["row_sums with weights"] = lambda: _native.row_sums(logits, weights=True)
    work["row_probabilities"] = lambda: _native.row_probabilities(logits, lse=lse, floor=1e-300)
    for isa in _native.row_isas():
        work[f"log_bias {isa}"] = lambda isa=isa: bias.score_columns(
            tokens=tokens, cands=cands, rows=weights, factors=factors, isa=isa
        )
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            begin = time.thread_time()
            torch.logsumexp(tensor, -1)
            middle = time.thread_time()
            call()
            taken[name].append((middle - begin, time.thread_time() - middle))
    return {
        name: {
            "us": 1e6 * statistics.median(own for _, own in times) / n,
            "ratio": statistics.median(own / theirs for theirs, own in times),
        }
        for name, times in taken.items()
    }


def main() -> int:
    from evalkit.scoring.environment import environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--kernels", action="store_true")
    own = parser.parse_args()
    specs = own.adapter or list(BEST)
    if own.kernels:
        name, found = f"kernels, V={own.vocab}", kernels(own.vocab)
    else:
        yardstick, runs = [], []
        with tempfile.TemporaryDirectory(prefix="evalkit-engine-") as folder:
            for i in range(own.rounds):
                yardstick.append(torch_logsumexp(own.vocab))
                runs.append(run(own.vocab, own.targets, specs, own.threads, own.batch_tokens, Path(folder) / str(i)))
        middle = sorted(runs, key=lambda r: r["beyond_forward"])[len(runs) // 2]
        ratios = [r["beyond_forward"] / y for r, y in zip(runs, yardstick, strict=True)]
        name = f"{'|'.join(specs)}, V={own.vocab}, {own.targets} targets, {own.threads} threads"
        found = middle | {"torch_logsumexp_us": statistics.median(yardstick), "ratio": statistics.median(ratios)}
    print(name, json.dumps(found, indent=1))
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known[name] = {
        "command": " ".join(["python -m benches.engine", *sys.argv[1:]]),
        "environment": environment("cpu"),
    } | found
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
