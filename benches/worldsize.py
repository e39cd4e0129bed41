"""Does the number of ranks show?  The same recipe on 1, 2, 3, 4 and 8 ranks: scores bit by bit, seconds, overlap.

    python -m benches.worldsize [--targets 1000000] [--ranks 1 2 3 4 8] [-- FLAGS OF evalkit eval]

Scores of every target and stage and the rows of every document are compared.  ``sequencer_share`` is what the sequencer
added: wall seconds over the busiest rank's forward seconds, minus one.  Writes benches/results/worldsize.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def evaluate(out: Path, ranks: int, flags: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "evalkit", "eval", *flags, "--out", str(out), "--threads", "1"]
    command += ["--nproc", str(ranks)] if ranks > 1 else []
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ, check=False
    )
    if done.returncode:
        raise SystemExit(f"{ranks} ranks: exit code {done.returncode}\n{done.stderr}")
    return json.loads((out / "run.json").read_text())


def documents(out: Path) -> dict[str, list[Any]]:
    from evalkit.scoring.result import read_documents

    return read_documents(out)


def compare(out: Path, ranks: int, run: dict[str, Any], first: Path, base: dict[str, Any]) -> dict[str, Any]:
    busy = [r["busy_seconds"] for r in run.get("ranks", [])] or [run["seconds"]["forward"]]
    wall = run["seconds"]["wall"]
    return {
        "ranks": ranks,
        "same_totals": run["totals"] == base["totals"],
        "same_documents": documents(out) == documents(first),
        "same_scores": (out / "scores.f64").read_bytes() == (first / "scores.f64").read_bytes(),
        "wall": wall,
        "forward_busy": busy,
        "experts": run["seconds"].get("experts", 0.0) + run["seconds"].get("propose", 0.0),
        "sequencer_share": wall / max(busy) - 1.0 if ranks > 1 else None,
        "units": [r["units"] for r in run.get("ranks", [])],
        "totals": run["totals"],
        "stages": [s["adapter"] for s in run["stages"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4, 8])
    parser.add_argument("--name", default="worldsize")
    own, flags = parser.parse_known_args()
    flags = [f for f in flags if f != "--"] + ["--limit-tokens", str(own.targets)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="evalkit-ranks-") as name:
        first, base = Path(name) / f"r{own.ranks[0]}", None
        for ranks in own.ranks:
            out = Path(name) / f"r{ranks}"
            run = evaluate(out, ranks, flags)
            base = base or run
            rows.append(compare(out, ranks, run, first, base))
            print(json.dumps(rows[-1]), flush=True)
            words = [Path(f).name if "/" in f else f for f in flags]
            report = {"flags": words, "targets": own.targets, "environment": base["environment"], "rows": rows}
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{own.name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if all(r["same_totals"] and r["same_documents"] and r["same_scores"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
