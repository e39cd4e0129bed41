"""What does the engine cost beyond the forward?  A model that is a look-up table, so that nothing but the engine is left.

    python -m benches.engine [--vocab 2048] [--targets 1000000] [--threads 1] [--adapter SPEC]... [--rounds 3]

Prints, and adds to benches/results/engine.json: microseconds per target by verb of the loop (processor time of this
process, so that other work on the machine counts little), beyond the forward in all, and as a ratio to torch's float32
logsumexp over rows of the same V in the same run.  With ``--threads`` above 1 it is the wall clock, so that other work
counts.  ``--kernels`` times the native pass over rows and log_bias alone, interleaved with torch's logsumexp.
``--bundled`` takes the bundled checkpoint and text in place of the table, its forward included: learners, stages on late
whole rows.

The text is synthetic: phrases drawn by Zipf's law, half of them repeated, in documents of a thousand tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
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
BEST = (
    "log_bias:global_prior=32,document_prior=3",
    "ppm:counts=continuations,fast=0.5",
    "match",
    "best_agree",
    "hedge",
)
"""The stack of recipes/experts.toml before ``ppm`` had ``decide``."""
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

    clock = time.process_time if threads == 1 else time.perf_counter
    loop.time = SimpleNamespace(perf_counter=clock, time=time.time)  # type: ignore[assignment]
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


def bundled(targets: int, specs: list[str]) -> dict[str, Any]:
    """Microseconds of processor time per target by verb: the bundled checkpoint on the first targets of its text, one thread."""
    from evalkit.cli.recipe import Recipe, RunSettings
    from evalkit.cli.session import open_parts
    from evalkit.scoring import loop
    from evalkit.scoring.score import ScoreOptions, score
    from evalkit.settings import split_spec

    loop.time = SimpleNamespace(perf_counter=time.process_time, time=time.time)  # type: ignore[assignment]
    recipe = Recipe(run=RunSettings(threads=1, limit_tokens=targets), adapters=[split_spec(s) for s in specs])
    model, stream, plan, adapters = open_parts(recipe)
    result = score(model, stream, adapters, plan, options=ScoreOptions(chunk_tokens=8192, save_scores=False))
    micro = {verb: 1e6 * s / stream.n_targets for verb, s in result.run["seconds"].items() if verb != "wall"}
    return {"stack": specs, "us": micro, "targets": stream.n_targets, "bpb": result.bpb}


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


LENGTHS = (100_000, 1_000_000, 10_000_000)
VOCABULARIES = (1024, 2048, 8192, 32_768, 152_064)


def curve(specs: list[str]) -> dict[str, Any]:
    """Microseconds beyond the forward, by length at V = 2048 and by vocabulary; ``specs`` and ``ppm`` alone."""
    points = [(2048, n) for n in LENGTHS] + [(v, 65_536 if v < 100_000 else 8192) for v in VOCABULARIES if v != 2048]
    found: list[dict[str, Any]] = []
    for name, stack in (("ppm", ["ppm"]), ("best", specs)):
        for vocab, targets in points:
            yardstick = torch_logsumexp(vocab)
            with tempfile.TemporaryDirectory(prefix="evalkit-engine-") as folder:
                one = run(vocab, targets, stack, 1, 8192, Path(folder) / "run")
            kept = {"stack": name, "vocab": vocab, "targets": targets, "us": one["us"], "torch_logsumexp_us": yardstick}
            kept |= {"beyond_forward": one["beyond_forward"], "ratio": one["beyond_forward"] / yardstick}
            found.append(kept)
            print(json.dumps(kept), file=sys.stderr, flush=True)
    RESULTS.with_name("engine_curve.svg").write_text(plot(found), encoding="utf-8")
    return {"points": found}


def plot(points: list[dict[str, Any]]) -> str:
    """Cost over length at V = 2048."""
    from evalkit.report.svg import COLOURS, Series, line_plot

    series = []
    for name in ("ppm", "best"):
        at = [p for p in points if p["stack"] == name and p["vocab"] == 2048]
        series.append(Series(name, [p["targets"] / 1e6 for p in at], [p["beyond_forward"] for p in at]))
    head = line_plot(series, "million targets", "CPU us per target", level=0.0).partition("</svg>")[0]
    key = "".join(
        f'<text x="{90 + 150 * i}" y="12" style="fill:{COLOURS[i]}">{s.name}</text>' for i, s in enumerate(series)
    )
    style = (
        "<style>text{font:11px sans-serif;fill:#222}.grid{stroke:#ddd}.zero{stroke:#888;stroke-dasharray:3 3}</style>"
    )
    return head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + style + key + "</svg>\n"


def rehearse(own: argparse.Namespace, specs: list[str]) -> dict[str, Any]:
    """Score, die by SIGKILL, resume, report; seconds, memory and sizes of both lives."""
    with tempfile.TemporaryDirectory(prefix="evalkit-rehearsal-") as folder:
        out, command = Path(folder) / "run", [sys.executable, "-m", "benches.engine", *sys.argv[1:], "--life", folder]
        begin = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        while child.poll() is None and _booked(out / "journal.jsonl") < 0.4 * own.targets:
            time.sleep(0.2)
        killed = child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        died, booked = time.perf_counter() - begin, _booked(out / "journal.jsonl")
        begin = time.perf_counter()
        second = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        lived = time.perf_counter() - begin
        sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir()) if path.is_file()}
        sizes["state"] = sum(path.stat().st_size for path in (out / "state").rglob("*") if path.is_file())
    told = json.loads(second.stdout.splitlines()[-1])
    lives = {"killed": killed, "booked_when_killed": booked, "first_life_seconds": died, "second_life_seconds": lived}
    return told | lives | {"file_bytes": sizes, "stack": specs}


def _booked(journal: Path) -> int:
    """Targets in it, by its last whole line."""
    if not journal.exists() or journal.stat().st_size < 1:
        return 0
    with journal.open("rb") as file:
        file.seek(max(0, journal.stat().st_size - (1 << 20)))
        lines = [line for line in file.read().split(b"\n")[:-1] if b'"hi":' in line]
    return int(lines[-1].partition(b'"hi":')[2].partition(b",")[0]) - 1 if lines else 0


def life(own: argparse.Namespace, specs: list[str]) -> dict[str, Any]:
    """One life of a rehearsal: open the text, score what is left, write the report."""
    import torch

    from evalkit import _native
    from evalkit.adapters.registry import parse_adapter
    from evalkit.legality.engine.setup import stream_of
    from evalkit.machine import peak_memory_bytes
    from evalkit.models.registry import open_checkpoint
    from evalkit.plan import parse_plan
    from evalkit.report.html import write_report
    from evalkit.scoring.score import ScoreOptions, score
    from evalkit.stream import open_stream, open_tokenizer

    _native.keep_large_blocks()
    torch.set_num_threads(own.threads)
    begin = time.perf_counter()
    if own.text:
        tokenizer = open_tokenizer(open_checkpoint(None, device="cpu").tokenizer_model)
        stream: Any = open_stream(own.text, tokenizer, limit_targets=own.targets)
    else:
        stream = stream_of(text(own.vocab, own.targets).astype(np.int64), Words(own.vocab))
    opened = time.perf_counter() - begin
    options = ScoreOptions(chunk_tokens=65_536, batch_tokens=own.batch_tokens)
    plan, adapters = parse_plan("disjoint:seq_len=256"), [parse_adapter(s) for s in specs]
    model = Table(stream.tokenizer.vocab_size)
    result = score(model, stream, adapters, plan, out=Path(own.life) / "run", options=options)
    begin = time.perf_counter()
    page = write_report(result, stream)
    reported = time.perf_counter() - begin
    record = result.record
    return {
        "complete": record.complete,
        "targets": record.totals.targets,
        "documents": record.documents,
        "bpb": record.totals.bpb,
        "resumed_chunks": record.resumed_chunks,
        "seconds": record.seconds,
        "opening_seconds": opened,
        "report_seconds": reported,
        "report_bytes": page.stat().st_size,
        "cpu_seconds": time.process_time(),
        "peak_memory_bytes": peak_memory_bytes(),
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
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--bundled", action="store_true")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--life", help=argparse.SUPPRESS)
    own = parser.parse_args()
    specs = own.adapter or list(BEST)
    if own.life:
        print(json.dumps(life(own, specs)), flush=True)
        os._exit(0)
    if own.curve:
        name, found = "curve", curve(specs)
    elif own.rehearse:
        kind = "real" if own.text else "synthetic"
        name, found = f"rehearsal, {'|'.join(specs)}, {own.targets} {kind} targets", rehearse(own, specs)
    elif own.bundled:
        name, found = f"bundled, {'|'.join(specs)}, {own.targets} targets", bundled(own.targets, specs)
    elif own.kernels:
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
    said = [Path(word).name if word in own.text else word for word in sys.argv[1:]]
    known[name] = {
        "command": " ".join(["python -m benches.engine", *said]),
        "environment": environment("cpu"),
    } | found
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
