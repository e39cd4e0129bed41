"""What is lost when ranks die?  Runs with a random rank hit by a random signal at a random time, resumed on a random
number of ranks, until complete.  Every total must be the same, and no process may be left.

    python -m benches.chaos [--runs 50] [--seed 0]

Writes benches/results/chaos.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FLAGS = "--tokenizer byte --plan sliding:seq_len=48,stride=16 --chunk-tokens 256 --batch-tokens 400 --threads 1"
STACK = "--adapter full_ttt:chunk=256,lr=0.05,seq_len=32,batch=4 --adapter ppm --hang-seconds 4"
SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
ATTEMPTS = 12


def make_subject(folder: Path, documents: int) -> list[str]:
    """A random checkpoint and a text; returns the command without --out and --nproc."""
    import torch

    from evalkit.models.golf import GolfGPT, GolfOptions

    torch.manual_seed(0)
    shape = {"vocab": 260, "width": 48, "layers": 3, "heads": 2, "kv_heads": 1, "hidden": 96}
    model = GolfGPT(shape, GolfOptions(), tied=True)
    torch.nn.init.normal_(model.tok_emb.weight, std=0.3)
    torch.save(model.state_dict(), folder / "model.pt")
    lines = (json.dumps({"text": f"Record {i}: value {i * i % 97} for key {i % 13}."}) for i in range(documents))
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = ["--checkpoint", str(folder / "model.pt"), "--text", str(folder / "text.jsonl")]
    return [sys.executable, "-m", "evalkit", "eval", *own, *FLAGS.split(), *STACK.split()]


def start(command: list[str], out: Path, ranks: int, mark: str) -> subprocess.Popen[str]:
    more = ["--out", str(out), *(["--nproc", str(ranks)] if ranks > 1 else [])]
    environ = {**os.environ, "EVALKIT_CHAOS": mark, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=pipe, text=True, env=environ)


def living(mark: str) -> dict[int, int]:
    """Process id -> rank (-1: the launcher or a run without ranks) of what a job started and is still there."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ValueError):
            continue
        if f"EVALKIT_CHAOS={mark}" in environ:
            ranks = [int(e[5:]) for e in environ if e.startswith("RANK=")]
            found[int(folder.name)] = ranks[0] if ranks else -1
    return found


def booked(out: Path) -> int:
    journal = out / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def hit(process: subprocess.Popen[str], mark: str, out: Path, chunks: int, rng: random.Random) -> dict[str, Any]:
    """Wait until a random share of what is left is booked (or a random moment of the start), then strike."""
    goal = booked(out) + rng.randrange(0, max(1, (chunks - booked(out)) * 2 // 3))
    while process.poll() is None and booked(out) < goal:
        time.sleep(0.02)
    time.sleep(rng.random() * 0.3)
    there = living(mark)
    if process.poll() is not None or not there:
        return {"signal": None}
    pid = rng.choice(sorted(there))
    number = rng.choice(SIGNALS)
    if there[pid] == -1 and number == signal.SIGSTOP:
        number = signal.SIGKILL  # nobody watches over a launcher that is stopped by hand
    os.kill(pid, number)
    return {"signal": number.name, "rank": there[pid], "at_chunk": booked(out), "hit_at": time.monotonic()}


def orphans(mark: str, patience: float = 12.0) -> int:
    """Processes left ``patience`` seconds after the job ended; they are ended here."""
    give_up = time.monotonic() + patience
    while (left := living(mark)) and time.monotonic() < give_up:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


def one_run(number: int, command: list[str], folder: Path, whole: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Two strikes at most, then to the end."""
    out, attempts, began = folder / f"run{number}", list[dict[str, Any]](), time.monotonic()
    for attempt in range(ATTEMPTS):
        ranks, mark = rng.choice((1, 2, 3, 4)), f"{os.getpid()}-{number}-{attempt}"
        start_time = time.monotonic()
        process = start(command, out, ranks, mark)
        strike = hit(process, mark, out, whole["chunks"], rng) if attempt < 2 else {"signal": None}
        _, said = process.communicate(timeout=600)
        seconds = time.monotonic() - start_time
        stopped = time.monotonic() - strike.pop("hit_at", time.monotonic())
        told = [line for line in said.splitlines() if line.startswith("evalkit: ")]
        entry = {"ranks": ranks, **strike, "code": process.returncode, "said": told, "seconds": round(seconds, 2)}
        attempts.append(entry | {"seconds_to_end": round(stopped, 2), "orphans": orphans(mark)})
        if process.returncode == 0 and (out / "run.json").exists():
            run = json.loads((out / "run.json").read_text())
            if run["complete"]:
                break
    same = run["totals"] == whole["totals"] and (out / "scores.f64").read_bytes() == whole["scores"]
    return {"run": number, "same": same, "seconds": round(time.monotonic() - began, 2), "attempts": attempts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--documents", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, rows = random.Random(args.seed), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="evalkit-chaos-") as name:
        folder = Path(name)
        command = make_subject(folder, args.documents)
        began = time.monotonic()
        assert start(command, folder / "whole", 1, "whole").wait() == 0
        run = json.loads((folder / "whole" / "run.json").read_text())
        scores = (folder / "whole" / "scores.f64").read_bytes()
        whole = {"totals": run["totals"], "scores": scores, "chunks": booked(folder / "whole")}
        alone = time.monotonic() - began
        for number in range(args.runs):
            rows.append(one_run(number, command, folder, whole, rng))
            print(json.dumps(rows[-1]), flush=True)
            write(rows, alone, whole["chunks"])
    return 0 if all(r["same"] and not any(a["orphans"] for a in r["attempts"]) for r in rows) else 1


def write(rows: list[dict[str, Any]], alone: float, chunks: int) -> None:
    hits = [a for r in rows for a in r["attempts"] if a["signal"]]
    ends = {
        name: [a["seconds_to_end"] for a in hits if a["signal"] == name] for name in sorted({a["signal"] for a in hits})
    }
    summary = {
        "runs": len(rows),
        "same_bits": sum(r["same"] for r in rows),
        "strikes": len(hits),
        "orphans": sum(a["orphans"] for r in rows for a in r["attempts"]),
        "messages_per_strike": sorted({len(a["said"]) for a in hits}),
        "undisturbed_seconds": round(alone, 2),
        "chunks": chunks,
        "seconds_from_strike_to_end": {k: _spread(v) for k, v in ends.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "chaos.json").write_text(
        json.dumps({"summary": summary, "runs": rows}, indent=1) + "\n", encoding="utf-8"
    )


def _spread(values: list[float]) -> dict[str, float]:
    return {"n": len(values), "median": statistics.median(values), "worst": max(values)}


if __name__ == "__main__":
    sys.exit(main())
