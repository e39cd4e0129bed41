"""Does an expert whose memory is full stay within it?  Resident memory, measured from outside, against what was allowed.

    python -m benches.full_table [--memory-mib 1024]

Every expert with tables gets random tokens (nearly every n-gram is new) in a process of its own until it takes no more,
and a tenth on top.  ``grown_mib`` is the growth of the process's peak resident memory since just before the tables
were made; ``own_mib`` what the expert itself reports.  Writes benches/results/full_table.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

VOCAB = 1024
CHUNK = 8192
SPECS = {
    "ppm": "ppm:side=false,memory_mib={m}",
    "ppm, dirichlet": "ppm:escape=dirichlet,memory_mib={m}",
    "ppm, continuations": "ppm:counts=continuations,side=false,memory_mib={m}",
    "hedge": "hedge:memory_mib={m}",
    "backoff": "backoff:memory_mib={m}",
    "best_agree": "best_agree:memory_mib={m}",
    "tilt": "tilt:memory_mib={m}",
    "match": "match:memory_mib={m}",
}
ROOM_MIB = 8.0
"""What counts as noise: the chunk's own arrays, allocator slack."""


def resident_mib(field: str) -> float:
    """VmRSS or VmHWM of this process (Linux)."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit("resident memory is read from /proc/self/status, which this system does not have")


def begun(spec: str) -> Any:
    from evalkit.adapters.base import StreamInfo
    from evalkit.adapters.registry import parse_adapter

    expert = parse_adapter(spec)
    groups = {"word_start": np.arange(VOCAB) % 3 == 0, "control": np.arange(VOCAB) == 1}
    expert.begin(StreamInfo(VOCAB, 1, 1, groups=groups))
    return expert


def feed(expert: Any, tokens: np.ndarray) -> None:
    from evalkit.adapters.base import Side, TokenChunk
    from evalkit.adapters.stack import Stack

    hints = Stack([expert]).propose(tokens)
    cands = np.ascontiguousarray(np.concatenate((tokens[:, None], hints), axis=1))
    side = Side(masses={"word_start": np.full(len(tokens), 0.3)})
    expert.score(TokenChunk(tokens, cands, side), np.full(cands.shape, 0.01))


def full_at(expert: Any) -> int:
    return expert.full_at if hasattr(expert, "full_at") else expert.frozen_at


def measure(spec: str, memory_mib: int) -> dict[str, Any]:
    """Fill one expert in this process."""
    rng = np.random.default_rng(0)
    warm = begun(spec.replace(f"memory_mib={memory_mib}", "memory_mib=16"))
    feed(warm, rng.integers(0, VOCAB, CHUNK).astype(np.int32))
    del warm
    before, taken, limit = resident_mib("VmRSS"), 0, 400 * memory_mib * CHUNK
    expert = begun(spec)
    while full_at(expert) < 0 and taken < limit:
        feed(expert, rng.integers(2, VOCAB, CHUNK).astype(np.int32))
        taken += CHUNK
    for _ in range(max(1, taken // CHUNK // 10)):
        feed(expert, rng.integers(2, VOCAB, CHUNK).astype(np.int32))
    grown, own = resident_mib("VmHWM") - before, expert.state_bytes() / (1 << 20)
    return {
        "spec": spec,
        "allowed_mib": memory_mib,
        "full_at": full_at(expert),
        "own_mib": round(own, 1),
        "grown_mib": round(grown, 1),
        "within": grown <= memory_mib + ROOM_MIB,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-mib", type=int, default=1024)
    parser.add_argument("--spec", help="one expert, in this process; prints JSON")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/full_table.json")
    args = parser.parse_args()
    if args.spec:
        print(json.dumps(measure(args.spec, args.memory_mib)))
        return 0
    rows = []
    for name, spec in SPECS.items():
        command = [sys.executable, "-m", "benches.full_table", "--memory-mib", str(args.memory_mib)]
        command += ["--spec", spec.format(m=args.memory_mib)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"name": name} | json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
        content = {"command": f"python -m benches.full_table --memory-mib {args.memory_mib}", "rows": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(r["within"] and r["full_at"] >= 0 for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
