"""What do the experts add to the forward, when they run beside it?  Interleaved runs with and without them.

    python -m benches.overlap [--targets 200000] [--ranks 2] [--rounds 3] [FLAGS OF evalkit eval]

Writes benches/results/overlap.json: walls of each round, the ratio of medians, the sequencer's own busy seconds, and
``on_spans``: wall over the forward seconds of the busiest rank of the same run, minus one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benches.worldsize import RESULTS, evaluate

HOST = ("propose", "gather", "experts", "book", "journal", "sentinel")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=200_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    own, flags = parser.parse_known_args()
    flags = [f for f in flags if f != "--"] + ["--limit-tokens", str(own.targets)]
    walls: dict[str, list[float]] = {"without": [], "with": []}
    host, on_spans = list[float](), {kind: list[float]() for kind in walls}
    run: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="evalkit-overlap-") as name:
        for turn in range(own.rounds):
            for kind, stack in (("without", ["--adapter", "none"]), ("with", [])):
                run = evaluate(Path(name) / f"{kind}{turn}", own.ranks, [*flags, *stack])
                walls[kind].append(run["seconds"]["wall"])
                busiest = max(rank["busy_seconds"] for rank in run["ranks"])
                on_spans[kind].append(run["seconds"]["wall"] / busiest - 1.0)
                if kind == "with":
                    host.append(sum(run["seconds"].get(verb, 0.0) for verb in HOST))
                print(kind, walls[kind][-1], f"{on_spans[kind][-1]:.4f}", flush=True)
    ratio = statistics.median(walls["with"]) / statistics.median(walls["without"])
    words = [Path(w).name if "/" in w else w for w in sys.argv[1:]]
    report = {
        "command": " ".join(["python -m benches.overlap", *words]),
        "environment": run["environment"],
        "adapters": run["settings"]["adapters"],
        "targets": own.targets,
        "ranks": own.ranks,
        "walls": walls,
        "sequencer": host,
        "on_spans": on_spans,
        "ratio": ratio,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overlap.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"with experts / without: {ratio:.4f}")
    return 0 if ratio < 1.05 else 1


if __name__ == "__main__":
    sys.exit(main())
